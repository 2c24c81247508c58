"""A function over many items, in several processes."""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    jobs: int | None = None,
    done: Callable[[Item], None] = lambda item: None,
) -> list[Result]:
    """``[work(item) for item in items]`` in up to `jobs` processes (None: one per processor), in the order of `items`.

    Workers are spawned, never forked: the same on every system, and safe beside threads of the caller. So `work`, the
    items and the results must be picklable. Start with the heaviest items, and no process ends up alone with one.

    Raises:
        Exception: whatever `work` raised first; nothing more is started then.
    """
    workers = min(jobs or os.cpu_count() or 1, len(items))
    if workers <= 1:
        return [_told(work(item), item, done) for item in items]
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_relax_collector)
    try:
        futures = {pool.submit(work, item): item for item in items}
        for future in as_completed(futures):
            _told(future.result(), futures[future], done)
        return [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)


def _told(result: Result, item: Item, done: Callable[[Item], None]) -> Result:
    done(item)
    return result


def _relax_collector() -> None:
    """Syntax trees are many small objects, and few of them are garbage: look for cycles of references rarely."""
    gc.set_threshold(200_000, 20, 20)
