"""`import adapter_models` against `import transformers`, in fresh processes.

    python benchmarks/imports.py [--write] [--rounds 9]

Both stand in the same row of lazy packages: neither may load torch's models before one is asked for.
"""

from __future__ import annotations

import statistics

from measure import interleaved, median_ratio, python, run_process
from report import parser, publish, table

CANDIDATES = {
    "`import transformers`": "import transformers",
    "`import adapter_models`": "import adapter_models",
    "`from transformers import LlamaModel`": "from transformers import LlamaModel",
    "`from adapter_models import LlamaAdapterModel`": "from adapter_models import LlamaAdapterModel",
}
REFERENCE = {
    "`import adapter_models`": "`import transformers`",
    "`from adapter_models import LlamaAdapterModel`": "`from transformers import LlamaModel`",
}


def measure(rounds: int) -> list[list[str]]:
    processes = {
        name: (lambda code=code: run_process(python(code))) for name, code in CANDIDATES.items()  # type: ignore[misc]
    }
    times = interleaved(processes, rounds)
    rows = []
    for name in CANDIDATES:
        reference = REFERENCE.get(name)
        ratio = f"{median_ratio(times[name], times[reference]):.2f} of {reference}" if reference else ""
        rows.append([name, f"{statistics.median(times[name]):.2f} s", ratio])
    return rows


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--rounds", type=int, default=9)
    options = arguments.parse_args()
    publish("imports", table(["Process", "Seconds", "Ratio"], measure(options.rounds)), options.write)


if __name__ == "__main__":
    main()
