"""Which of the machine-written tests a normal run selects."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conformance import libraries
from conformance.cells import CORE
from conformance.report import generated_models
from conformance.suite import AdapterTestBase

TESTS = Path(__file__).parents[1]


def test_of_a_model_outside_of_the_core_the_one_check_of_all_methods_runs() -> None:
    """What a mark deselects is missed by nobody: the run is green without it."""
    outside = [name for name in generated_models() if name not in CORE]
    files = [_file(name) for name in (outside[0], outside[-1])]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
    shown = subprocess.run(
        command, cwd=TESTS.parent, capture_output=True, text=True, env=_without_options_of_this_run(), check=False
    ).stdout
    selected = [line.partition("::") for line in shown.splitlines() if "::" in line]
    assert [(file, name.rpartition("::")[2]) for file, _, name in selected] == [
        (file, "test_all_methods_together") for file in files
    ], shown


class _OfTimm(AdapterTestBase):
    model_type = "timm_wrapper"


class _OfNone(AdapterTestBase):
    model_type = "bert"


def test_a_model_is_skipped_where_its_library_is_missing_and_no_other_is(
    monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    monkeypatch.setattr(libraries, "_provided", lambda library: f"{library} is not installed")
    skips = AdapterTestBase._with_what_it_needs.__wrapped__
    with pytest.raises(pytest.skip.Exception, match="timm is not installed"):
        skips(_OfTimm())
    assert not _OfTimm.runs_every_test(pytestconfig)
    skips(_OfNone())
    assert _OfNone.runs_every_test(pytestconfig)


def _file(model_type: str) -> str:
    return f"tests/generated/test_{model_type.replace('-', '_').replace('.', '_')}.py"


def _without_options_of_this_run() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
