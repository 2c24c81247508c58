"""Who imports whom inside a package, read from its source text: files, the rooms that they stand in, and circles.

A room is what stands in the root of a package: a folder or a file. ``docs/rooms.toml`` lists the rooms of the tool and of the
runtime from the ground floor up, each with the rooms that it imports from; ``test_architecture.py`` holds the code to it.

Every way to name a module counts: a plain import, one inside of a function, one for type checkers only, and a module that a
string names for ``import_module``. Apart stand the tables by which names are imported when they are first touched: that of
a package (an ``__init__`` with ``__getattr__``), the public names that it reads (``public.py``) and the registry of models.
They would tie every file that they name into one circle, and nothing of the package depends on them.

    python tests/rooms.py            # what imports what, and which circles there are
    python tests/rooms.py --write    # write docs/rooms.toml again, after an arrow was added or removed on purpose
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Set
from functools import cache
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "rooms.toml"
HOUSES = {
    "adapter_runtime": ROOT / "codegen" / "adapter_runtime",
    "adapter_codegen": ROOT / "codegen" / "adapter_codegen",
}
TABLES_OF_NAMES = {"public.py", "registry.py"}  # files whose strings name modules for someone else
# What a string that names a module looks like: "a.b", "a.b:name", ".b".
DOTTED = re.compile(r"(?P<dots>\.*)(?P<words>[A-Za-z_]\w*(?:[.:][A-Za-z_]\w*)*)")
IMPORTING_CALLS = {"import_module", "__import__", "resolve_name"}

Graph = Mapping[str, Set[str]]  # module -> the modules of the same package that it names


# Files


def modules(folder: Path) -> dict[str, Path]:
    """Every module of the package in `folder`, by its dotted name."""
    found = {}
    for file in sorted(folder.rglob("*.py")):
        parts = (folder.name, *file.relative_to(folder).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


@cache
def graph(folder: Path) -> dict[str, set[str]]:
    """The arrows between the files of the package in `folder`."""
    files = modules(folder)
    return {
        name: arrows(file.read_text(encoding="utf-8"), name, set(files), file.name) for name, file in files.items()
    }


def arrows(source: str, name: str, known: Set[str], file_name: str = "") -> set[str]:
    """The modules among `known` that the module `name` imports or names in a string.

    Args:
        source: its text.
        name: its dotted name, which relative imports start from.
        known: the dotted names of all modules of its package.
        file_name: ``__init__.py``, ``public.py`` and ``registry.py`` are treated as the docstring of this module says.
    """
    tree = ast.parse(source)
    is_package = file_name == "__init__.py"
    lazy = is_package and is_lazy(tree)
    package = name if is_package else name.rpartition(".")[0]
    found = set(_imported(_without_type_checking(tree) if lazy else tree, package, known))
    if not lazy and file_name not in TABLES_OF_NAMES:
        found |= set(_named_in_strings(tree, package, known))
    return found - {name}


def is_lazy(tree: ast.Module) -> bool:
    """Whether a package (its ``__init__``) imports its names when they are first touched."""
    return any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body)


def _without_type_checking(tree: ast.Module) -> ast.Module:
    """What a lazy package imports for type checkers is its table once more."""
    body = [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"))
    ]
    return ast.Module(body=body, type_ignores=[])


def _imported(tree: ast.Module, package: str, known: Set[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            origin = _absolute("." * node.level + (node.module or ""), package)
            for alias in node.names:
                whole = f"{origin}.{alias.name}"
                yield from (module for module in [whole if whole in known else origin] if module in known)


def looked_up(
    source: str, name: str, is_package: bool, lazy: Mapping[str, Set[str]], known: Set[str]
) -> Iterator[str]:
    """The names that the module `name` imports from a lazy package which does not state them itself.

    Such an import is an arrow to a file that nobody sees, and could close a circle.

    Args:
        lazy: lazy package -> the names that its ``__init__`` binds.
    """
    package = name if is_package else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            origin = _absolute("." * node.level + (node.module or ""), package)
            for alias in node.names:
                if origin in lazy and f"{origin}.{alias.name}" not in known and alias.name not in lazy[origin]:
                    yield f"{origin}.{alias.name}"


def bound_names(tree: ast.Module) -> set[str]:
    """The names that a module assigns at its top."""
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _absolute(module: str, package: str) -> str:
    """``..heads`` seen from the package ``a.b.c`` is ``a.b.heads``."""
    level = len(module) - len(module.lstrip("."))
    if not level:
        return module
    base = package.split(".")[: len(package.split(".")) - (level - 1)]
    return ".".join([*base, *filter(None, [module[level:]])])


def _named_in_strings(tree: ast.Module, package: str, known: Set[str]) -> Iterator[str]:
    """Modules that strings name: in full, or as seen from the package or its root, with or without a name in the module.

    A single word ("heads") is a module only where the file imports by name at all. Of a text that is put together
    (``f"{__name__}.heads"``) the literal part counts, as seen from the package.
    """
    house = package.partition(".")[0]
    by_name = any(
        isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in IMPORTING_CALLS
        for node in ast.walk(tree)
    )
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in docstrings:
            continue
        match = DOTTED.fullmatch(node.value)
        if match is None or not (by_name or "." in match["words"]):
            continue
        text = node.value.replace(":", ".")
        homes = [_absolute(text, package)] if match["dots"] else [text, f"{house}.{text}", f"{package}.{text}"]
        # "heads.jinja" is a file, not `jinja` in `heads`
        with_a_name = ":" in node.value or text.startswith(f"{house}.")
        candidates = [*homes, *(home.rpartition(".")[0] for home in homes if with_a_name)]
        yield from [module for module in candidates if module in known - {house, package}][:1]


# Circles


def circles(arrows_of: Graph) -> list[list[str]]:
    """Groups of more than one node in which each reaches each, largest first (Tarjan)."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = lowest[node] = len(index)
        stack.append(node)
        for other in sorted(arrows_of.get(node, ())):
            if other not in index:
                visit(other)
            if other in stack:
                lowest[node] = min(lowest[node], lowest[other])
        if lowest[node] == index[node]:
            at = stack.index(node)
            group = sorted(stack[at:])
            del stack[at:]
            if len(group) > 1:
                found.append(group)

    for node in sorted(arrows_of):
        if node not in index:
            visit(node)
    return sorted(found, key=lambda group: (-len(group), group))


