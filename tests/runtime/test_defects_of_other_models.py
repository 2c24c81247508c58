"""Defects of `adapters` in models that are not checked in: these are generated into a folder, and checked in one process."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CHECKS = Path(__file__).with_name("checks_of_other_models.py")
MODELS = ("bart", "bert-generation", "deberta", "distilbert", "gpt2", "mistral", "modernbert", "vit")
NAMES = [
    node.name
    for node in ast.parse(CHECKS.read_text(encoding="utf-8")).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("defect_")
]


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Check -> what went wrong, or ""."""
    folder = tmp_path_factory.mktemp("other")
    # The folder of the package comes first: the checked-in models stay out of this process.
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)

    def run(*command: str) -> str:
        result = subprocess.run(
            [sys.executable, *command],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
        return result.stdout

    output = str(folder / "my_models")
    run("-c", "from adapter_codegen.cli import cli; cli()", "add-model", *MODELS, "--output", output)
    found = [json.loads(line) for line in run(str(CHECKS)).splitlines() if line.startswith("{")]
    return {entry["check"]: entry["error"] for entry in found}


@pytest.mark.parametrize("check", NAMES)
def test_a_generated_model_does_not_have(check: str, errors: dict[str, str]) -> None:
    assert check in errors, f"{check} was not run"
    assert not errors[check], errors[check]
