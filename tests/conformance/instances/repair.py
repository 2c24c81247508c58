"""Changes of a config that an error asks for, the likeliest first. Whether one helps is found by trying."""

from __future__ import annotations

import copy
import importlib
import inspect
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedConfig

from conformance.instances import sizes
from conformance.instances.fields import Path, attribute, nodes, own_fields, words
from conformance.instances.inputs import missing_placeholders, placeholder

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
    yield from _stated(config, text)
    yield from _multiples(config, text)
    yield from _as_by_default(config, text)
    if "ImportError" in text:
        yield from _backbones(config)
    if 'not "tuple") to list' in text:
        yield from _as_lists(config, code)
    if "has no attribute" in text:
        yield from _lacking(config, text)
    if "index out of range in self" in text:
        yield room(config)
    if "out of bounds" in text:
        yield from _tokens_of_code(config)
    if "parameters are too many" in text:
        yield from _narrower(config)
    if "ZeroDivision" in text or "of 0 elements" in text:
        yield from _streams_for_heads(config)
        yield from _larger_windows(config, code)
    if "stands for the" in text:
        yield {**room(config), **missing_placeholders(config)}
    if ("features" in text.lower() and "tokens" in text) or "number of ones in mask" in text:
        yield from _as_wide_as_text(config)
    if "ZeroDivision" in text or "split_sizes to sum exactly" in text:
        yield from _usual_windows(config)
    if "power of" in text:
        yield from _powers(config)
    if "Kernel size can't be greater" in text:
        yield from smaller_strides(config)
    if "normalized_shape" in text:
        yield from _as_many_as_stages(config)
    if "running_mean should contain" in text:
        yield from _as_many_features(config, text)
    if "Given groups=" in text:
        yield from _more_stages(config, text)
        yield from _wide_as_a_stream(config, text)
        yield from _as_many_channels(config, text)
        yield from _first_kept(config)
    if "divisible by" in text:
        yield from _dividing(config, text)
    if "divisible by num_groups" in text:
        yield from _grouped(config, text)
    if "must match" in text or "must equal" in text:
        yield from _matching(config, text)
        yield from _equal_products(config, text)
    if "IndexError" in text:
        yield from _layers_that_are_there(config, code)
    if "is invalid for input of size" in text:
        yield from _reshaped(config, text, code)
    if "KeyError" in text:
        yield from _keyed(config, text)
        yield from _for_each_kind(config, text, code)
    if "shapes cannot be multiplied" in text:
        yield from _multiplied(config, text)
    if "must match except in dimension" in text:
        yield from _coarser(config, text)
        yield from _as_wide(config, text)
    if "index out of range" in text:
        yield from _one_vocabulary(config)
    if "must match the size of tensor" in text:
        yield from _wider_heads(config, text)
    if "get_seq_length" in text:
        yield from _layer_types(config)
    if "stack expects each tensor to be equal size" in text:
        yield from _even_sections(config)
    if "non-empty list" in text:
        yield from _emptied(config)
    if (
        "split" in text
        or "section" in text
        or "size of" in text
        or "section" in code
        or "validate_architecture" in text
        or "shape" in text
    ):
        yield from _sections(config, text)
    if (
        "None" in text
        or "specified" in text
        or "not set" in text
        or "missing required" in text
        or "unsupported operand" in text
        or "get_seq_length" in text
    ):
        yield from _fillings(config, text, code)
    yield from _named(config, text)


def _stated(config: PreTrainedConfig, text: str) -> Iterator[Changes]:
    """What the error says that a field is to be: "requires num_kv_heads=1"."""
    for name, number in re.findall(r"(?:requires|must be|expects|needs) (\w+) ?={1,2} ?(\d+)\b", text):
        for path, node in nodes(config):
            if own_fields(node).get(name, int(number)) != int(number):
                yield {(*path, name): int(number)}


def _multiples(config: PreTrainedConfig, text: str) -> Iterator[Changes]:
    """A size that is to be a multiple of another, which no field says, becomes that."""
    said = re.search(r"`(\w+)` must be a multiple of \D*\((\d+)\)", text)
    for path, node in nodes(config) if said else ():
        if own_fields(node).get(said[1]):  # type: ignore[index]
            yield {(*path, said[1]): int(said[2])}  # type: ignore[index]


def _as_by_default(config: PreTrainedConfig, text: str) -> Iterator[Changes]:
    """A field that "has to be divisible by" another, in a way that the text says in words, is as by default."""
    for name in re.findall(r"`(\w+)` has to be divisible by `\w+`", text):
        for path, node in nodes(config):
            usual = _default_of(node).get(name)
            if usual is not None and own_fields(node).get(name, usual) != usual:
                yield {(*path, name): usual}


