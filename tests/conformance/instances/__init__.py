"""A tiny instance of every model type: a config, the class that it was run with, and inputs.

They are found by a search (``python -m conformance.instances --all``) and stand in ``instances.json``; tests only read them.

    instance = read("llama")
    model = instance.model_class(instance.config())
    model(**instance.inputs())
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from conformance import libraries
from conformance.instances.fields import config_class
from conformance.instances.recipes import Recipe, tensors

FILE = Path(__file__).with_name("instances.json")


@dataclass(frozen=True)
class Instance:
    """One model type, so small that a forward takes milliseconds."""

    model_type: str
    architecture: str  # the base class that ran: "LlamaModel"
    fields: Mapping[str, Any]  # what is given to the config class; all else is its default
    recipes: Mapping[str, Recipe]  # parameter of the forward -> how its tensor is made

    @property
    def model_class(self) -> type[PreTrainedModel]:
        return getattr(transformers, self.architecture)

    def config(self, **changes: Any) -> PreTrainedConfig:
        """A fresh config, with `changes` at its top."""
        return config_class(self.model_type)(**copy.deepcopy({**self.fields, **changes}))

    def inputs(self, seed: int = 0) -> dict[str, Any]:
        """Keyword arguments of a forward; equal ones for equal seeds."""
        return tensors(self.recipes, seed)


def read(model_type: str) -> Instance:
    """The instance of `model_type`; the libraries that it needs can be imported from then on.

    Raises:
        KeyError: there is none, or a library that it needs is not installed; the message says why.
    """
    entry = _file()["instances"].get(model_type)
    if entry is None:
        reason = without().get(model_type, "it was not searched: python -m conformance.instances " + model_type)
        raise KeyError(f"{model_type} has no tiny instance: {reason}")
    if why := missing(model_type):
        raise KeyError(f"{model_type} cannot be tried: {why}")
    return Instance(model_type, entry["architecture"], entry["config"], entry["inputs"])


def needs(model_type: str) -> tuple[str, ...]:
    """The libraries, beside what transformers itself asks for, that its instance is made from."""
    return tuple(_file()["instances"].get(model_type, {}).get("needs", ()))


def missing(model_type: str) -> str:
    """Which library the instance of `model_type` needs and why it is not there; "" where nothing is missing."""
    return libraries.missing(needs(model_type))


def names() -> tuple[str, ...]:
    """The model types that have an instance."""
    return tuple(_file()["instances"])


def without() -> Mapping[str, str]:
    """Model types that have none -> the reason."""
    return _file()["without"]


def release() -> str:
    """The release of transformers that was searched."""
    return _file()["transformers"]


@functools.cache
def _file() -> dict[str, Any]:
    return json.loads(FILE.read_text()) if FILE.exists() else {"transformers": "", "instances": {}, "without": {}}


def write(release: str, done: Mapping[str, Mapping[str, Any]], without: Mapping[str, str]) -> None:
    """Put new entries among those of the file; one line per model type, sorted."""
    _file.cache_clear()
    known = _file()
    gone = {name: entry for name, entry in known["instances"].items() if name not in without}
    instances = {**gone, **{name: {k: v for k, v in entry.items() if k in _KEPT} for name, entry in done.items()}}
    reasons = {**{name: why for name, why in known["without"].items() if name not in done}, **without}
    FILE.write_text(
        f'{{\n"transformers": {json.dumps(release)},\n"instances": {_lines(instances)},\n"without": {_lines(reasons)}\n}}\n'
    )
    _file.cache_clear()


_KEPT = ("architecture", "config", "inputs", "needs")


def _lines(entries: Mapping[str, Any]) -> str:
    lines = [f"{json.dumps(name)}: {json.dumps(entries[name], sort_keys=True)}" for name in sorted(entries)]
    return "{\n" + ",\n".join(lines) + "\n}" if lines else "{}"