def shortest_circle(arrows_of: Graph, group: Iterable[str]) -> list[str]:
    """A shortest way from a node of `group` back to itself, for messages."""
    inside = set(group)
    best: list[str] = []
    for start in sorted(inside):
        ways = [[start]]
        seen: set[str] = set()
        while ways and (not best or len(ways[0]) + 1 < len(best)):
            way = ways.pop(0)
            for other in sorted(arrows_of[way[-1]] & inside):
                if other == start:
                    best = [*way, start]
                    ways = []
                    break
                if other not in seen:
                    seen.add(other)
                    ways.append([*way, other])
    return best


# Rooms


def room(module: str) -> str:
    """The folder or file in the root of the package that `module` stands in; "" for the package itself."""
    return module.split(".")[1] if "." in module else ""


def rooms(arrows_of: Graph) -> dict[str, set[str]]:
    """Room -> the rooms that its files name."""
    found: dict[str, set[str]] = {room(module): set() for module in arrows_of if room(module)}
    for module, others in arrows_of.items():
        if room(module):
            found[room(module)] |= {room(other) for other in others if room(other)} - {room(module)}
    return found


def entries(folder: Path) -> list[str]:
    """What someone sees who opens `folder`; what Python and tools leave there is not counted."""
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith((".", "__pycache__")))


def purpose(folder: Path, name: str) -> str:
    """The first sentence of what a room says about itself; "" where it says nothing."""
    file = folder / name / "__init__.py" if (folder / name).is_dir() else folder / f"{name}.py"
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.partition("\n\n")[0].split())


def read_table(path: Path = TABLE) -> dict[str, dict[str, list[str]]]:
    """House -> room -> the rooms that it may use, from the ground floor up."""
    table: dict[str, dict[str, list[str]]] = tomllib.loads(path.read_text(encoding="utf-8"))
    return table


def wrong_arrows(real: Graph, table: Mapping[str, list[str]]) -> list[str]:
    """How `real` differs from `table`, and what runs up in the table itself; a line each."""
    order = list(table)
    wrong = [f"{name} is a room without a line" for name in real if name not in table]
    wrong += [f"{name} is no room any more" for name in order if name not in real]
    for name, uses in table.items():
        wrong += [
            f"{name} stands below {other} and uses it" for other in uses if other not in order[: order.index(name)]
        ]
        wrong += [f"{name} imports from {other}" for other in sorted(real.get(name, set()) - set(uses))]
        wrong += [f"{name} does not import from {other} any more" for other in uses if other not in real.get(name, ())]
    return wrong


def floors(real: Graph) -> dict[str, int]:
    """How high each room stands: 0 where it uses none, else one above the highest that it uses (circles must be gone)."""
    height: dict[str, int] = {}

    def of(name: str) -> int:
        if name not in height:
            height[name] = 1 + max((of(other) for other in real[name]), default=-1)
        return height[name]

    for name in real:
        of(name)
    return height


def table_text(houses: Mapping[str, Graph], note: str) -> str:
    """The text of ``docs/rooms.toml``: rooms by their floor, then by name."""
    lines = [note.rstrip()]
    for house, real in houses.items():
        height = floors(real)
        ordered = sorted(real, key=lambda name: (height[name], name))
        lines += ["", f"[{house}]"]
        for name in ordered:
            uses = ", ".join(f'"{other}"' for other in ordered if other in real[name])
            lines.append(f"{name} = [{uses}]")
    return "\n".join(lines) + "\n"


def main() -> int:
    graphs = {house: graph(folder) for house, folder in HOUSES.items()}
    status = 0
    for house, arrows_of in graphs.items():
        for level, found in (("files", arrows_of), ("rooms", rooms(arrows_of))):
            for group in circles(found):
                status = 1
                print(f"{house}: a circle of {len(group)} {level}: {' -> '.join(shortest_circle(found, group))}")
    if "--write" in sys.argv[1:]:
        if status:
            print("The table is not written: arrows of a circle cannot all run down.")
            return status
        note = TABLE.read_text(encoding="utf-8").partition("\n[")[0]
        TABLE.write_text(table_text({house: rooms(found) for house, found in graphs.items()}, note), encoding="utf-8")
    else:
        for house, arrows_of in graphs.items():
            for name, uses in rooms(arrows_of).items():
                print(f"{house}: {name} -> {', '.join(sorted(uses)) or '-'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
