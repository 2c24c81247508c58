"""The measures of the house: rooms and arrows, types, lengths of functions, and of what README.md shows.

    python benchmarks/house.py [--beside FOLDER] [--write]    # FOLDER: another checkout, shown beside this one
    python benchmarks/house.py --hold                         # no table; an error where a ceiling is broken

Everything is read from source text, but for the findings of mypy, which must be installed (the extra `lint`). Ceilings only go
down: whoever gets below one lowers it. tests/test_house.py holds those that need no mypy in every run of the tests.
"""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from measure import ROOT
from report import parser, publish, table

sys.path.insert(0, str(ROOT / "tests"))
import rooms

RUNTIME = Path("codegen", "adapter_runtime")
TOOL = Path("codegen", "adapter_codegen")


@dataclass(frozen=True)
class Measure:
    """One line of the table."""

    of: Callable[[Path], int | float | str]  # the figure of the checkout in a folder
    ceiling: int | None = None  # the most that it may be
    needs_mypy: bool = False


# Reading


@cache
def sources(folder: Path) -> Mapping[Path, ast.Module]:
    """Every file of code below `folder`, parsed."""
    return {file: ast.parse(file.read_text(encoding="utf-8")) for file in sorted(folder.rglob("*.py"))}


def nodes(folder: Path) -> Iterator[tuple[Path, ast.AST]]:
    for file, tree in sources(folder).items():
        for node in ast.walk(tree):
            yield file, node


def called(node: ast.AST) -> str:
    """The last name of what a call calls; "" for what is no call."""
    return ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""


# Rooms


def room_count(checkout: Path) -> int:
    return len(rooms.rooms(rooms.graph(checkout / RUNTIME)))


def arrows_up(checkout: Path) -> int:
    """Arrows between rooms that run up, in the order of rooms with the fewest of them that was found."""
    return len(_upward(checkout))


def floor_count(checkout: Path) -> int:
    """Floors of the rooms when arrows that run up are left out."""
    upward = _upward(checkout)
    real = rooms.rooms(rooms.graph(checkout / RUNTIME))
    downward = {name: {other for other in uses if (name, other) not in upward} for name, uses in real.items()}
    return 1 + max(rooms.floors(downward).values())


@cache
def _upward(checkout: Path) -> frozenset[tuple[str, str]]:
    real = rooms.rooms(rooms.graph(checkout / RUNTIME))
    order = sorted(real, key=lambda name: len(real[name]) - sum(name in uses for uses in real.values()))
    best = _count_up(order, real)
    improved = True
    while improved:  # move one room at a time to where it makes the fewest arrows run up
        improved = False
        for name in list(order):
            rest = [other for other in order if other != name]
            for at in range(len(order)):
                trial = [*rest[:at], name, *rest[at:]]
                if (count := _count_up(trial, real)) < best:
                    order, best, improved = trial, count, True
    height = {name: at for at, name in enumerate(order)}
    return frozenset((name, other) for name, uses in real.items() for other in uses if height[other] > height[name])


def _count_up(order: list[str], real: rooms.Graph) -> int:
    height = {name: at for at, name in enumerate(order)}
    return sum(height[other] > height[name] for name, uses in real.items() for other in uses)


def files_in_circles(package: Path) -> Callable[[Path], int]:
    return lambda checkout: sum(map(len, rooms.circles(rooms.graph(checkout / package))))


def most_entries(package: Path) -> Callable[[Path], int]:
    def of(checkout: Path) -> int:
        folders = [path for path in (checkout / package).rglob("*") if path.is_dir() and path.name != "__pycache__"]
        return max(len(rooms.entries(folder)) for folder in [checkout / package, *folders])

    return of


def entries_of_root(package: Path) -> Callable[[Path], int]:
    return lambda checkout: len(rooms.entries(checkout / package))


# Methods


