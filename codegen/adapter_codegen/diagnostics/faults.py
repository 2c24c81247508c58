"""Whose fault a diagnostic is, and errors that nobody foresaw as diagnostics."""

from __future__ import annotations

import traceback
from pathlib import Path

from adapter_codegen.diagnostics.table import Fault, Problem
from adapter_codegen.model import Diagnostic

_FAULTS = {problem.code: problem.fault for problem in Problem}


def fault_of(diagnostic: Diagnostic) -> Fault:
    return _FAULTS[diagnostic.code]


def is_bug(diagnostic: Diagnostic) -> bool:
    """Whether the tool itself failed: an edit that could not be made, a check of what was written, a crash."""
    return fault_of(diagnostic) is Fault.TOOL


def crash(error: Exception) -> Diagnostic:
    """An error that nobody foresaw, as a diagnostic of the one model that it happened in."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return Problem.CRASH.diagnostic(kind=type(error).__name__, error=error, place=place)
