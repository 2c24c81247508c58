"""Errors of the tool: an exception is a carrier for diagnostics, never a bare sentence."""

from __future__ import annotations

from adapter_codegen.model import Diagnostic


class CodegenError(Exception):
    """The command cannot go on. ``diagnostics`` say what was found, what was expected and what to do."""

    def __init__(self, *diagnostics: Diagnostic) -> None:
        super().__init__("; ".join(diagnostic.message for diagnostic in diagnostics))
        self.diagnostics = diagnostics