def concrete_classes(checkout: Path) -> dict[str, Path]:
    """Configs and layers of methods -> the folder that they are defined in."""
    bases: dict[str, list[str]] = {}
    homes: dict[str, Path] = {}
    for file, node in nodes(checkout / RUNTIME):
        if isinstance(node, ast.ClassDef):
            bases[node.name] = [ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases]
            homes[node.name] = file.parent

    def descends(name: str, seen: frozenset[str] = frozenset()) -> bool:
        return any(
            base in ("AdapterConfig", "AdapterLayerBase") or (base not in seen and descends(base, seen | {name}))
            for base in bases.get(name, [])
        )

    abstract = {"ConfigUnion", "ComposableAdapterLayerBase", "TensorLayer"}
    return {name: homes[name] for name in bases if descends(name) and name not in abstract}


def tests_of_concrete_classes(checkout: Path) -> int:
    """`isinstance` tests that name a config or a layer of a method which is defined in another folder."""
    homes = concrete_classes(checkout)
    count = 0
    for file, node in nodes(checkout / RUNTIME):
        if isinstance(node, ast.Call) and called(node) == "isinstance" and len(node.args) == 2:
            names = {ast.unparse(inner) for inner in ast.walk(node.args[1]) if isinstance(inner, ast.Name)}
            count += any(name in homes and homes[name] != file.parent for name in names)
    return count


# Types


def explicit_any(checkout: Path) -> int:
    """Findings of mypy's ``disallow_any_explicit`` in the runtime.

    Raises:
        RuntimeError: mypy is not installed, or found nothing to check.
    """
    with TemporaryDirectory() as cache_folder:
        command = [sys.executable, "-m", "mypy", "--disallow-any-explicit", "--cache-dir", cache_folder]
        result = subprocess.run(command, capture_output=True, text=True, cwd=checkout)
    if not result.stdout.strip():
        raise RuntimeError(result.stderr)
    lines = result.stdout.splitlines()
    return sum("[explicit-any]" in line and line.startswith(str(RUNTIME)) for line in lines)


def matches(pattern: str, package: Path) -> Callable[[Path], int]:
    """Lines of code in `package` that match `pattern`."""

    def of(checkout: Path) -> int:
        texts = [file.read_text(encoding="utf-8") for file in sources(checkout / package)]
        return sum(bool(re.search(pattern, line)) for text in texts for line in text.splitlines())

    return of


def lookups_by_name(checkout: Path) -> int:
    return sum(called(node) in ("getattr", "hasattr") for _, node in nodes(checkout / RUNTIME))


def lookups_on_programs(checkout: Path) -> int:
    """`getattr` and `hasattr` on what is called a program, or for a name that only some programs have."""
    count = 0
    for _, node in nodes(checkout / RUNTIME):
        if isinstance(node, ast.Call) and called(node) in ("getattr", "hasattr"):
            subject, name = map(ast.unparse, node.args[:2])
            count += bool(re.search(r"program|running|\bnode\b|child", subject)) or name == "'running'"
    return count


# Functions


def lengths(folder: Path) -> list[int]:
    """Lines of every function without its docstring."""
    found = []
    for _, node in nodes(folder):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                docstring = node.body[0]
                assert docstring.end_lineno is not None
                length -= docstring.end_lineno - docstring.lineno + 1
            found.append(length)
    return found


def lengths_of(package: Path) -> Callable[[Path], str]:
    """Median, ninth decile and maximum."""

    def of(checkout: Path) -> str:
        found = lengths(checkout / package)
        return f"{statistics.median(found):.0f} / {statistics.quantiles(found, n=10)[-1]:.0f} / {max(found)}"

    return of


def unannotated(checkout: Path) -> int:
    """Functions of the tool and the runtime of which an argument or the result has no type."""
    count = 0
    for package in (TOOL, RUNTIME):
        for _, node in nodes(checkout / package):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                positional = [*node.args.posonlyargs, *node.args.args]
                every = [*positional, *node.args.kwonlyargs, *filter(None, [node.args.vararg, node.args.kwarg])]
                receivers = [argument for argument in positional[:1] if argument.arg in ("self", "cls", "mcs")]
                count += node.returns is None or any(a.annotation is None for a in every if a not in receivers)
    return count


