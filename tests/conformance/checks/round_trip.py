"""Saving and loading is lossless, and a damaged file is refused with a clear error that leaves the model as it was."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn

from conformance.adapted import FIRST, adapted, initialised, state, structure
from conformance.methods import Method
from conformance.outputs import assert_bitwise, run
from conformance.subjects import Subject

WEIGHTS = "adapter.safetensors"
CONFIG = "adapter_config.json"


def saved_is_loaded(subject: Subject, method: Method) -> None:
    """Into a fresh model, by safetensors: the same tensors and bitwise the same outputs."""
    model = adapted(subject, method)
    inputs = subject.padded_inputs("left" if subject.text else "none")
    with tempfile.TemporaryDirectory() as folder:
        model.save_adapter(folder, FIRST)
        if set(load_file(Path(folder, WEIGHTS))) != {name for name in model.state_dict() if f".{FIRST}." in name}:
            raise AssertionError("the file does not hold exactly the tensors of the adapter")
        fresh = initialised(subject)
        name = fresh.load_adapter(folder, set_active=True)
    if name != FIRST:
        raise AssertionError(f"loaded under the name {name!r}")
    assert_bitwise(state(fresh), state(model), "weights")
    assert_bitwise(run(fresh, inputs), run(model, inputs), "outputs")


def damaged_files_are_refused(subject: Subject, method: Method) -> None:
    model = adapted(subject, method)
    for what, damage in DAMAGES.items():
        with tempfile.TemporaryDirectory() as folder:
            model.save_adapter(folder, FIRST)
            damage(Path(folder))
            _assert_refused(initialised(subject), folder, what)


def _assert_refused(fresh: nn.Module, folder: str, what: str) -> None:
    weights, modules = state(fresh), structure(fresh)
    try:
        fresh.load_adapter(folder)
    except (ValueError, OSError) as error:
        if len(str(error)) < 20:
            raise AssertionError(f"{what}: the message says too little: {error}") from error
    else:
        raise AssertionError(f"{what}: the file was accepted")
    if structure(fresh) != modules or FIRST in getattr(fresh, "adapters_config", ()):
        raise AssertionError(f"{what}: the refused adapter left something behind")
    assert_bitwise(state(fresh), weights, f"{what}: weights of the model")


def _truncate(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def _rename_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    first = sorted(tensors)[0]
    tensors[f"{first}_other"] = tensors.pop(first)
    save_file(tensors, folder / WEIGHTS)


def _reshape_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    first = sorted(tensors)[0]
    tensors[first] = tensors[first][:-1].clone()
    save_file(tensors, folder / WEIGHTS)


def _break_the_config(folder: Path) -> None:
    (folder / CONFIG).write_text((folder / CONFIG).read_text()[:-20])


def _change_a_size(folder: Path) -> None:
    document = json.loads((folder / CONFIG).read_text())
    config = document["config"]
    part = config.get("configs", [config])[0]
    part = part.get("config", part)  # in a union
    for size in ("r", "reduction_factor", "inv_adapter_reduction_factor", "prefix_length", "prompt_length"):
        if part.get(size):  # a factor of 1 is the only one that also changes what is a few numbers wide
            part[size] = 1 if size.endswith("factor") else part[size] * 2
    (folder / CONFIG).write_text(json.dumps(document))


def _claim_another_architecture(folder: Path) -> None:
    document = json.loads((folder / CONFIG).read_text())
    document["model_type"] += "_other"
    (folder / CONFIG).write_text(json.dumps(document))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "weights cut in half": _truncate,
    "a tensor under another name": _rename_a_tensor,
    "a tensor of another shape": _reshape_a_tensor,
    "the config cut off": _break_the_config,
    "another size in the config": _change_a_size,
    "the type of another architecture, with equal shapes": _claim_another_architecture,
    "no weights": lambda folder: (folder / WEIGHTS).unlink(),
    "no config": lambda folder: (folder / CONFIG).unlink(),
}
