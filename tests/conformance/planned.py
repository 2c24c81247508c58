"""Models that are planned and not checked in, generated for a run: what an earlier run refused is tried again like any other.

`add-model` refuses what did not pass (plan/verdicts.json), which the checks must not: a release, or a repair, may have mended it.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

BESIDE = "planned_models"  # a package beside the library


def write_everything(folder: Path) -> Path:
    """Every model type that can be planned, as a package `adapter_models` in `folder`; what stands there is kept."""
    package = folder / "adapter_models"
    if not (package / "manifest.json").exists():
        print(f"generating every model type that can be planned into {package} (some minutes)", flush=True)
        _add_models(["--all"], package)
    if not (package / "manifest.json").exists():
        raise SystemExit(f"nothing was generated into {package}")
    return package


def register_beside(model_types: Sequence[str], folder: Path) -> None:
    """Generate these types into a package of their own in `folder` and import it, so that they stand beside those of the library.

    Raises:
        SystemExit: one of them cannot be planned, of which the tool has said why.
    """
    if _add_models(model_types, folder / BESIDE) != 0:
        raise SystemExit(f"not all of these can be generated: {', '.join(model_types)}")
    sys.path.insert(0, str(folder))
    importlib.import_module(BESIDE)


def _add_models(what: Sequence[str], package: Path) -> int:
    """Run the tool, which says itself what it refuses."""
    command = [sys.executable, "-m", "adapter_codegen", "add-model", *what, "--without-verdicts", "--quiet"]
    return subprocess.run([*command, "--output", str(package)], stdout=subprocess.DEVNULL, check=False).returncode