def _as_lists(config: PreTrainedConfig, code: str) -> Iterator[Changes]:
    """A tuple that is added to a list, as a checkpoint's config never holds one, is a list."""
    for path, node in nodes(config):
        for name, value in own_fields(node).items():
            if isinstance(value, tuple) and re.search(rf"\b{name}\b", code):
                yield {(*path, name): list(value)}


def _larger_windows(config: PreTrainedConfig, code: str = "") -> Iterator[Changes]:
    """Windows that hold no patch are made to hold several; first those whose names stand in the statements that failed."""
    windows = sizes.of_kind(config, "window")
    for path, value in sorted(windows.items(), key=lambda one: not re.search(rf"(?<![a-z]){one[0][-1]}\b", code)):
        yield from ({path: sizes.like(value, (times * n for n in sizes.integers(value)))} for times in (4, 8))


def _usual_windows(config: PreTrainedConfig) -> Iterator[Changes]:
    """Windows that upstream's code counts with numbers of its own are as wide as by default, all of one config."""
    for path, node in nodes(config):
        own, default = own_fields(node), _default_of(node)
        usual = {
            (*path, name): default[name]
            for name in own
            if sizes.kind(name) == "window" and sizes.integers(default.get(name)) and own[name] != default[name]
        }
        if usual:
            yield usual


def _narrower(config: PreTrainedConfig) -> Iterator[Changes]:
    """Filters that a model doubles from stage to stage are few at first."""
    filters = {
        path: 4
        for path, value in sizes.of_kind(config, "width").items()
        if isinstance(value, int) and value > 4 and {"filters", "channels"} & set(words(path[-1]))
    }
    yield from ({path: 4} for path in filters)
    if len(filters) > 1:
        yield filters


def smaller_strides(config: PreTrainedConfig) -> Iterator[Changes]:
    """Lists of strides become twos: the last leave no room for a kernel, or their product makes a long sound of a short one."""
    changes: Changes = {
        (*path, name): [min(number, 2) for number in value]
        for path, node in nodes(config)
        for name, value in own_fields(node).items()
        if isinstance(value, (list, tuple)) and max(sizes.integers(value), default=0) > 2
        and {"ratios", "strides", "rates"} & set(words(name))
    }  # fmt: skip
    if changes:
        yield changes


