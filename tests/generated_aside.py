"""Checks of models that are not checked in: these are generated into a folder of their own, and checked in one process.

A file of checks is a script: it imports ``my_models``, names its checks by a beginning, and ends with `report`.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path


def names_in(script: Path, beginning: str) -> list[str]:
    """The checks in a file, without importing it."""
    body = ast.parse(script.read_text(encoding="utf-8")).body
    return [node.name for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith(beginning)]


def errors_of(script: Path, models: tuple[str, ...], folder: Path) -> dict[str, str]:
    """Check -> what went wrong, or "". `models` are generated into ``folder/my_models`` before."""
    # The folder of the package comes first: the checked-in models stay out of this process.
    path = os.pathsep.join([str(folder), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]).rstrip(
        os.pathsep
    )

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

    output = ("--without-verdicts", "--output", str(folder / "my_models"))
    run("-c", "from adapter_codegen.cli import cli; cli()", "add-model", *models, *output)
    found = [json.loads(line) for line in run(str(script)).splitlines() if line.startswith("{")]
    return {entry["check"]: entry["error"] for entry in found}


def report(found: Mapping[str, object], beginning: str) -> None:
    """Run the checks of a script, whose globals are `found`, and print a line of JSON for each."""
    for name, check in list(found.items()):
        if not name.startswith(beginning) or not isinstance(check, Callable):  # type: ignore[arg-type]
            continue
        try:
            check()  # type: ignore[operator]
        except Exception:
            print(json.dumps({"check": name, "error": traceback.format_exc()}))
        else:
            print(json.dumps({"check": name, "error": ""}))
