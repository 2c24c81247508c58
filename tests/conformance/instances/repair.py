"""Changes of a config that an error asks for, the likeliest first. Whether one helps is found by trying."""

from __future__ import annotations

import copy
import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedConfig

from conformance.instances import sizes
from conformance.instances.fields import Path, attribute, nodes, own_fields, words
from conformance.instances.inputs import missing_placeholders

Changes = dict[Path, Any]
FILL = {
    "vocabulary": 99,
    "head size": 8,
    "heads": 4,
    "depth": 2,
    "width": 32,
    "experts": 4,
    "positions": 64,
    "count": 4,
    "token": 0,
    "image": 16,
    "patch": 4,
    "window": 4,
}


def repairs(config: PreTrainedConfig, text: str, code: str = "") -> Iterator[Changes]:
    """Of a config with which a model does not build or run, for the reason `text`, raised by statements `code`."""
    if "ImportError" in text:
        yield from _backbones(config)
    if "has no attribute" in text:
        yield from _lacking(config, text)
    if "index out of range in self" in text:
        yield _room(config)
    if "ZeroDivision" in text or "of 0 elements" in text:
        yield from _larger_windows(config)
    if "stands for the" in text:
        yield {**_room(config), **missing_placeholders(config)}
    if "features" in text.lower() and "tokens" in text:
        yield from _as_wide_as_text(config)
    if "power of" in text:
        yield from _powers(config)
    if "divisible by num_groups" in text:
        yield from _grouped(config, text)
    if "must match" in text or "must equal" in text:
        yield from _matching(config, text)
    if "index out of range" in text:
        yield from _one_vocabulary(config)
    if "must match the size of tensor" in text:
        yield from _wider_heads(config, text)
    if "get_seq_length" in text:
        yield from _layer_types(config)
    if "non-empty list" in text:
        yield from _emptied(config)
    if (
        "split" in text
        or "section" in text
        or "size of" in text
        or "section" in code
        or "validate_architecture" in text
        or "shape" in text
        or "has no len()" in text
    ):
        yield from _sections(config, text)
    if (
        "None" in text
        or "specified" in text
        or "not set" in text
        or "unsupported operand" in text
        or "get_seq_length" in text
    ):
        yield from _fillings(config, text, code)
    yield from _named(config, text)


def _larger_windows(config: PreTrainedConfig) -> Iterator[Changes]:
    """Windows that hold no patch are made to hold several."""
    for path, value in sizes.of_kind(config, "window").items():
        yield from ({path: sizes.like(value, (times * n for n in sizes.integers(value)))} for times in (4, 8))


def _room(config: PreTrainedConfig) -> Changes:
    """Vocabularies, so large that the tokens of all instances are in them."""
    fields = sizes.of_kind(config, "vocabulary")
    return {path: sizes.like(v, (max(n, sizes.VOCABULARY) for n in sizes.integers(v))) for path, v in fields.items()}


def _as_wide_as_text(config: PreTrainedConfig) -> Iterator[Changes]:
    """What a tower gives out gets the width of the text's stream."""
    try:
        width = config.get_text_config().hidden_size
    except (ValueError, AttributeError):
        return
    out = [
        path
        for path, value in sizes.of_kind(config, "width").items()
        if set(words(path[-1])) & {"out", "output", "proj", "projection", "projector", "text"} and value != width
    ]
    yield from ({path: width} for path in out)
    if len(out) > 1:
        yield dict.fromkeys(out, width)
    for path, node in nodes(config):
        own = own_fields(node)
        if own.get("hidden_size", width) != width and (not path or "embed_dim" in own):  # no stream of a tower
            yield {(*path, "hidden_size"): width}


def _backbones(config: PreTrainedConfig) -> Iterator[Changes]:
    """A backbone of a package that is not there becomes one of upstream's own."""
    for path, node in nodes(config):
        if path and "timm" in (node.model_type or ""):
            small = {
                "model_type": "resnet",
                "embedding_size": 8,
                "hidden_sizes": [8, 16, 24, 32],
                "depths": [1, 1, 1, 1],
                "layer_type": "basic",
                "out_features": ["stage2", "stage3", "stage4"],
            }
            yield {path: small}
            yield {path: {**small, "out_features": ["stage4"]}}
            yield {path: {**small, "out_features": ["stage1", "stage2", "stage3", "stage4"]}}


