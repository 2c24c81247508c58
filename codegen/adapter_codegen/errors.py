"""Errors of the tool: an exception is a carrier for diagnostics, never a bare sentence."""

from __future__ import annotations

from adapter_codegen.model import Diagnostic, Level


class CodegenError(Exception):
    """The command cannot go on. ``diagnostics`` say what was found, what was expected and what to do."""

    def __init__(self, *diagnostics: Diagnostic) -> None:
        super().__init__(*diagnostics)  # so that the error survives pickling, on its way out of a worker process
        self.diagnostics = diagnostics

    def __str__(self) -> str:
        return "; ".join(diagnostic.message for diagnostic in self.diagnostics)


def failure(code: str, message: str, remedy: str) -> CodegenError:
    """An error about something that has no place in upstream's text (a missing package, an unknown model type)."""
    return CodegenError(Diagnostic(code, Level.ERROR, message, remedy))
