"""Where files are written: into a checkout of this project, or into a package folder of the user's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from adapter_codegen.diagnostics.table import Problem

CODE = "generated/adapter_models"
_PROJECT = re.compile(r"""^name\s*=\s*["']adapter-codegen["']""", re.MULTILINE)


@dataclass(frozen=True)
class Layout:
    """The paths of generated files below a root."""

    code: str = CODE  # folder of the generated package; "." = the root itself
    extras: bool = True  # tests and docs too

    def paths(self, templates: Mapping[str, str], **names: str) -> dict[str, str]:
        """Template -> output path, for the templates that this layout has."""
        chosen = {name: path for name, path in templates.items() if self.extras or path.startswith("{code}")}
        return {name: self.path(path, **names) for name, path in chosen.items()}

    def path(self, pattern: str, **names: str) -> str:
        """One output path: ``{code}`` and the names put in."""
        return pattern.format(code=self.code, **names).removeprefix("./")

    @property
    def manifest(self) -> str:
        return f"{self.code}/manifest.json".removeprefix("./")


CHECKOUT = Layout()
PACKAGE = Layout(code=".", extras=False)


@dataclass(frozen=True)
class Target:
    """A tree that is generated into."""

    root: Path
    layout: Layout = CHECKOUT


def find_target(root: Path | None = None, output: Path | None = None, start: Path | None = None) -> Target:
    """The tree to generate into.

    Args:
        root: a checkout of this project; None = the one that `start` belongs to.
        output: a package folder, which need not exist yet. It wins over the checkout around `start`.
        start: where to look for a checkout; None = the current folder.

    Raises:
        CodegenError: `root` is no checkout (E104), both are given (E105), or there is neither (E106).
    """
    if root is not None and output is not None:
        raise Problem.TWO_TARGETS.error()
    if output is not None:
        return Target(output, PACKAGE)
    if root is not None:
        if not is_checkout(root):
            raise Problem.NO_CHECKOUT.error(root=root)
        return Target(root)
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if is_checkout(folder):
            return Target(folder)
    raise Problem.NO_TARGET.error(here=here)


def is_checkout(folder: Path) -> bool:
    try:
        return bool(_PROJECT.search((folder / "pyproject.toml").read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError):
        return False
