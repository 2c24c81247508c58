"""Checkpoints written by `adapters` 1.3.0 load here and give the outputs that it gave.

A few cases are in ``fixtures/parity``. The whole collection is read from the folder named by ADAPTER_CODEGEN_PARITY, or from
``shared/parity`` beside the checkout. Every model type that has generated code and a folder there takes part.

Most cases are of adapter models. Where the config of a case names a class of upstream's, it is of that class, turned by `init`.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.testing import assert_close
from transformers import PreTrainedConfig

import adapter_models
from adapter_runtime.contract.registry import registered
from adapter_runtime.errors import AdapterError, AdapterMismatchError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
WHOLE = Path(os.environ.get("ADAPTER_CODEGEN_PARITY") or CHECKOUT.parent / "shared" / "parity") / "golden"
FEW = HERE / "fixtures" / "parity"
BASE = "base"
HIDDEN = "last_hidden_state"

LISTED = CHECKOUT / "tests" / "parity" / "does_not_hold.toml"
# What files of `adapters` do not say and their reader must: it does not store the one option by which DiReFT is not NoReFT.
NOT_IN_FILES = {"direft": {"subtract_projection": False}}
# Parameters of upstream's that `adapters` deletes. They are not in its checkpoints; where they are zero, they compute nothing.
DELETED = {"xmod": re.compile(r"\.adapter_modules\..*\.dense2\.")}
# Which rows of an output are right. In a stack within `Parallel`, `adapters` adds the residual and runs the norm of the layer
# twice in front of the first bottleneck, so that even Parallel(Stack("a"), "c") differs from "a" alone.
RIGHT_ROWS = {"comp_parallel_stack": slice(2, None)}


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

    @property
    def does_not_hold(self) -> str:
        """The reason, as `LISTED` has it; "" for a case that must hold."""
        reasons = listed().get(self.model.name, {})
        reason = reasons.get(self.name, "")
        return reasons.get(reason.removeprefix("as "), reason)


@functools.cache
def listed() -> Mapping[str, Mapping[str, str]]:
    return tomllib.loads(LISTED.read_text(encoding="utf-8"))


def models(root: Path) -> Iterator[Path]:
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if not (folder / BASE / "config.json").is_file():
            continue
        if upstream_class(folder) or config_of(folder)["model_type"] in registered().adapter_models:
            yield folder


def config_of(model: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads((model / BASE / "config.json").read_text())
    return found


def upstream_class(model: Path) -> Any:
    """The class of upstream's that the cases of a model are of; None for those of adapter models."""
    name, *_ = config_of(model).get("architectures") or [None]
    return getattr(transformers, name) if name else None


def parameters(root: Path) -> list[object]:
    cases = [Case(model, child.name) for model in models(root) for child in sorted(model.iterdir()) if child.is_dir()]
    return [pytest.param(case, id=str(case)) for case in cases]


def load_base(case: Case, attention: str, by_interface: bool = False) -> torch.nn.Module:
    """The AdapterModel, or upstream's class after `init`; or upstream's model, described by the interface in the folder of the case."""
    upstream = upstream_class(case.model)
    try:
        if upstream is not None:
            model = upstream.from_pretrained(case.model / BASE, attn_implementation=attention)
            adapter_models.init(model)
            return model
        if not by_interface:
            model = adapter_models.AutoAdapterModel.from_pretrained(case.model / BASE, attn_implementation=attention)
            delete(model)
            return model
        model = transformers.AutoModel.from_pretrained(case.model / BASE, attn_implementation=attention)
        adapter_models.init(model, interface=adapter_models.AdapterModelInterface.load(case.folder))
        return model
    except ValueError as error:
        if attention == "sdpa" and "scaled_dot_product_attention" in str(error):
            pytest.skip("upstream has no sdpa for this model")
        raise


def delete(model: torch.nn.Module) -> None:
    """Take the effect from what `DELETED` names."""
    deleted = DELETED.get(model.config.model_type)
    for name, parameter in model.named_parameters():
        if deleted and deleted.search(name):
            torch.nn.init.zeros_(parameter)


