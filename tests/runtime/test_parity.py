"""Checkpoints written by `adapters` 1.3.0 load here and give the outputs that it gave.

A few cases are in ``fixtures/parity``. The whole collection is read from the folder named by ADAPTER_CODEGEN_PARITY, or from
``shared/parity`` beside the checkout. Every model type that has generated code and a folder there takes part.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from transformers import PreTrainedConfig

import adapter_models
from adapter_runtime.registry import registered

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
WHOLE = Path(os.environ.get("ADAPTER_CODEGEN_PARITY") or CHECKOUT.parent / "shared" / "parity") / "golden"
FEW = HERE / "fixtures" / "parity"
BASE = "base"

# Cases of methods and blocks that are not there yet, by the beginning of their name. Nothing else may be skipped.
LATER = {
    "bn_all": "it also has an invertible adapter, and these come later",
    "comp_average": "the block Average comes later",
    "comp_batchsplit": "the block BatchSplit comes later",
    "comp_fuse": "the block Fuse comes later",
    "comp_lora_average": "the block Average comes later",
    "comp_lora_batchsplit": "the block BatchSplit comes later",
    "comp_lora_parallel": "the block Parallel comes later",
    "comp_mtl": "the block MultiTask comes later",
    "comp_parallel": "the block Parallel comes later",
    "comp_prefix_batchsplit": "the block BatchSplit comes later",
    "comp_prefix_parallel": "the block Parallel comes later",
    "comp_split": "the block Split comes later",
    "comp_stack_fuse": "the block Fuse comes later",
    "compacter": "hypercomplex layers come later",
    "direft": "ReFT comes later",
    "dora": "DoRA comes later",
    "dvora": "DVoRA comes later",
    "ia3": "IA3 comes later",
    "loreft": "ReFT comes later",
    "mtl_lora": "MTL-LoRA comes later",
    "noreft": "ReFT comes later",
    "prompt_tuning": "prompt tuning comes later",
    "seq_bn_inv": "invertible adapters come later",
    "double_seq_bn_inv": "invertible adapters come later",
    "vera": "VeRA comes later",
}
# The same for one model, by its folder.
LATER_IN = {
    "t5": dict.fromkeys(
        ("comp_prefix_stack", "mam", "prefix_"),
        "`adapters` moves the relative positions of all keys by the length of the prefix; to read such files comes later",
    ),
}


@dataclass(frozen=True)
class Case:
    """One folder of a collection, with the base model that it belongs to."""

    model: Path
    name: str

    @property
    def folder(self) -> Path:
        return self.model / self.name

    def __str__(self) -> str:
        return f"{self.model.name}-{self.name}"

    def reason_to_skip(self) -> str:
        later = {**LATER, **LATER_IN.get(self.model.name, {})}
        matching = [beginning for beginning in later if self.name.startswith(beginning)]
        return later[max(matching, key=len)] if matching else ""


def models(root: Path) -> Iterator[Path]:
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        config = folder / BASE / "config.json"
        if config.is_file() and json.loads(config.read_text())["model_type"] in registered().adapter_models:
            yield folder


def parameters(root: Path) -> list[object]:
    cases = [Case(model, child.name) for model in models(root) for child in sorted(model.iterdir()) if child.is_dir()]
    skip = pytest.mark.skip
    return [
        pytest.param(case, id=str(case), marks=[skip(reason=why)] if (why := case.reason_to_skip()) else [])
        for case in cases
    ]


def load_base(case: Case, attention: str) -> torch.nn.Module:
    return adapter_models.AutoAdapterModel.from_pretrained(case.model / BASE, attn_implementation=attention)


def load_adapters(model: torch.nn.Module, case: Case) -> None:
    """Load the adapter, or the adapters and the composition, and activate it."""
    setup = case.folder / "adapter_setup.json"
    if not setup.is_file():
        model.load_adapter(case.folder, set_active=True)
        return
    block = json.loads(setup.read_text())["adapter_setup"]
    assert block["type"] == "Stack"
    names = [name for child in block["children"] for name in child["children"]]
    for name in names:
        model.load_adapter(case.folder / name)
    model.set_active_adapters(adapter_models.Stack(*names))


def expected_of(case: Case) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    recorded = torch.load(case.folder / "expected.pt", weights_only=True)
    if isinstance(recorded, dict):
        return recorded["inputs"], recorded["expected"]
    return torch.load(case.model / BASE / "inputs.pt", weights_only=True), recorded


def scale_of(config: PreTrainedConfig) -> float:
    """By what `adapters` multiplied the outputs that it recorded: in T5, upstream's head does it, there the base did."""
    return config.d_model**-0.5 if config.model_type == "t5" else 1.0


def check(case: Case, attention: str) -> None:
    model = load_base(case, attention)
    if case.name != BASE:
        load_adapters(model, case)
    inputs, expected = expected_of(case)
    with torch.no_grad():
        outputs = model(**inputs)
    assert_close(outputs.last_hidden_state * scale_of(model.config), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("case", parameters(FEW))
def test_a_checkpoint_of_the_fixtures_gives_the_recorded_outputs(case: Case, attention: str) -> None:
    check(case, attention)


@pytest.mark.skipif(
    not WHOLE.is_dir(), reason="the shared folder with the whole collection is not beside the checkout"
)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("case", parameters(WHOLE))
def test_a_checkpoint_of_the_whole_collection_gives_the_recorded_outputs(case: Case, attention: str) -> None:
    check(case, attention)


@pytest.mark.parametrize("model", [pytest.param(model, id=model.name) for model in models(FEW)])
def test_the_comparison_notices_one_wrong_tensor(model: Path) -> None:
    case = Case(model, "seq_bn")
    loaded = load_base(case, "eager")
    load_adapters(loaded, case)
    inputs, expected = expected_of(case)
    tensor = next(tensor for name, tensor in loaded.named_parameters() if ".adapters.A.adapter_up.weight" in name)
    with torch.no_grad():
        tensor.mul_(1.01)
        outputs = loaded(**inputs)
    with pytest.raises(AssertionError):
        assert_close(outputs.last_hidden_state, expected, rtol=1e-5, atol=2e-5)
