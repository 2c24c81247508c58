"""The tool as whole processes: a dry run for one model, `check` with nothing changed, the plan over all modules.

python benchmarks/tool.py [--write] [--rounds 5]
"""

from __future__ import annotations

import statistics

from measure import interleaved, run_process, tool
from report import parser, publish, table

AIMS = {
    "add-model llama --dry-run": 2.0,
    "check": 2.0,
    "coverage": 120.0,
}


def measure(rounds: int) -> list[list[str]]:
    rows = []
    for command, aim in AIMS.items():
        # The plan over all modules runs for a minute or so: once is enough.
        turns, warmup = (1, 0) if aim > 10 else (rounds, 1)
        times = interleaved({command: lambda c=command: run_process(tool(*c.split()))}, turns, warmup)  # type: ignore[misc]
        rows.append([f"`adapter-codegen {command}`", f"{statistics.median(times[command]):.2f} s", f"{aim:g} s"])
    return rows


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--rounds", type=int, default=5)
    options = arguments.parse_args()
    publish("tool", table(["Command", "Whole process", "Aim"], measure(options.rounds)), options.write)


if __name__ == "__main__":
    main()