def _streams_for_heads(config: PreTrainedConfig) -> Iterator[Changes]:
    """Where a class counts heads by the width of a stream, and none fits, the stream gets as wide as two that are usual."""
    narrow = {
        attribute(node, "hidden_size") for _, node in nodes(config) if attribute(node, "num_attention_heads") == 0
    }
    changes: Changes = {}
    for path, node in nodes(config):
        hidden = attribute(node, "hidden_size")
        if hidden in narrow and isinstance(hidden, int) and not 128 % hidden:
            changes |= _wider(path, node, 128 // hidden)
    if changes:
        yield changes


def room(config: PreTrainedConfig) -> Changes:
    """Vocabularies, so large that the tokens of all instances are in them."""
    fields = sizes.of_kind(config, "vocabulary")
    return {path: sizes.like(v, (max(n, sizes.VOCABULARY) for n in sizes.integers(v))) for path, v in fields.items()}


def tokens_without_room(config: PreTrainedConfig) -> bool:
    """Whether a token that stands for an image, a sound or a video is beyond a vocabulary."""
    tokens = [token for what in ("image", "audio", "video") if (token := placeholder(config, what)) is not None]
    every = [number for value in sizes.of_kind(config, "vocabulary").values() for number in sizes.integers(value)]
    return bool(tokens and every) and max(tokens) >= min(every)


def _tokens_of_code(config: PreTrainedConfig) -> Iterator[Changes]:
    """Tokens that upstream's code reads of a config which need not name them, beyond a vocabulary: each another small one."""
    read = re.findall(r"getattr\(config, \"(\w+)\", ([\d_]+)\)", _code(config))
    every = [n for value in sizes.of_kind(config, "vocabulary").values() for n in sizes.integers(value)]
    beyond = [name for name, number in read if sizes.kind(name) == "token" and every and int(number) >= min(every)]
    if beyond:
        yield {(name,): place for place, name in enumerate(beyond, start=1)}


def _layers_that_are_there(config: PreTrainedConfig, code: str) -> Iterator[Changes]:
    """Numbers of layers that are beyond the last of a tower become those of its last and first.

    Only fields whose names stand in the statements that raised the error, as they are or in the singular.
    """
    depths = [n for _, node in nodes(config) for n in sizes.integers(attribute(node, "num_hidden_layers"))]
    for path, node in nodes(config):
        depth = min(sizes.integers(attribute(node, "num_hidden_layers")) or depths or [0])
        for name, value in own_fields(node).items():
            singular = re.sub(r"(ex)?(es|s)$", r"\1", name)
            named = re.search(rf"\b({name}|{singular})\b", code)
            numbers = sizes.integers(value) if named and "token" not in words(name) else []
            within = [max(number, -depth) if number < 0 else min(number, depth - 1) for number in numbers]
            if not depth or within == numbers:
                continue
            if isinstance(value, int):
                yield {(*path, name): within[0]}
                continue
            distinct = list(dict.fromkeys(within))
            others = [place for place in range(depth)[::-1] if place not in distinct]
            yield {(*path, name): distinct}
            if filled := others[: len(within) - len(distinct)]:  # where each has another field's entry
                yield {(*path, name): [*distinct, *filled]}


def _reshaped(config: PreTrainedConfig, text: str, code: str) -> Iterator[Changes]:
    """A width that the output of a tower is cut into becomes a few times the width of its stream: several steps are joined."""
    said = re.search(r"shape '\[-1, (\d+)\]' is invalid", text)
    for path, node in nodes(config) if said else ():
        for name, value in own_fields(node).items():
            stream = attribute(node, "hidden_size")
            if value == int(said[1]) and re.search(rf"\b{name}\b", code) and isinstance(stream, int):  # type: ignore[index]
                yield from ({(*path, name): times * stream} for times in (4, 2, 1))


def _keyed(config: PreTrainedConfig, text: str) -> Iterator[Changes]:
    """A table from one number to another that lacks the number which is asked for holds it alone, with a small entry."""
    said = re.search(r"(\d+) not found in \w+ .*dict_keys\(\[([\d, ]+)\]\)", text)
    keys = {int(key) for key in said[2].split(",")} if said else set()
    for path, node in nodes(config) if keys else ():
        for name, value in own_fields(node).items():
            if isinstance(value, dict) and {int(key) for key in value if str(key).isdigit()} == keys:
                yield {(*path, name): {said[1]: 4}}  # type: ignore[index]


def of_towers(config: PreTrainedConfig) -> Changes:
    """What towers may need at once: their streams' sizes, windows as wide as by default, and what they give out as wide as the text's stream."""
    changes: Changes = {}
    for path, node in nodes(config):
        if path and "text" not in words(path[-1]):
            changes |= {(*path, name): value for name, value in sizes.of_tower(node).items()}
    for windows in _usual_windows(config):
        changes |= {path: value for path, value in windows.items() if len(path) > 1 and not path[0].startswith("text")}
    for wide in _as_wide_as_text(config):
        if len(wide) == 1:
            changes |= {path: value for path, value in wide.items() if {"out", "output"} & set(words(path[-1]))}
    return changes


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


def _even_sections(config: PreTrainedConfig) -> Iterator[Changes]:
    """Sections of rotary embeddings that are stacked are equal: those that were equal are so again, with the same sum."""
    usual = _usual_sections(config)
    for path, node in nodes(config):
        rope = own_fields(node).get("rope_parameters")
        section = rope.get("mrope_section") if isinstance(rope, dict) else None
        if section and len(section) == len(usual) and (even := sizes.in_equal_ratio(usual, sum(section))) != section:
            yield {(*path, "rope_parameters"): {**rope, "mrope_section": even}}


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
    required = text if "required" in text else ""
    for path, node in nodes(config):
        depth = attribute(node, "num_hidden_layers")
        for name, value in own_fields(node).items():
            if value is not None:
                continue
            said = set(words(name))
            yield from ({(*path, name): usual} for usual in _of_upstream(node, name, code))
            if said & {"indices", "indexes", "idxs", "idx"}:
                yield {(*path, name): [1]}
            elif "types" in said or {"block", "type"} <= said:
                length = depth if isinstance(depth, int) else 2
                pairs = itertools.chain(_own_pair(node, name), _pairs(node))
                yield from ({(*path, name): (pair * length)[:length]} for pair in pairs)
            elif "map" in said:
                yield from ({(*path, name): empty_or_one} for empty_or_one in ({}, [[0, 0]]))
            elif sizes.kind(name) in FILL:
                every[(*path, name)] = 2 if sizes.are_chosen(name) else FILL[sizes.kind(name)]
            elif re.search(rf"\b{name}\.split\(\"/\"\)", code):
                yield {(*path, name): "1/2"}
            elif said & {"length", "horizon", "prediction"} or re.search(rf"\b{name}\b", required + code):
                every[(*path, name)] = 2 if "ratio" in said else 8
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


def _of_upstream(config: PreTrainedConfig, name: str, code: str) -> Iterator[Any]:
    """What upstream says of a field that is None: its documented default; the words by which a table is read; factors of stages."""
    if not re.search(rf"\b{name}\b", code):
        return
    said = re.search(rf"^ *{name} \(.*defaults to `(\[[\d., ]+\])`\)", inspect.getsource(type(config)), re.M)
    if said:
        yield json.loads(said[1])
    if re.search(rf"\*{name}\[\"", code):  # kernel, stride and padding of convolutions that are added to each other
        yield {word: [1, 1, 0] for word in re.findall(rf"\b{name}\[\"(\w+)\"\]", _code(config))}
    if words(name)[0] == "class" and isinstance(labels := attribute(config, "num_labels"), int):  # one for each
        yield from ([0.5] * labels, list(range(labels)))
    if {"factor", "list"} <= set(words(name)):
        stages = max((len(attribute(node, "out_features") or ()) for _, node in nodes(config)), default=0)
        yield [2**place for place in range(stages)]


def _own_pair(config: PreTrainedConfig, name: str) -> Iterator[list[str]]:
    """The two words that upstream says a list `name` may hold, where its code compares with one of them."""
    said = re.search(
        rf"^ *{name} \(.*\n((?!^ *\w+ \(`).*\n)*?(?= *\w+ \(`| *\"\"\")", inspect.getsource(type(config)), re.M
    )
    kinds = list(dict.fromkeys(re.findall(r"`\"(\w+)\"`", said[0]))) if said else []
    compared = re.findall(rf"\b{name}\b[^\n]{{0,30}}[!=]= *\"(\w+)\"", _code(config))
    if len(kinds) == 2 and set(compared) & set(kinds):
        yield kinds


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


def _equal_products(config: PreTrainedConfig, text: str) -> Iterator[Changes]:
    """Of two products that must be equal one gets a factor that makes it so; the last factor first."""
    said = re.search(r"(\w+) \* (\w+) (?:\(\d+\) )?must (?:match|equal) (\w+) \* (\w+)", text)
    for path, node in nodes(config) if said else ():
        one, other = ([attribute(node, name) for name in said.groups()[at : at + 2]] for at in (0, 2))  # type: ignore[union-attr]
        if not all(isinstance(number, int) and number > 0 for number in (*one, *other)):
            continue
        for names, pair, product in ((said.groups()[2:], other, one), (said.groups()[:2], one, other)):  # type: ignore[union-attr]
            for place in (1, 0):
                wanted, rest = divmod(product[0] * product[1], pair[1 - place])
                if not rest and wanted != pair[place]:
                    yield {(*path, names[place]): wanted}


def _for_each_kind(config: PreTrainedConfig, text: str, code: str) -> Iterator[Changes]:
    """A table that is read by kind of layer, and has no entry for one, gets the same entry for each kind."""
    (word,) = re.findall(r"KeyError: '(\w+)'", text) or [""]
    for path, node in nodes(config):
        own = own_fields(node)
        kinds = next((value for value in own.values() if isinstance(value, list) and word in value), [])
        for name, table in own.items() if kinds else ():
            if isinstance(table, dict) and re.search(rf"\.{name}\[", code):
                entry = next((e for e in table.values() if isinstance(e, dict)), _usual_entry(name))
                yield {(*path, name): {kind: copy.deepcopy(entry) for kind in kinds} | table}


def _usual_entry(name: str) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0} if "rope" in words(name) else {}


