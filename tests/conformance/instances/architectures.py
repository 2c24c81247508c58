"""Fields that name an architecture of timm's: it lists some for its own tests, and those are small.

How wide such a model is follows from its name, so what the config says of its widths follows too.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Collection, Iterator
from typing import Any

import torch
from transformers import PreTrainedConfig

from conformance.instances import sizes
from conformance.instances.fields import Path, attribute, explicit, nodes, own_fields

NAMES = ("architecture", "backbone")  # what a config calls it
ARGUMENTS = "model_args"  # what a config calls the keyword arguments of the architecture
LEVELS = "out_indices"  # which of its maps it is to give
LABELS = "num_classes"  # what it calls the number of labels, which it must be told where it is read from a dictionary
IMAGE = 64  # pixels, where the architecture must know: as for a config that names no size
_OF_TIMM = {"features_only", LEVELS}  # arguments that no architecture takes itself


def named(node: PreTrainedConfig) -> str:
    """The field of `node` that names an architecture of timm's, or is to; "" if none does."""
    for name, value in own_fields(node).items():
        if name in NAMES and (_timm().is_model(value) if value else "timm" in node.model_type):
            return name
    return ""


def small(config: PreTrainedConfig) -> Iterator[dict[Path, Any]]:
    """All architectures that `config` names, each time exchanged for one of another class of timm's tests; the likest first."""
    places = {path: (node, name) for path, node in nodes(config) if (name := named(node))}
    alike = [functools.partial(_unlike, node, own_fields(node)[name]) for node, name in places.values()]
    first_of_class: dict[type, str] = {}
    for other in sorted(_timm().list_models("test_*"), key=alike[0]) if alike else ():
        first_of_class.setdefault(type(_made(other)), other)
    for other in first_of_class.values():
        changes: dict[Path, Any] = {}
        for path, (node, name) in places.items():
            changes |= {**_following(config, path, node, other), (*path, name): other}
        yield changes


def _unlike(node: PreTrainedConfig, default: str | None, other: str) -> tuple[bool, ...]:
    """False for what makes `other` like `default`: all of its maps are asked for, as much smaller than the image; the class of models."""
    levels = _levels(node)
    all_asked = not levels or len(_made(other).feature_info) == max(levels) + 1
    if not default:
        return (not all_asked,)
    return not all_asked, _strides(default) != _strides(other), type(_made(default)) is not type(_made(other))


def _levels(node: PreTrainedConfig) -> list[int]:
    """Which of its maps it gives; none where it gives its last states."""
    arguments = own_fields(node).get(ARGUMENTS) or {}
    return sizes.integers(arguments.get(LEVELS) or attribute(node, LEVELS))


def _following(config: PreTrainedConfig, path: Path, node: PreTrainedConfig, other: str) -> dict[Path, Any]:
    """Widths and arguments that go with the architecture `other` in the place of that of `node`."""
    own = own_fields(node)
    takes = _takes(other)
    given = {name: value for name, value in (own.get(ARGUMENTS) or {}).items() if name in _OF_TIMM or name in takes}
    known = {"img_size": IMAGE, "embed_dim": _made(other).num_features}
    changes: dict[Path, Any] = {}
    if path and (gone := [name for name in own if name in _takes(own[named(node)]) and name not in takes]):
        kept = {name: value for name, value in explicit(node).items() if name not in gone}
        changes[path] = {**kept, LEVELS: _levels(node)}
    if ARGUMENTS in own:
        changes[(*path, ARGUMENTS)] = {
            **given,
            **{name: value for name, value in known.items() if name in takes},
        } or None
    if "hidden_size" in own:
        changes[(*path, "hidden_size")] = known["embed_dim"]
    if path:
        changes[(*path, LABELS)] = own.get(LABELS) or node.num_labels
        widths = [_made(other).feature_info[level]["num_chs"] for level in _levels(node)]
        for name, value in own_fields(dict(nodes(config))[path[:-1]]).items():
            numbers = sizes.integers(value)
            if sizes.kind(name) == "width" and len(set(numbers)) == len(numbers) == len(widths) > 1:
                falling = numbers == sorted(numbers, reverse=True)
                changes[(*path[:-1], name)] = widths[::-1] if falling else widths
    return changes


def _takes(architecture: str | None) -> Collection[str]:
    """The arguments of its class."""
    return inspect.signature(type(_made(architecture)).__init__).parameters if architecture else ()


@functools.cache
def _made(architecture: str) -> Any:
    with torch.device("meta"):
        return _timm().create_model(architecture, num_classes=0)


def _strides(architecture: str) -> list[int]:
    return [level["reduction"] for level in _made(architecture).feature_info]


def _timm() -> Any:
    return importlib.import_module("timm")
