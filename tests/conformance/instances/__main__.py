"""``python -m conformance.instances [MODEL_TYPE ...|--all]``: searches for tiny instances and writes them down."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, PreTrainedConfig

from conformance.instances import write
from conformance.instances.fields import model_types as known_types
from conformance.instances.search import search

MEMORY = 6 << 30  # bytes of address space that one search may take
PATIENCE = 20  # times the limit may pass on the clock before a search counts as hanging


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m conformance.instances", description=__doc__)
    parser.add_argument("model_types", nargs="*", help="model types, as upstream calls them")
    parser.add_argument("--all", action="store_true", help="every model type of which upstream's tables name a class")
    steps = parser.add_mutually_exclusive_group()
    for step, what in (
        ("mend", "find inputs that reach more layers"),
        ("shallow", "take as few layers as show each kind"),
        ("widen", "take images and sounds so large that no attention sees one key alone"),
    ):
        text = f"start at the instance that is known: {what}"
        steps.add_argument(f"--{step}", dest="step", action="store_const", const=step, default="", help=text)
    parser.add_argument("--jobs", type=int, default=2, help="model types at a time (default: 2)")
    parser.add_argument(
        "--limit", type=float, default=120, help="seconds of the processor for one model type (default: 120)"
    )
    parser.add_argument("--verbose", action="store_true", help="say why steps of the search did not work")
    options = parser.parse_args(arguments)
    model_types = list(known_types()) if options.all else options.model_types
    unknown = sorted(set(model_types) - set(known_types()))
    if unknown or not model_types:
        no = f"no table of upstream's names a class for {', '.join(unknown)}"
        parser.error(no if unknown else "name model types, or --all")
    _warm_up(model_types)
    started = time.perf_counter()
    without: dict[str, str] = {}
    done: dict[str, Any] = {}
    for number, (model_type, entry, seconds) in enumerate(_every(model_types, options), start=1):
        if isinstance(entry, str):
            if not options.step:  # what such a step does not change stays as it is
                without[model_type] = entry
        else:
            done[model_type] = entry
        shown = (
            entry
            if isinstance(entry, str)
            else f"{entry['parameters']:,} parameters, {entry['milliseconds']} ms, {entry['profile']}"
        )
        print(f"[{number}/{len(model_types)}] {model_type} ({seconds:.1f} s): {shown[:200]}", flush=True)
        write(transformers.__version__, done, without)  # at once: searches of what holds this model start at it
    print(
        f"{len(done)} with an instance, {len(model_types) - len(done)} without, {time.perf_counter() - started:.0f} s"
    )
    return 0


def _warm_up(model_types: Sequence[str]) -> None:
    """What every search imports is imported once, before processes are forked."""
    with torch.device("meta"):
        transformers.BertModel(transformers.BertConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=2))
        transformers.LlamaModel(transformers.LlamaConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=2))
    for name in model_types:
        CONFIG_MAPPING[name]


def _every(model_types: Sequence[str], options: argparse.Namespace):  # type: ignore[no-untyped-def]
    """(model type, entry or reason, seconds), as they come; one process each."""
    context = multiprocessing.get_context("fork")
    waiting = list(model_types)
    running: dict[Connection, tuple[str, Any, float]] = {}
    while waiting or running:
        while waiting and len(running) < options.jobs:
            model_type = waiting.pop(0)
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_one, args=(model_type, theirs, options), daemon=True)
            process.start()
            theirs.close()
            running[ours] = (model_type, process, time.perf_counter())
        ready = wait(list(running), timeout=0.2)
        for connection in list(running):
            model_type, process, since = running[connection]
            seconds = time.perf_counter() - since
            if connection in ready:
                try:
                    entry = connection.recv()
                except EOFError:
                    entry = "the process of its search ended (memory?)"
            elif seconds > PATIENCE * options.limit:
                entry = f"its search hangs for {PATIENCE * options.limit:.0f} s"
                process.kill()
            else:
                continue
            process.join(1)
            del running[connection]
            yield model_type, entry, seconds


class _OutOfTime(BaseException):
    """No `Exception`: steps of the search take those for answers."""


def _limited(seconds: float) -> None:
    """Time of the processor, so that what else runs on the machine changes nothing."""

    def stop(number: int, frame: object) -> None:
        raise _OutOfTime(f"its search takes longer than {seconds:.0f} s of the processor")

    signal.signal(signal.SIGXCPU, stop)
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 10))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _one(model_type: str, connection: Connection, options: argparse.Namespace) -> None:
    _limited(options.limit)
    verbose = options.verbose
    transformers.logging.set_verbosity_error()
    PreTrainedConfig.__repr__ = object.__repr__  # type: ignore[method-assign]  # validators print whole configs
    if not verbose:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        say = (lambda text: print(f"  {text}", flush=True)) if verbose else lambda text: None
        found = search(model_type, say, options.step)
    except BaseException as error:
        if verbose:
            traceback.print_exc()
        connection.send(" ".join(str(error).split())[:300] or type(error).__name__)
        return
    connection.send(
        {
            "architecture": found.architecture,
            "config": dict(found.config),
            "inputs": {name: dict(recipe) for name, recipe in found.inputs.items()},
            **({"needs": list(found.needs)} if found.needs else {}),
            "parameters": found.parameters,
            "milliseconds": round(found.milliseconds, 1),
            "profile": found.profile,
        }
    )


if __name__ == "__main__":
    sys.exit(main())
