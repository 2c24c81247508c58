"""Changes of a config that an error asks for, the likeliest first. Whether one helps is found by trying."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedConfig

from conformance.instances import sizes
from conformance.instances.fields import Path, attribute, nodes, own_fields, words

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


def repairs(config: PreTrainedConfig, text: str) -> Iterator[Changes]:
    """Of a config with which a model does not build or run, for the reason `text`."""
    if "ImportError" in text:
        yield from _backbones(config)
    if (
        "split" in text
        or "section" in text
        or "size of tensor" in text
        or "validate_architecture" in text
        or "shape" in text
    ):
        yield from _sections(config, text)
    if "None" in text or "specified" in text or "unsupported operand" in text or "get_seq_length" in text:
        yield from _fillings(config, text)
    yield from _named(config, text)


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
    ratio = [int(number) for number in said[1].split(",")] if said else [16, 24, 24]
    total = re.search(r"sum exactly to (\d+)", text)
    totals = list(dict.fromkeys([*([int(total[1])] if total else []), 4, 8, 16, 6, 12]))
    for path, node in nodes(config):
        rope = own_fields(node).get("rope_parameters")
        if isinstance(rope, dict) and "rope_type" in rope:
            for number in totals:
                if number >= 3:
                    own = rope.get("mrope_section") or ratio
                    yield {(*path, "rope_parameters"): {**rope, "mrope_section": sizes.in_ratio(own, number)}}


def _fillings(config: PreTrainedConfig, text: str) -> Iterator[Changes]:
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
                for pair in (
                    ["mamba", "attention"],
                    ["linear_attention", "full_attention"],
                    ["full_attention", "full_attention"],
                ):
                    yield {(*path, name): (pair * 4)[: depth if isinstance(depth, int) else 2]}
            elif sizes.kind(name) in FILL:
                every[(*path, name)] = FILL[sizes.kind(name)]
            elif said & {"length", "horizon", "prediction"}:
                every[(*path, name)] = 8
    if "n_group" in {path[-1] for path in every}:
        every |= {path: 2 if path[-1] == "n_group" else 1 for path in every if path[-1] in ("n_group", "topk_group")}
        yield {path: value for path, value in every.items() if path[-1] in ("n_group", "topk_group")}
    named = {path: value for path, value in every.items() if path[-1] in text}
    if named:
        yield named
    for path, value in every.items():
        yield {path: value}
    if every:
        yield every


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
