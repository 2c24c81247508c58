"""The public names of generated packages, from the tables in ``adapter_runtime/public.py``, which is read as text."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

RUNTIME = "adapter_runtime"
PARENT_DOCSTRING = "Modules under the names that `adapters` gives them."

Imports = tuple[tuple[str, tuple[str, ...]], ...]  # (module, names), both sorted


@dataclass(frozen=True)
class PublicModule:
    """A module of the generated package that only imports names and offers them."""

    path: str  # from the package: "heads/__init__.py"
    docstring: str
    imports: Imports  # () for packages that only hold others

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(name for _, names in self.imports for name in names))


@dataclass(frozen=True)
class PublicNames:
    """The tables, with modules named in full: "adapter_runtime.heads"."""

    homes: Mapping[str, str]  # every name that the runtime offers -> the module that defines it
    root: Imports  # what the root of a generated package offers
    modules: tuple[PublicModule, ...]  # its submodules

    def imports(self, names: Iterable[str]) -> Imports:
        """What to import for `names`, which the runtime offers. Raises KeyError for a name that it does not."""
        members: dict[str, set[str]] = defaultdict(set)
        for name in names:
            members[self.homes[name]].add(name)
        return _sorted(members)


def public_names_path() -> Path:
    """The file with the tables: beside the tool, in an installation as in a checkout."""
    return Path(__file__).parents[2] / RUNTIME / "public.py"


@lru_cache(maxsize=1)
def read_public_names() -> PublicNames:
    """The tables of the runtime that goes with this tool."""
    return parse_public_names(public_names_path().read_text(encoding="utf-8"))


def parse_public_names(text: str) -> PublicNames:
    """The tables in the text of ``public.py``.

    Raises:
        KeyError: a table is missing. ValueError: it is no literal.
    """
    tables = {
        node.target.id: ast.literal_eval(node.value)
        for node in ast.parse(text).body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None
    }
    public = {_in_full(module): names for module, names in tables["PUBLIC"].items()}
    own = {_in_full(module): names for module, names in tables["OF_THE_RUNTIME"].items()}
    homes = {name: module for table in (public, own) for module, names in table.items() for name in names}
    submodules = dict(tables["SUBMODULES"])
    submodules |= {second: submodules[first] for second, first in tables["SECOND_PATHS"].items()}
    return PublicNames(homes, _sorted(public), tuple(_modules(submodules, public)))


def _modules(
    submodules: Mapping[str, tuple[str, tuple[str, ...], Mapping[str, tuple[str, ...]]]],
    public: Mapping[str, tuple[str, ...]],
) -> Iterable[PublicModule]:
    """The submodules and the packages that they lie in, sorted by path."""
    parents = {name.rsplit(".", depth)[0] for name in submodules for depth in range(1, name.count(".") + 1)}
    for name in sorted({*submodules, *parents}):
        path = name.replace(".", "/") + ("/__init__.py" if name in parents else ".py")
        if name not in submodules:
            yield PublicModule(path, PARENT_DOCSTRING, ())
            continue
        docstring, whole, further = submodules[name]
        members: dict[str, set[str]] = defaultdict(set)
        for module in map(_in_full, whole):
            members[module].update(public[module])
        for module, names in further.items():
            members[_in_full(module)].update(names)
        yield PublicModule(path, docstring, _sorted(members))


def _in_full(module: str) -> str:
    return f"{RUNTIME}.{module}"


def _sorted(members: Mapping[str, Iterable[str]]) -> Imports:
    return tuple((module, tuple(sorted(names))) for module, names in sorted(members.items()))
