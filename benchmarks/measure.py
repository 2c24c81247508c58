"""Measuring: interleaved rounds, medians, and counts of dispatched operators.

A figure of one process on one machine says little. Every comparison here runs its candidates in turn, round after round,
divides within a round, and reports the median of these ratios, so that a slow minute of the machine hits all alike.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def run_process(command: Sequence[str]) -> None:
    """Run a whole process to its end.

    Raises:
        RuntimeError: it failed; what it wrote to standard error is in the message.
    """
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {result.returncode}:\n{result.stderr}")


def interleaved(
    candidates: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1, repeats: int = 1
) -> dict[str, list[float]]:
    """Seconds of one call of each candidate, per round; each entry is the mean over `repeats` calls in a row."""
    for function in candidates.values():
        for _ in range(warmup):
            function()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    for turn in range(rounds):
        # Start each round with another candidate: who runs first pays for what the last one left in the caches.
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            function = candidates[name]
            times[name].append(seconds(lambda f=function: [f() for _ in range(repeats)]) / repeats)  # type: ignore[misc]
    return times


def median_ratio(times: Sequence[float], reference: Sequence[float]) -> float:
    """Median over the rounds of time / reference time in the same round."""
    return statistics.median(ours / theirs for ours, theirs in zip(times, reference, strict=True))


def count_ops(function: Callable[[], object]) -> int:
    """Number of aten operators that one call dispatches."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counter(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            self.count += 1
            return func(*args, **(kwargs or {}))

    with Counter() as counter:
        function()
    return counter.count


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def tool(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "adapter_codegen", *arguments]