def load_case(case: Case, attention: str) -> torch.nn.Module:
    """The model of a case, with its adapters.

    `adapters` has no generated classes for some models, but hooks that an interface places. Where those do something else than
    the generated classes, the file is refused and the message says what to do: that is done here.
    """
    model = load_base(case, attention)
    if case.name == BASE:
        return model
    try:
        load_adapters(model, case)
    except AdapterMismatchError as error:
        if "Use that interface: init(model, interface=AdapterModelInterface.load(" not in str(error):
            raise
        model = load_base(case, attention, by_interface=True)
        load_adapters(model, case)
    return model


def load_adapters(model: torch.nn.Module, case: Case) -> None:
    """Load the adapter, or the adapters and the composition, and activate it."""
    setup = case.folder / "adapter_setup.json"
    if not setup.is_file():
        model.load_adapter(case.folder, config=NOT_IN_FILES.get(case.name), set_active=True)
        return
    block, _ = model.load_adapter_setup(case.folder, set_active=True)
    if isinstance(block, adapter_models.Average):
        # `adapters` divides by the number of children once more.
        weights = [weight / len(block) for weight in block.weights]
        model.set_active_adapters(adapter_models.Average(*block, weights=weights, normalize_weights=False))


Outputs = dict[str, torch.Tensor]


def expected_of(case: Case) -> tuple[dict[str, torch.Tensor], Outputs]:
    """The inputs of a case, and outputs by name."""
    recorded = torch.load(case.folder / "expected.pt", weights_only=True)
    if isinstance(recorded, dict) and "inputs" in recorded:
        return recorded["inputs"], {HIDDEN: recorded["expected"]}
    inputs = torch.load(case.model / BASE / "inputs.pt", weights_only=True)
    return inputs, recorded if isinstance(recorded, dict) else {HIDDEN: recorded}


def outputs_of(model: torch.nn.Module, inputs: dict[str, torch.Tensor], names: Iterable[str]) -> Outputs:
    with torch.no_grad():
        outputs = model(**inputs)
    return {name: outputs[name] * (scale_of(model.config) if name == HIDDEN else 1.0) for name in names}


def scale_of(config: PreTrainedConfig) -> float:
    """By what `adapters` multiplied the outputs that it recorded: in T5, upstream's head does it, there the base did."""
    return config.d_model**-0.5 if config.model_type == "t5" else 1.0


def check(case: Case, attention: str) -> None:
    """Hold a case, or see that one that is listed does not hold."""
    if not case.does_not_hold:
        compare(case, attention)
        return
    with pytest.raises((AssertionError, AdapterError)):
        compare(case, attention)
    pytest.skip(case.does_not_hold)


def compare(case: Case, attention: str) -> None:
    model = load_case(case, attention)
    inputs, expected = expected_of(case)
    rows = RIGHT_ROWS.get(case.name, slice(None))
    assert_same(outputs_of(model, inputs, expected), expected, rows)


def assert_same(found: Outputs, expected: Outputs, rows: slice = slice(None)) -> None:
    for name, value in expected.items():
        assert_close(found[name][rows], value[rows], rtol=1e-5, atol=2e-5)


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


@pytest.mark.skipif(not WHOLE.is_dir(), reason="the cases that are listed are in the whole collection")
def test_only_cases_that_exist_are_listed() -> None:
    named = [(model, case) for model, cases in listed().items() for case in cases]
    assert not [pair for pair in named if not any((root / Path(*pair)).is_dir() for root in (FEW, WHOLE))]


def test_a_case_that_is_listed_and_holds_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "listed", lambda: {"bert": {"seq_bn": "it once differed"}})
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        check(Case(FEW / "bert", "seq_bn"), "eager")


HELD = [model for model in models(FEW) if not Case(model, "seq_bn").does_not_hold]


@pytest.mark.parametrize("model", [pytest.param(model, id=model.name) for model in HELD])
def test_the_comparison_notices_one_wrong_tensor(model: Path) -> None:
    case = Case(model, "seq_bn")
    loaded = load_case(case, "eager")
    inputs, expected = expected_of(case)
    tensor = next(tensor for name, tensor in loaded.named_parameters() if ".adapters.A.adapter_up.weight" in name)
    with torch.no_grad():
        tensor.mul_(1.01)
    with pytest.raises(AssertionError):
        assert_same(outputs_of(loaded, inputs, expected), expected)