# What is shown


def readme_lines(checkout: Path) -> int:
    return len((checkout / "README.md").read_text(encoding="utf-8").splitlines())


def readme_columns(checkout: Path) -> int:
    return max(map(len, (checkout / "README.md").read_text(encoding="utf-8").splitlines()))


def without_licence(checkout: Path) -> int:
    """Checked-in files of models that state no licence in an SPDX line."""
    files = (checkout / "generated" / "adapter_models").glob("*/*.py")
    upstreams = [file for file in files if file.name.startswith("modeling_")]
    return sum("SPDX-License-Identifier:" not in file.read_text(encoding="utf-8") for file in upstreams)


MEASURES = {
    "Runtime: rooms": Measure(room_count),
    "Runtime: floors": Measure(floor_count),
    "Runtime: arrows between rooms that run up": Measure(arrows_up, 0),
    "Runtime: files in circles": Measure(files_in_circles(RUNTIME), 0),
    "Tool: files in circles": Measure(files_in_circles(TOOL), 0),
    "Runtime: entries of the root": Measure(entries_of_root(RUNTIME), 14),
    "Tool: entries of the root": Measure(entries_of_root(TOOL), 14),
    "Runtime: most entries of a folder": Measure(most_entries(RUNTIME), 14),
    "Tool: most entries of a folder": Measure(most_entries(TOOL), 14),
    "Runtime: `isinstance` tests that name a method's config or layer from outside": Measure(
        tests_of_concrete_classes
    ),
    "Runtime: findings of `disallow_any_explicit`": Measure(explicit_any, 90, needs_mypy=True),
    "Runtime: lines with `# type: ignore`": Measure(matches("# type: ignore", RUNTIME), 20),
    "Runtime: calls of `cast`": Measure(matches(r"\bcast\(", RUNTIME)),
    "Runtime: `getattr` and `hasattr`": Measure(lookups_by_name),
    "Runtime: `getattr` and `hasattr` on programs": Measure(lookups_on_programs, 0),
    "Runtime: lines of a function (median / 90 % / longest)": Measure(lengths_of(RUNTIME)),
    "Tool: lines of a function (median / 90 % / longest)": Measure(lengths_of(TOOL)),
    "Functions without all annotations": Measure(unannotated, 0),
    "README.md: lines": Measure(readme_lines, 120),
    "README.md: columns": Measure(readme_columns, 100),
    "Checked-in copies of upstream without a licence": Measure(without_licence, 0),
}


def broken(checkout: Path, with_mypy: bool) -> list[str]:
    """A line for each measure above its ceiling."""
    found = []
    for name, measure in MEASURES.items():
        if measure.ceiling is not None and (with_mypy or not measure.needs_mypy):
            figure = measure.of(checkout)
            if not isinstance(figure, str) and figure > measure.ceiling:
                found.append(f"{name}: {figure}, where {measure.ceiling} is the most")
    return found


def main() -> int:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--beside", type=Path, metavar="FOLDER", help="another checkout to measure")
    arguments.add_argument("--hold", action="store_true", help="only say which ceilings are broken")
    options = arguments.parse_args()
    if options.hold:
        wrong = broken(ROOT, with_mypy=True)
        print("\n".join(wrong) or "No ceiling is broken.")
        return bool(wrong)
    checkouts = [*filter(None, [options.beside]), ROOT]
    rows = [
        [
            name,
            *(str(measure.of(checkout.resolve())) for checkout in checkouts),
            "" if measure.ceiling is None else str(measure.ceiling),
        ]
        for name, measure in MEASURES.items()
    ]
    publish("house", table(["", *(["Before"] if options.beside else []), "Now", "At most"], rows), options.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