def _sections(config: PreTrainedConfig, text: str) -> Iterator[Changes]:
    """Sections of rotary embeddings add up to half of the head's size."""
    said = re.search(r"split_sizes=\[([\d, ]+)\]", text)
    ratio = [int(number) for number in said[1].split(",")] if said else _usual_sections(config)
    total = re.search(r"sum exactly to (\d+)", text)
    totals = list(dict.fromkeys([*([int(total[1])] if total else []), 4, 8, 16, 6, 12]))
    for path, node in nodes(config):
        rope = own_fields(node).get("rope_parameters")
        if isinstance(rope, dict) and "rope_type" in rope:
            for number in totals:
                own = rope.get("mrope_section") or ratio
                if total and number < len(own) and number == int(total[1]):
                    yield {
                        **_wider(path, node, 4),
                        (*path, "rope_parameters"): {**rope, "mrope_section": sizes.in_ratio(own, 4 * number)},
                    }
                if number >= 3:
                    yield {(*path, "rope_parameters"): {**rope, "mrope_section": sizes.in_ratio(own, number)}}


def _usual_sections(config: PreTrainedConfig) -> list[int]:
    """Those that upstream's code takes where a config has none."""
    said = re.search(r"\"mrope_section\", \[([\d, ]+)\]", _code(config))
    return [int(number) for number in said[1].split(",")] if said else [16, 24, 24]


def _code(config: PreTrainedConfig) -> str:
    module = type(config).__module__.replace(".configuration_", ".modeling_")
    return inspect.getsource(importlib.import_module(module))


def _wider(path: Path, node: PreTrainedConfig, times: int) -> Changes:
    """The stream of `node` and all that is as wide, so that its heads are."""
    own, hidden = own_fields(node), attribute(node, "hidden_size")
    return {
        (*path, name): times * value for name, value in own.items() if value == hidden and sizes.kind(name) == "width"
    }


