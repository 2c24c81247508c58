"""Libraries that upstream wraps: there for the models that need one, and without effect on anything else."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from conformance import instances, libraries


@pytest.fixture
def wrapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A library that imports another one, which is not there."""
    (tmp_path / "wrapped_lib.py").write_text(
        "from absent_lib.ops import Frozen\nfrom absent_lib import transforms\n"
        "MODES = {transforms.Mode.NEAREST: 1}\nclass Mine(Frozen): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "wrapped_lib", raising=False)
    return "wrapped_lib"


def test_a_library_is_imported_without_what_no_model_of_it_calls(wrapped: str) -> None:
    with libraries._standing_in(("absent_lib",)):
        module = importlib.import_module(wrapped)
    assert not isinstance(3, module.Mine)
    assert len(module.MODES) == 1


def test_stand_ins_are_gone_afterwards(wrapped: str) -> None:
    with libraries._standing_in(("absent_lib",)):
        importlib.import_module(wrapped)
    assert not [name for name in sys.modules if name.startswith("absent_lib")]
    assert importlib.util.find_spec("absent_lib") is None


def test_nothing_else_is_stood_in_for(wrapped: str) -> None:
    with libraries._standing_in(("another_lib",)), pytest.raises(ModuleNotFoundError, match="absent_lib"):
        importlib.import_module(wrapped)


def test_a_library_that_was_imported_before_is_the_real_one() -> None:
    with libraries._standing_in(("pytest",)):
        assert importlib.import_module("pytest") is pytest
    assert sys.modules["pytest"] is pytest


def test_a_library_without_stand_ins_is_told_to_be_missing() -> None:
    assert libraries.missing([]) == ""
    assert "natten" in libraries.missing(["natten"])


def test_an_instance_whose_library_is_missing_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "_provided", lambda library: f"{library} is not installed")
    assert instances.needs("timm_wrapper") == ("timm",)
    assert instances.missing("timm_wrapper") == "timm is not installed"
    with pytest.raises(KeyError, match="timm is not installed"):
        instances.read("timm_wrapper")


def test_an_instance_that_needs_no_library_is_read_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "_provided", lambda library: f"{library} is not installed")
    assert instances.needs("llama") == ()
    assert instances.read("llama").model_type == "llama"


_IN_A_PROCESS = """
from transformers.utils import is_timm_available, is_torchvision_available
from transformers.models.timm_wrapper import modeling_timm_wrapper  # before timm is there
before = is_torchvision_available()
from conformance import instances
instance = instances.read("timm_wrapper")
model = instance.model_class(instance.config()).eval()
model(**instance.inputs())
assert is_timm_available()
assert is_torchvision_available() == before
"""


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
def test_a_model_of_timm_runs_and_torchvision_is_as_available_as_before() -> None:
    """In a process of its own: whether a library is there is asked once in each."""
    subprocess.run([sys.executable, "-c", _IN_A_PROCESS], check=True, cwd=Path(__file__).parents[1])
