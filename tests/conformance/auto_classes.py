"""Every class of upstream's auto tables, as `init` meets it: built from the tiny instance, without memory for its weights."""

from __future__ import annotations

import contextlib
import copy
import functools
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto

from conformance.tiny import configs_of, tiny_config

REFUSED = Path(__file__).with_name("auto_classes_refused.txt")


@functools.cache
def _tables() -> tuple[Mapping[str, str | tuple[str, ...]], ...]:
    """Upstream's tables of models, found by their names; first that of base models."""
    others = (
        table
        for name, table in sorted(vars(modeling_auto).items())
        if name.startswith("MODEL") and name.endswith("_MAPPING_NAMES") and name != "MODEL_MAPPING_NAMES"
    )
    return (modeling_auto.MODEL_MAPPING_NAMES, *others)


def auto_names(model_type: str) -> tuple[str, ...]:
    """The names of the classes that some table of upstream has for `model_type`, the base model first, without those that upstream
    does not export."""
    entries = (table.get(model_type, ()) for table in _tables())
    names = (name for entry in entries for name in ((entry,) if isinstance(entry, str) else entry))
    return tuple(name for name in dict.fromkeys(names) if hasattr(transformers, name))


def auto_classes(model_type: str) -> tuple[type[PreTrainedModel], ...]:
    """The classes of these names."""
    return tuple(getattr(transformers, name) for name in auto_names(model_type))


def classes_of_the_file(one: type[PreTrainedModel]) -> tuple[type[PreTrainedModel], ...]:
    """What upstream exports from the file of a class and makes from a config of the same class, in a table or not.

    Not those that have no forward: further classes are made of them.
    """
    found = (cls for cls in vars(sys.modules[one.__module__]).values() if isinstance(cls, type))
    return tuple(
        cls
        for cls in found
        if issubclass(cls, PreTrainedModel)
        and getattr(transformers, cls.__name__, None) is cls
        and cls.__module__ == one.__module__
        and cls.config_class is one.config_class
        and cls.forward is not nn.Module.forward
    )


def built(model_type: str, cls: type[PreTrainedModel]) -> PreTrainedModel | None:
    """A model of the class, which may be that of a part (Mllama's that generates text); None where upstream refuses the instance's config for it."""
    config = copy.deepcopy(tiny_config(model_type))
    _, *inner = configs_of(config)
    parts = [part for part in inner if not isinstance(config, cls.config_class) and isinstance(part, cls.config_class)]
    for one in (*parts, config):
        with contextlib.suppress(Exception), torch.device("meta"):  # whatever upstream raises
            return cls(one)
    return None


def known_to_be_refused() -> frozenset[str]:
    """Names of the classes that `init` refuses."""
    lines = REFUSED.read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))