def _coarser(config: PreTrainedConfig, text: str) -> Iterator[Changes]:
    """Where a map of patches meets a smaller one, which convolutions made, patches and images are several times as large."""
    said = re.search(r"except in dimension 1\. Expected size (\d+) but got size (\d+)", text)
    fields = sizes.of_kind(config, "patch", "image") if said and int(said[1]) < int(said[2]) else {}
    for times in (2, 4) if any(sizes.kind(path[-1]) == "patch" for path in fields) else ():
        yield {path: sizes.like(v, (times * n for n in sizes.integers(v))) for path, v in fields.items()}


def _as_wide(config: PreTrainedConfig, text: str) -> Iterator[Changes]:
    """Of two widths that are to be joined one becomes the other; of a list of widths, the last."""
    said = re.search(r"Expected size (\d+) but got size (\d+)", text)
    pair = {int(said[1]): int(said[2]), int(said[2]): int(said[1])} if said else {}
    for path, value in sizes.of_kind(config, "width").items():
        *before, last = sizes.integers(value)
        if last in pair:
            yield {path: sizes.like(value, [*before, pair[last]])}


def _multiplied(config: PreTrainedConfig, text: str) -> Iterator[Changes]:
    """A width that a matrix is told, and that is not the one which comes to it, becomes that."""
    said = re.search(r"\(\d+x(\d+) and (\d+)x\d+\)", text)
    for path, value in sizes.of_kind(config, "width").items() if said else ():
        if value == int(said[2]):  # type: ignore[index]
            yield {path: int(said[1])}  # type: ignore[index]


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


