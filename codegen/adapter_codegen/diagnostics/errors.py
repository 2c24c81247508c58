"""Errors of the tool: an exception is a carrier for diagnostics, never a bare sentence."""

from __future__ import annotations

import traceback
from pathlib import Path

from adapter_codegen.model import Diagnostic, Level


class CodegenError(Exception):
    """The command cannot go on. ``diagnostics`` say what was found, what was expected and what to do."""

    def __init__(self, *diagnostics: Diagnostic) -> None:
        super().__init__(*diagnostics)  # so that the error survives pickling, on its way out of a worker process
        self.diagnostics = diagnostics

    def __str__(self) -> str:
        return "; ".join(diagnostic.message for diagnostic in self.diagnostics)


REPORT = "This is a bug of adapter-codegen: please report it, with the model type and this message."
_OF_BUGS = ("R", "V", "X")  # stages at which nothing in upstream's text or in the user's files is at fault


def is_bug(diagnostic: Diagnostic) -> bool:
    """Whether the tool itself failed: an edit that could not be made, a check of what was written, a crash."""
    return diagnostic.code.startswith(_OF_BUGS)


def crash(error: Exception) -> Diagnostic:
    """What nobody foresaw, as a diagnostic of the one model that it happened in."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return Diagnostic("X001", Level.ERROR, f"Internal error: {type(error).__name__}: {error}{place}", REPORT)


def failure(code: str, message: str, remedy: str) -> CodegenError:
    """An error about something that has no place in upstream's text (a missing package, an unknown model type)."""
    return CodegenError(Diagnostic(code, Level.ERROR, message, remedy))
