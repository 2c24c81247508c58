"""What upstream adds to the stream behind a whole layer, and can be without: its own adapters of languages, inputs of each layer.

Adapters follow the feed-forward block, whatever some configs bring in behind it (``Roles.is_extra`` of the planner). Here this is seen
from outside, on modules that run.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping

import torch
from torch import nn
from transformers import PreTrainedConfig

from conformance.reference.layout import Layer, Layout
from conformance.subjects import Subject, model_class

Shapes = Mapping[str, tuple[int, ...]]


def named_by(layer: Layer) -> set[str]:
    """Paths of all modules that play a role in a layer."""
    attentions = {path for one in layer.attentions for path in (one.query, one.key, one.value, one.fused, one.output)}
    return {
        path
        for path in (*attentions, *layer.mlp_first, *layer.mlp_last, *layer.mixer_first, *layer.mixer_last)
        if path
    }


def can_be_without(subject: Subject, layout: Layout, weights: list[str]) -> bool:
    """Whether by another value of one field of its config upstream makes the same layers without these `weights`."""
    return any(_are_all_that_is_missing(removed, layout, weights) for removed in _removable(subject))


def _are_all_that_is_missing(removed: frozenset[str], layout: Layout, weights: list[str]) -> bool:
    roles = [path for layer in layout.layers for path in named_by(layer)]
    return removed.issuperset(weights) and not any(name.startswith(f"{path}.") for name in removed for path in roles)


@functools.lru_cache(maxsize=8)
def _removable(subject: Subject) -> tuple[frozenset[str], ...]:
    """Names of the parameters that an empty value of a field takes away, for each field that leaves all others as they are."""
    whole = _shapes(subject, subject.config())
    found = [_shapes(subject, config) for config in _emptied(subject.config())]
    return tuple(
        frozenset(whole.keys() - shapes) for shapes in found if shapes.items() < whole.items() and len(shapes) > 0
    )


def _emptied(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """A config with one field empty, be it of its own or of a config inside of it."""
    for name, value in vars(config).items():
        if not value or name.startswith("_") or isinstance(value, torch.dtype):
            continue
        inside = isinstance(value, PreTrainedConfig)
        for empty in _emptied(value) if inside else (None, type(value)()):
            changed = copy.deepcopy(config)
            try:
                setattr(changed, name, empty)
            except Exception:  # whatever a config does not take
                continue
            yield changed


def _shapes(subject: Subject, config: PreTrainedConfig) -> Shapes:
    """Of all parameters; none where upstream makes no model of the config."""
    try:
        with torch.device("meta"):
            model: nn.Module = model_class(subject.architecture)._from_config(config)
    except Exception:  # whatever upstream raises
        return {}
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
