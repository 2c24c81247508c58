"""Forward and training step of a model with adapters against the untouched upstream class, in one process.

    python benchmarks/forward.py [--write] [--size tiny|middle] [--rounds 60]

Two sizes: at the tiny one (hidden 64, 4 layers, 1 x 8 tokens) the cost of Python shows, at the middle one (hidden 512, 8
layers, 4 x 128 tokens) that of arithmetic. Beside seconds stands the number of aten operators that one call dispatches, which
does not depend on the machine. Where `peft` is installed, its LoRA on the same modules runs in the same rounds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from measure import count_ops, interleaved, median_ratio
from transformers import LlamaConfig, LlamaModel

Model = torch.nn.Module


@dataclass(frozen=True)
class Size:
    hidden: int
    layers: int
    batch: int
    tokens: int
    repeats: int  # calls per turn: enough of them that a turn is long against the clock

    def model(self) -> LlamaModel:
        config = LlamaConfig(
            vocab_size=1000,
            hidden_size=self.hidden,
            intermediate_size=4 * self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=8,
            num_key_value_heads=8,
            use_cache=False,
        )
        torch.manual_seed(0)
        return LlamaModel(config)

    def inputs(self) -> torch.Tensor:
        return torch.randint(3, 1000, (self.batch, self.tokens), generator=torch.Generator().manual_seed(1))


SIZES = {
    "tiny": Size(hidden=64, layers=4, batch=1, tokens=8, repeats=10),
    "middle": Size(hidden=512, layers=8, batch=4, tokens=128, repeats=1),
}


def initialised(model: LlamaModel) -> Model:
    import adapter_models  # here: methods.py uses this module in environments without it

    adapter_models.init(model)
    return model


def with_adapter(config: str, active: bool = True) -> Callable[[LlamaModel], Model]:
    def build(model: LlamaModel) -> Model:
        initialised(model)
        model.add_adapter("a", config=config)  # type: ignore[operator]
        if active:
            model.train_adapter("a")  # type: ignore[operator]
        return model

    return build


def peft_lora(model: LlamaModel) -> Model:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=8, lora_alpha=8, target_modules=["q_proj", "v_proj"]))


CANDIDATES: dict[str, Callable[[LlamaModel], Model]] = {
    "inactive (`init` only)": initialised,
    "inactive (a seq_bn added)": with_adapter("seq_bn", active=False),
    "seq_bn": with_adapter("seq_bn"),
    "LoRA": with_adapter("lora"),
    "flat prefix": with_adapter("prefix_tuning_flat"),
}
if find_spec("peft"):
    CANDIDATES["LoRA of the installed PEFT"] = peft_lora


def models(size: Size) -> dict[str, Model]:
    """The untouched model and one per candidate, all with the same base weights."""
    upstream = size.model()
    built = {name: build(copy.deepcopy(upstream)) for name, build in CANDIDATES.items()}
    return {"upstream": upstream, **built}


def forward_call(model: Model, inputs: torch.Tensor) -> Callable[[], object]:
    model.eval()

    def call() -> object:
        with torch.no_grad():
            return model(inputs)

    return call


def training_call(model: Model, inputs: torch.Tensor) -> Callable[[], object]:
    """One step of SGD on what is trainable: everything for upstream and the inactive ones, else the adapter alone."""
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-6)

    def call() -> None:
        optimizer.zero_grad()
        model(inputs).last_hidden_state.mean().backward()
        optimizer.step()

    return call


def measure(size: Size, rounds: int) -> dict[str, dict[str, tuple[float, int]]]:
    """Kind of call -> candidate -> (ratio of seconds to upstream's, dispatched operators)."""
    inputs = size.inputs()
    results = {}
    for kind, make in (("forward", forward_call), ("training step", training_call)):
        calls = {name: make(model, inputs) for name, model in models(size).items()}
        times = interleaved(calls, rounds, warmup=3, repeats=size.repeats)
        results[kind] = {
            name: (median_ratio(times[name], times["upstream"]), count_ops(call)) for name, call in calls.items()
        }
    return results


def rows_of(name: str, rounds: int) -> list[list[str]]:
    results = measure(SIZES[name], rounds)
    rows = []
    for candidate, (ratio, ops) in results["forward"].items():
        step_ratio, step_ops = results["training step"][candidate]
        rows.append([candidate, f"{ratio:.2f}", str(ops), f"{step_ratio:.2f}", str(step_ops)])
    return rows


HEAD = ["", "Forward, seconds", "Forward, ops", "Step, seconds", "Step, ops"]


def main() -> None:
    from report import parser, publish, table

    arguments = parser(__doc__ or "")
    arguments.add_argument("--size", choices=SIZES, action="append", help="default: both")
    arguments.add_argument("--rounds", type=int, default=60)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    for name in options.size or SIZES:
        rounds = options.rounds if name == "tiny" else max(3, options.rounds // 4)
        publish(f"forward {name}", table(HEAD, rows_of(name, rounds)), options.write)


if __name__ == "__main__":
    main()
