"""How much of the tool and of the runtime the tests run.

    python -m tox run -e coverage            # runs the tests, and this script with --write
    python benchmarks/tested.py REPORT [--write]

REPORT is what `python -m coverage json` wrote. Statements count, and branches: a condition that was only ever true is half run.
Generated models are left out, since the conformance checks run each of them whole, and so are lines for type checkers only.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from report import parser, publish, table

COUNTED = ("adapter_codegen", "adapter_runtime")


@dataclass
class Counts:
    """Statements and branches of some files, and how many of each were run."""

    statements: int = 0
    run: int = 0
    branches: int = 0
    taken: int = 0

    def add(self, summary: dict[str, int]) -> None:
        self.statements += summary["num_statements"]
        self.run += summary["covered_lines"]
        self.branches += summary["num_branches"]
        self.taken += summary["covered_branches"]

    def row(self, name: str) -> list[str]:
        return [
            name,
            str(self.statements),
            share(self.run, self.statements),
            str(self.branches),
            share(self.taken, self.branches),
        ]


def share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


def by_room(report: Path) -> dict[str, Counts]:
    """Package, and package and room -> what was counted in it."""
    found: dict[str, Counts] = defaultdict(Counts)
    files = json.loads(report.read_text(encoding="utf-8"))["files"]
    for path, entry in sorted(files.items()):
        parts = PurePosixPath(path.replace("\\", "/")).with_suffix("").parts
        package = next((name for name in COUNTED if name in parts), None)
        if package is not None:
            inside = parts[parts.index(package) + 1 :]
            found[package].add(entry["summary"])
            found[f"{package}.{inside[0]}"].add(entry["summary"])
    return dict(sorted(found.items()))


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("report", type=Path)
    options = arguments.parse_args()
    rows = [counts.row(f"`{name}`") for name, counts in by_room(options.report).items() if counts.statements]
    publish("coverage", table(["Room", "Statements", "run", "Branches", "taken"], rows), options.write)


if __name__ == "__main__":
    main()
