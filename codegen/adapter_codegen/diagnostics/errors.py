"""The exception of the tool: a carrier for diagnostics, never a bare sentence."""

from __future__ import annotations

from adapter_codegen.model import Diagnostic


class CodegenError(Exception):
    """The command cannot go on. ``diagnostics`` say what was found, what was expected and what to do."""

    def __init__(self, *diagnostics: Diagnostic) -> None:
        super().__init__(*diagnostics)  # so that the error survives pickling, on its way out of a worker process
        self.diagnostics = diagnostics

    def __str__(self) -> str:
        return "; ".join(diagnostic.message for diagnostic in self.diagnostics)