def _wider_heads(config: PreTrainedConfig, text: str) -> Iterator[Changes]:
    """Of two sizes that must match, one a multiple of the other: heads of the smaller size get the larger."""
    small, large = sorted(int(number) for number in re.findall(r"tensor [ab] \((\d+)\)", text)[:2])
    changes: Changes = {}
    for path, node in nodes(config):
        hidden, heads = attribute(node, "hidden_size"), attribute(node, "num_attention_heads")
        if isinstance(hidden, int) and isinstance(heads, int) and hidden == small * heads and not large % small:
            changes |= _wider(path, node, large // small)
    if changes:
        yield changes


def _fillings(config: PreTrainedConfig, text: str, code: str) -> Iterator[Changes]:
    """What is None is given: fields that the error names first, then each alone, then all."""
    every: Changes = {}
    for path, node in nodes(config):
        depth = attribute(node, "num_hidden_layers")
        for name, value in own_fields(node).items():
            if value is not None:
                continue
            said = set(words(name))
            if said & {"indices", "indexes", "idxs", "idx"}:
                yield {(*path, name): [1]}
            elif "types" in said or {"block", "type"} <= said:
                length = depth if isinstance(depth, int) else 2
                yield from ({(*path, name): (pair * length)[:length]} for pair in _pairs(node))
            elif "map" in said:
                yield from ({(*path, name): empty_or_one} for empty_or_one in ({}, [[0, 0]]))
            elif sizes.kind(name) in FILL:
                every[(*path, name)] = FILL[sizes.kind(name)]
            elif said & {"length", "horizon", "prediction"} or re.search(rf"\b{name}\b", code):
                every[(*path, name)] = 8
    if "n_group" in {path[-1] for path in every}:
        every |= {path: 2 if path[-1] == "n_group" else 1 for path in every if path[-1] in ("n_group", "topk_group")}
        yield {path: value for path, value in every.items() if path[-1] in ("n_group", "topk_group")}
    named = {path: value for path, value in every.items() if path[-1] in text or re.search(rf"\b{path[-1]}\b", code)}
    if named:
        yield named
    for path, value in every.items():
        yield {path: value}
    if every:
        yield every


def _pairs(config: PreTrainedConfig) -> Iterator[list[str]]:
    """Two kinds of layers: those that upstream's code compares with, then usual ones."""
    words_of_code = re.findall(r"(?:layer|block)s?_(?:block_)?types?\b[^\n]{0,30}[!=]= *\"(\w+)\"", _code(config))
    said = [word for word in dict.fromkeys(words_of_code) if "full" not in word]
    yield from ([word, "full_attention"] for word in said)
    yield from (["mamba", "attention"], ["linear_attention", "full_attention"], ["full_attention", "full_attention"])


def _emptied(config: PreTrainedConfig) -> Iterator[Changes]:
    """A list of factors that has none gets the one that changes nothing."""
    for path, node in nodes(config):
        for name, value in own_fields(node).items():
            if isinstance(value, (list, tuple)) and not value and {"factors", "scales", "ratios"} & set(words(name)):
                yield {(*path, name): [1.0]}


def _layer_types(config: PreTrainedConfig) -> Iterator[Changes]:
    """A model that asks its cache for a length needs a layer with keys: lists of kinds of layers end with one."""
    for path, node in nodes(config):
        for name, value in own_fields(node).items():
            if isinstance(value, list) and len(value) > 1 and all(isinstance(entry, str) for entry in value):
                for other in ("full_attention", "attention"):
                    yield {(*path, name): [*value[:-1], other]}


def _lacking(config: PreTrainedConfig, text: str) -> Iterator[Changes]:
    """What a config has not, but the model reads: as in a config beside or within it, or a usual value."""
    said = re.search(r"'(\w+)' object has no attribute '(\w+)'", text)
    if said is None:
        return
    lacking = [(path, node) for path, node in nodes(config) if type(node).__name__ == said[1]]
    for path, node in lacking:
        for other_path, other in nodes(config):
            fields = own_fields(other)
            if said[2] in fields and other is not node:
                within = other_path[: len(path)] == path
                own = own_fields(node)
                if within:  # the model is that of a config within: it reads all its fields
                    yield {(*path, name): copy.deepcopy(value) for name, value in fields.items() if name not in own}
                yield {(*path, said[2]): copy.deepcopy(fields[said[2]])}
        for value in _usual(node, said[2]):
            yield {(*path, said[2]): value}


def _usual(config: PreTrainedConfig, name: str) -> Iterator[Any]:
    has = set(words(name))
    if "theta" in has:
        yield 10000.0
    if has & {"dropout", "pdrop", "drop"}:
        yield 0.1
    if has & {"kv", "key"} and isinstance(attribute(config, "num_attention_heads"), int):
        yield attribute(config, "num_attention_heads")
    if sizes.kind(name) in FILL:
        yield FILL[sizes.kind(name)]


def _matching(config: PreTrainedConfig, text: str) -> Iterator[Changes]:
    """Of two fields that must be equal one becomes the other."""
    for one, other in re.findall(r"(\w+) must (?:match|equal) (\w+)", text):
        for path, node in nodes(config):
            own = own_fields(node)
            if one in own and other in own and own[one] != own[other]:
                yield {(*path, one): own[other]}
                yield {(*path, other): own[one]}


def _one_vocabulary(config: PreTrainedConfig) -> Iterator[Changes]:
    """What one part gives as tokens is read by another: all vocabularies are one, and lists of codes are in it."""
    fields = sizes.of_kind(config, "vocabulary")
    smallest = min((number for value in fields.values() for number in sizes.integers(value)), default=0)
    codes: Changes = {
        (*path, name): [min(number, smallest - 1) for number in sizes.integers(value)]
        for path, node in nodes(config)
        for name, value in own_fields(node).items()
        if words(name)[-1] == "codes" and isinstance(value, (list, tuple))
    }
    if smallest:
        yield {**dict.fromkeys(fields, smallest), **codes}


def _powers(config: PreTrainedConfig) -> Iterator[Changes]:
    """Books of codes have a power of two as their size."""
    fields = {path: value for path, value in sizes.of_kind(config, "vocabulary").items() if isinstance(value, int)}
    books = {path: 64 for path in fields if "codebook" in words(path[-1])}
    if books:
        yield books
    if fields:
        yield dict.fromkeys(fields, 64)


def _grouped(config: PreTrainedConfig, text: str) -> Iterator[Changes]:
    """Channels that a norm takes in groups are multiples of their number."""
    groups = re.search(r"num_groups \((\d+)\)", text)
    if groups is None:
        return
    number = int(groups[1])
    for path, node in nodes(config):
        few = {
            (*path, name): sizes.like(value, (-(-entry // number) * number for entry in sizes.integers(value)))
            for name, value in own_fields(node).items()
            if sizes.kind(name) == "width" and any(entry % number for entry in sizes.integers(value))
        }
        channels = {place: value for place, value in few.items() if "channels" in words(place[-1])}
        yield from (changes for changes in (channels, few) if changes)


def _named(config: PreTrainedConfig, text: str) -> Iterator[Changes]:
    """Fields that the error names, or whose values it names, become another number of it."""
    numbers = [int(number) for number in re.findall(r"(?<![\w.])\d+(?![\w.])", text)][:6]
    for path, node in nodes(config):
        for name, value in own_fields(node).items():
            whole = sizes.integers(value)
            if not whole or not (name in text or (set(words(name)) & {"groups"} and "group" in text)):
                continue
            for number in numbers:
                if isinstance(value, int) and number != value and 0 < number <= 512:
                    yield {(*path, name): number}
            if isinstance(value, int) and "group" in name:
                yield {(*path, name): 2}
