"""Emitted text as it is written: black for Python, one final line feed and no blanks at line ends for everything."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from adapter_codegen.diagnostics.table import Problem

if TYPE_CHECKING:
    from black import Mode

LINE_LENGTH = 119


def formatted(path: str, text: str) -> str:
    """The text of the file at `path` in its final form.

    Raises:
        CodegenError: Python that black cannot read (V101).
    """
    if path.endswith(".py"):
        return _black_formatted(path, text)
    lines = [line.rstrip() for line in text.strip("\n").split("\n")]
    return "\n".join(lines) + "\n"


@lru_cache(
    maxsize=32
)  # a text that was final when it was rendered is formatted once, and not again to see that it is stable
def _black_formatted(path: str, text: str) -> str:
    import black  # here: it costs a tenth of a second, and a check by digests formats nothing
    from black.parsing import InvalidInput

    try:
        return black.format_str(text, mode=_mode())
    except InvalidInput as error:
        raise Problem.EMITTED_NO_PYTHON.error(path=path, error=error) from error


@lru_cache(maxsize=1)
def _mode() -> Mode:
    """Stated in full, so that neither a pyproject.toml nor the running Python changes what is written."""
    from black.mode import Mode, TargetVersion

    versions = {TargetVersion.PY310, TargetVersion.PY311, TargetVersion.PY312}
    return Mode(target_versions=versions, line_length=LINE_LENGTH, preview=False)
