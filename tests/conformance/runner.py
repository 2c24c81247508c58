"""Runs the checks of many models: a process for each, forked from one that has imported torch and transformers.

A model that crashes its process or does not end in time costs nothing but itself, and that is its result. A process reports each
cell as it ends, so what a model did before is known in either case.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from conformance.results import ModelResult, Result, compared_in, stable

PATIENCE = 5  # on a busy machine a process waits for its core
Report = Callable[[Result | str | dict[str, str]], None]
Work = Callable[
    [str, Report], None
]  # a model type; each cell is reported as it ends, "untested: ..." where nothing can run


@dataclass
class _Running:
    model_type: str
    process: Any
    connection: Connection
    deadline: float
    cells: list[Result] = field(default_factory=list)
    untested: str = ""
    planned: dict[str, str] = field(default_factory=dict)
    error: str = ""
    ended: bool = False
    current: str = ""
    late: bool = False


def run_models(model_types: Sequence[str], work: Work, jobs: int, limit: float) -> Iterator[tuple[ModelResult, float]]:
    """Results in the order in which models end, each with its seconds.

    Args:
        limit: seconds of one core that a model may take; `PATIENCE` times as many may pass until it ends.
    """
    waiting, running = list(reversed(model_types)), list[_Running]()
    while waiting or running:
        while waiting and len(running) < jobs:
            running.append(_start(waiting.pop(), work, limit))
        wait([one.connection for one in running], timeout=0.5)
        for one in list(running):
            _receive(one)
            one.late = one.late or (time.monotonic() > one.deadline and not one.ended)
            if one.ended or one.late:
                running.remove(one)
                result = _result_of(one, limit)
                yield result, PATIENCE * limit - (one.deadline - time.monotonic())


def _start(model_type: str, work: Work, limit: float) -> _Running:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(model_type, work, theirs, limit), daemon=True)
    process.start()
    theirs.close()
    return _Running(model_type, process, ours, time.monotonic() + PATIENCE * limit)


def _child(model_type: str, work: Work, connection: Connection, limit: float) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit), math.ceil(limit) + 1))
    try:
        work(model_type, connection.send)
        connection.send(None)
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        connection.send(f"crash: {type(error).__name__}: {error} ({os.path.basename(last.filename)}, {last.name})")
    connection.close()
    os._exit(0)  # no teardown of what the parent had made


def _receive(one: _Running) -> None:
    try:
        while one.connection.poll():
            message = one.connection.recv()
            if message is None:
                one.ended = True
            elif isinstance(message, dict):
                one.planned = message
            elif isinstance(message, str) and message.startswith("untested: "):
                one.untested = message.removeprefix("untested: ")
            elif isinstance(message, str) and message.startswith("crash: "):
                one.error, one.ended = message.removeprefix("crash: "), True
            elif isinstance(message, str):
                one.current = message
            else:
                one.cells.append(message)
    except (EOFError, OSError):
        if not one.ended:
            one.process.join(5)
            code = one.process.exitcode
            if code == -signal.SIGXCPU:
                one.late = one.ended = True
                return
            name = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
            one.error, one.ended = f"the process ended with {name}", True


def _result_of(one: _Running, limit: float) -> ModelResult:
    if one.late:
        one.process.kill()
    one.process.join()
    one.connection.close()
    where = f" in {one.current}" if one.current else ""
    known = dict(cells=tuple(one.cells), planned=one.planned, compared=compared_in(one.cells))
    if one.late:
        return ModelResult(one.model_type, "time-out", f"not done after {limit:.0f} s{where}", **known)
    if one.error:
        return ModelResult(one.model_type, "crash", stable(one.error) + where, **known)
    if one.untested:
        return ModelResult(one.model_type, "untested", stable(one.untested), **known)
    return ModelResult(one.model_type, "ran", **known)