def _as_many_as_stages(config: PreTrainedConfig) -> Iterator[Changes]:
    """Lists with an entry per stage that are longer than the stages are now end with the last of them."""
    for path, node in nodes(config):
        own, default = own_fields(node), _default_of(node)
        for count, before in default.items():
            now = own.get(count)
            if (
                sizes.kind(count) != "depth"
                or not isinstance(before, int)
                or not isinstance(now, int)
                or now >= before
            ):
                continue
            cut = {(*path, name): [*value[:now]] for name, value in own.items()
                   if sizes.integers(value) and isinstance(value, (list, tuple)) and len(value) == before}  # fmt: skip
            if cut:
                yield cut


def _channels(text: str) -> tuple[int, int]:
    """How many channels a convolution is told, and how many come to it; none where the error is another."""
    said = re.search(r"to have (\d+) channels, but got (\d+) channels", text)
    return (int(said[1]), int(said[2])) if said else (0, 0)


def _more_stages(config: PreTrainedConfig, text: str) -> Iterator[Changes]:
    """A backbone hands on as many stages as are to be joined: the channels that are wanted, by those that came."""
    told, came = _channels(text)
    times, rest = divmod(told, came) if came else (0, 0)
    for path, node in nodes(config) if times > 1 and not rest else ():
        stages, handed = (attribute(node, name) or [] for name in ("stage_names", "out_features"))
        if len(handed) < times <= len(stages):
            yield {(*path, "out_features"): stages[-times:]}


def _as_many_channels(config: PreTrainedConfig, text: str) -> Iterator[Changes]:
    """Of a list of channels that convolutions are told, one becomes the number of those that come; later stages may have twice as many each."""
    told, came = _channels(text)
    for path, value in sizes.of_kind(config, "width").items() if came else ():
        if isinstance(value, (list, tuple)) and told in value:
            before, after = value[: value.index(told)], value[value.index(told) + 1 :]
            yield {path: [*before, came, *(came * 2**stage for stage in range(1, len(after) + 1))]}
            yield {path: [*before, came, *after]}


def _wide_as_a_stream(config: PreTrainedConfig, text: str) -> Iterator[Changes]:
    """Channels that come to a convolution beside others are as many as the stream of the part that gives them."""
    told, came = _channels(text)
    streams = {attribute(node, name) for path, node in nodes(config) if path for name in sizes.STREAM}
    for path, value in sizes.of_kind(config, "width").items() if came else ():
        wider = value + came - told if isinstance(value, int) else None
        if wider and wider in streams:
            yield {path: wider}


def _first_kept(config: PreTrainedConfig) -> Iterator[Changes]:
    """Channels that come first meet those of a stem, which may be no field: they get their default again."""
    for path, node in nodes(config):
        own, default = own_fields(node), _default_of(node)
        for name, value in own.items():
            if sizes.kind(name) == "width" and isinstance(value, (list, tuple)) and sizes.integers(value):
                first = (sizes.integers(default.get(name)) or [value[0]])[0]
                if first != value[0]:
                    yield {(*path, name): [first, *value[1:]]}


def _as_many_features(config: PreTrainedConfig, text: str) -> Iterator[Changes]:
    """A norm that is told the width of what comes to it is told the right one."""
    wanted, told = (int(number) for number in re.findall(r"\d+", text)[:2])
    yield from ({path: wanted} for path, value in sizes.of_kind(config, "width").items() if value == told)


def _default_of(node: PreTrainedConfig) -> dict[str, Any]:
    try:
        return own_fields(type(node)())
    except Exception:
        return {}


def _dividing(config: PreTrainedConfig, text: str) -> Iterator[Changes]:
    """Heads that do not divide their stream become as many as do: "got `embed_dim`: 1152 and `num_heads`: 14"."""
    numbers = [int(number) for number in re.findall(r"(?<![\w.])\d+(?![\w.])", text)]
    for path, value in sizes.of_kind(config, "heads").items():
        for stream in numbers if value in numbers else ():
            if stream > value:
                yield {path: max(n for n in range(1, value + 1) if not stream % n)}


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
