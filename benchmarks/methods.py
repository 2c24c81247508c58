"""Every method, and Parallel, beside `adapters` 1.3.0 and `peft`, each as a ratio to its own upstream.

    python benchmarks/methods.py --against OTHER_PYTHON [--write] [--size tiny|middle] [--rounds 20]

OTHER_PYTHON is the interpreter of an environment with `adapters` 1.3.0, its transformers 4.57, and `peft`. The same script
runs in both environments, in turn: what it does with a model is written once, because the names are the same. One row per
method: aten operators of one forward, and seconds of a forward and of a training step, over those of the untouched model in
the same process.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from forward import SIZES, Size, forward_call, training_call
from measure import count_ops, interleaved, median_ratio

Ratios = dict[str, dict[str, float]]  # candidate -> "ops", "forward", "step" -> over upstream

# What a user writes in both libraries: the configs of adapters a and b, and how they are active.
METHODS: dict[str, str] = {
    "seq_bn": "seq_bn",
    "double_seq_bn": "double_seq_bn",
    "par_bn": "par_bn",
    "compacter": "compacter",
    "seq_bn_inv": "seq_bn_inv",
    "LoRA": "lora",
    "DoRA": "dora",
    "IA3": "ia3",
    "VeRA": "vera",
    "MTL-LoRA": "mtl_lora",
    "prefix": "prefix_tuning",
    "flat prefix": "prefix_tuning_flat",
    "LoReFT": "loreft",
    "NoReFT": "noreft",
    "UniPELT": "unipelt",
    "MAM": "mam",
}
BLOCKS: dict[str, tuple[str, str]] = {
    "Parallel of two seq_bn": ("seq_bn", "Parallel"),
    "Stack of two seq_bn": ("seq_bn", "Stack"),
    "Average of two seq_bn": ("seq_bn", "Average"),
    "Fuse of two seq_bn": ("seq_bn", "Fuse"),
    "Parallel of two LoRA": ("lora", "Parallel"),
}
PEFT = {"LoRA": "LoraConfig", "DoRA": "LoraConfig", "IA3": "IA3Config", "VeRA": "VeraConfig"}


def adapted(library: Any, model: Any, config: str, block: str | None = None) -> Any:
    library.init(model)
    names = ["a"] if block is None else ["a", "b"]
    for name in names:
        model.add_adapter(name, config=config)
    if block is None:
        model.train_adapter("a")
        return model
    setup = getattr(library.composition, block)(*names)
    if block == "Fuse":
        model.add_adapter_fusion(setup)
        model.train_adapter_fusion(setup)
    else:
        model.train_adapter(setup)
    return model


def in_peft(model: Any, name: str) -> Any:
    peft = importlib.import_module("peft")
    options: dict[str, Any] = {"target_modules": ["q_proj", "v_proj"], "r": 8}
    if name == "IA3":
        options = {"target_modules": ["k_proj", "v_proj", "up_proj"], "feedforward_modules": ["up_proj"]}
    if name in ("LoRA", "DoRA"):
        options |= {"lora_alpha": 8, "use_dora": name == "DoRA"}
    return peft.get_peft_model(model, getattr(peft, PEFT[name])(**options))


def builders(library_name: str) -> dict[str, Callable[[Any], Any]]:
    if library_name == "peft":
        return {name: lambda model, name=name: in_peft(model, name) for name in PEFT}  # type: ignore[misc]
    library = importlib.import_module(library_name)
    importlib.import_module(f"{library_name}.composition")
    plain = {name: lambda model, c=config: adapted(library, model, c) for name, config in METHODS.items()}  # type: ignore[misc]
    blocks = {
        name: lambda model, c=config, b=block: adapted(library, model, c, b)  # type: ignore[misc]
        for name, (config, block) in BLOCKS.items()
    }
    return {**plain, **blocks}


def built(library_name: str, upstream: Any) -> dict[str, Any]:
    """The candidates of a library; those that it refuses or fails on are left out."""
    models: dict[str, Any] = {}
    for name, build in builders(library_name).items():
        try:
            model = build(copy.deepcopy(upstream))
            with torch.no_grad():
                model(torch.randint(3, 1000, (2, 8)))
            models[name] = model
        except Exception as error:
            print(f"{library_name}: {name}: {type(error).__name__}: {error}"[:300], file=sys.stderr)
    return models


def measure(library_name: str, size: Size, rounds: int) -> Ratios:
    upstream, inputs = size.model(), size.inputs()
    models = {"upstream": upstream, **built(library_name, upstream)}
    ratios: Ratios = {name: {} for name in models}
    for kind, make in (("forward", forward_call), ("step", training_call)):
        calls = {name: make(model, inputs) for name, model in models.items()}
        if kind == "forward":
            operators = {name: count_ops(call) for name, call in calls.items()}
            for name, count in operators.items():
                ratios[name]["ops"] = count / operators["upstream"]
        times = interleaved(calls, rounds, warmup=2, repeats=size.repeats)
        for name in models:
            ratios[name][kind] = median_ratio(times[name], times["upstream"])
        ratios["upstream"][f"{kind} in ms"] = 1000 * statistics.median(times["upstream"])
    return ratios


def in_process(python: str, library_name: str, size: str, rounds: int) -> Ratios:
    command = [python, __file__, "--library", library_name, "--size", size, "--rounds", str(rounds)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    sys.stderr.write("".join(line for line in result.stderr.splitlines(True) if line.startswith(library_name)))
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {result.returncode}:\n{result.stderr}")
    return json.loads(result.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def side_by_side(against: str, size: str, rounds: int, turns: int = 2) -> list[list[str]]:
    """A row per method: ops, forward and step of ours, of `adapters` and of peft."""
    processes = {
        "ours": (sys.executable, "adapter_models"),
        "adapters": (against, "adapters"),
        "peft": (against, "peft"),
    }
    runs: dict[str, list[Ratios]] = {name: [] for name in processes}
    for _ in range(turns):
        for name, (python, library_name) in processes.items():
            runs[name].append(in_process(python, library_name, size, max(1, rounds // turns)))
    rows = []
    for method in [*METHODS, *BLOCKS]:
        cells = [_cells(found, method) for found in runs.values()]
        rows.append([method, *(cells[owner][kind] for kind in range(3) for owner in range(len(cells)))])
    shown = [f"{statistics.median(run['upstream'][f'{kind} in ms'] for run in found):.1f} ms"
             for kind in ("forward", "step") for found in runs.values()]  # fmt: skip
    return [["its own upstream", *[""] * len(runs), *shown], *rows]


def _cells(runs: list[Ratios], method: str) -> list[str]:
    found = [run[method] for run in runs if method in run]
    if not found:
        return [""] * 3
    return [f"{statistics.median(run[kind] for run in found):.2f}" for kind in ("ops", "forward", "step")]


HEAD = [
    "",
    "Ops",
    "`adapters`",
    "PEFT",
    "Forward, seconds",
    "`adapters`",
    "PEFT",
    "Step, seconds",
    "`adapters`",
    "PEFT",
]


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    arguments.add_argument("--against", help="interpreter of an environment with adapters 1.3.0 and peft")
    arguments.add_argument("--library", help="measure this library alone, here, and print JSON")
    arguments.add_argument("--size", choices=SIZES, default="middle")
    arguments.add_argument("--rounds", type=int, default=20)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    if options.library:
        print(json.dumps(measure(options.library, SIZES[options.size], options.rounds)))
    elif options.against:
        from report import publish, table  # not in the other environment

        rows = side_by_side(options.against, options.size, options.rounds)
        publish(f"methods {options.size}", table(HEAD, rows), options.write)
    else:
        arguments.error("name the other environment: --against PYTHON")


if __name__ == "__main__":
    main()
