"""Inputs of a forward, found by trying: what its parameters are called, what the config says, what errors ask for."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import itertools
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from conformance.instances.fields import Path, attribute, nodes, words
from conformance.instances.reach import unreached
from conformance.instances.recipes import Recipe, tensors
from conformance.instances.sizes import integers
from conformance.instances.trial import Failed, further, ran, takes
from conformance.tiny import randomise

BATCH = 3
LENGTH = 8
FIRST_TOKEN = 5
MOST_TRIES = 90
ROOM = 40  # tokens that a vocabulary has at least
MISSING = 98  # the first token that is given where a config leaves out which
PATIENCE = 3  # times as long are features tried as a forward: all others follow from them
LIKELY = 20  # choices that are tried as they are before any is mended
UNREAD = "is not read"
MOST_NUMBERS = 1 << 20  # in one tensor that is tried
PER_ROW = 2  # images, where a row may have several
FEW = 2  # tokens that stand for an image or a sound until an error says how many: one alone may mean something else


@dataclass(frozen=True)
class Facts:
    """What a config says about inputs."""

    config: PreTrainedConfig
    image: int = 16  # the shorter side
    patch: int = 4
    temporal: int = 1
    merge: int = 1
    channels: int = 3
    bins: int = 16
    frames: int = 32
    vocabulary: int = 99
    hidden: int = 32
    context: int = 16
    clip: int = 4  # pictures of a video
    put: Mapping[str, int] = field(default_factory=dict)  # placeholders in the tokens: "image" -> how many per row

    @property
    def grid(self) -> int:
        return max(2, 2 * self.merge)

    @property
    def patches(self) -> int:
        """Along the side of an image."""
        return max(1, self.image // self.patch)

    @property
    def patch_width(self) -> int:
        return self.channels * self.temporal * self.patch * self.patch


def facts_of(config: PreTrainedConfig, put: Mapping[str, int] | None = None) -> Facts:
    vision = _first(
        config,
        ("image_size", "img_size", "max_img_size", "num_frames", "patch_size", "num_channels", "in_channels"),
        ("vision", "image"),
    )
    sound = _first(config, ("num_mel_bins", "feature_size", "max_source_positions"), ("audio", "speech", "encoder"))
    text = _text(config)
    return Facts(
        config,
        image=_image(config, vision),
        patch=_patch(vision),
        temporal=_number(vision, ("temporal_patch_size", "patch_temporal"), 1),
        merge=_number(vision, ("spatial_merge_size", "merge_size", "merge_kernel_size", "pooling_kernel_size", "window_kernel_size"), 1),
        channels=_number(vision, ("num_channels", "in_channels", "in_chans", "image_channels", "mask_input_channels"), 3),
        bins=_number(sound, ("num_mel_bins", "feature_size", "input_feat_size", "n_mels", "num_mel_filters", "input_feat_per_channel", "input_channels", "mel_bins", "input_dim"), 16),
        frames=_frames(sound),
        vocabulary=_vocabulary(config, _number(text, ("vocab_size",), _number(config, ("vocab_size", "codebook_size"), 50))),
        hidden=_number(text, ("hidden_size", "d_model", "n_embd", "embed_dim", "dim"), 32),
        context=_number(config, ("context_length", "seq_length"), 16),
        clip=_number(vision, ("num_frames",), 4),
        put=put or {},
    )  # fmt: skip


def _patch(vision: PreTrainedConfig) -> int:
    every = (_number(node, ("patch_size", "patch_sizes", "image_patch_size"), 0) for _, node in nodes(vision))
    return next((number for number in every if number), 4)


def _image(config: PreTrainedConfig, vision: PreTrainedConfig) -> int:
    """Where no size is named, strides are: after five of two, 64 pixels are still more than one position."""
    for node in (vision, *(node for _, node in nodes(config))):
        for name in ("image_size", "img_size", "input_size", "crop_size", "max_img_size"):
            if numbers := integers(attribute(node, name)):
                return min(numbers)
    patches = _number(vision, ("num_patches",), 0)
    return math.isqrt(patches) * _patch(vision) if patches else 64


def _text(config: PreTrainedConfig) -> PreTrainedConfig:
    for decoder in (None, True):
        try:
            return config.get_text_config(decoder=decoder)
        except ValueError:  # it holds several
            continue
    return config


def _vocabulary(config: PreTrainedConfig, otherwise: int) -> int:
    """The smallest of those that are none of a toy: tokens of it are in every one."""
    every = [n for _, node in nodes(config) for n in integers(attribute(node, "vocab_size"))]
    return min((number for number in every if ROOM <= number <= otherwise), default=otherwise)


def _frames(sound: PreTrainedConfig) -> int:
    positions = _number(sound, ("max_source_positions",), 0)
    return 2 * positions if positions else _number(sound, ("max_length", "spec_size"), 64)


def _first(config: PreTrainedConfig, names: tuple[str, ...], said: tuple[str, ...]) -> PreTrainedConfig:
    """The config within whose path says one of `said`, or that has one of the fields; the outermost of those."""
    every = list(nodes(config))
    for path, node in every:
        if path and set(words(path[-1])) & set(said) and any(integers(attribute(node, name)) for name in names):
            return node
    for _, node in every:
        if any(integers(attribute(node, name)) for name in names):
            return node
    return config


def _number(node: PreTrainedConfig, names: tuple[str, ...], otherwise: int) -> int:
    for name in names:
        numbers = integers(attribute(node, name))
        if numbers:
            return numbers[0]
    return otherwise


def alternatives(name: str, facts: Facts) -> list[Recipe]:
    """What the parameter `name` might want, the likeliest first. Their order does not depend on sizes."""
    has = set(words(name))
    if {"images", "per"} <= has:  # how many belong to each row
        return [{"kind": "long", "value": [number] * BATCH} for number in (1, PER_ROW)]
    if "pooling" in has and "token" in has:
        return [_pooled(facts)]
    if name == "pixel_values" or (has & {"pixel", "image", "images", "frame", "sample"} and not has & {
        "mask", "ids", "grid", "grids", "sizes", "embeds", "size", "embeddings", "features", "position", "num", "crops", "pooling", "attention", "states",
    } and "videos" not in has):  # fmt: skip
        return _images(facts)
    if "videos" in has and "pixel" in has:
        return _videos(facts)
    if has & {"thw", "hw", "shapes", "grids"} or "grid" in has:
        return _grids(has, facts)
    if "sizes" in has and "merge" in has:
        return [{"kind": "long", "value": [facts.merge] * BATCH}]
    if "sizes" in has:
        return [{"kind": "long", "value": [[size, size]] * BATCH} for size in (facts.image, facts.grid)]
    if has & {"mask", "masks"} and "observed" not in has:
        return _masks(has, facts)
    if "position" in has and has & {"pixel", "image", "patch"}:
        return [_places(facts)]
    if has & {"ids", "codes"} and has & {"input", "codes"}:
        return _tokens(name, facts)
    if "ids" in has:
        kinds = {"put": [[1, *span] for span in _spans(facts)]} if {"type", "mm"} <= has and facts.put else {}
        return [_filled("zeros", BATCH, _length(facts), **kinds), _filled("range", BATCH, _length(facts))]
    if name in {"input_values", "waveform", "audio"} or has & {"waveform"}:
        return _sounds(facts)
    if has & {"features", "mel"} and has & {"input", "audio"}:
        return _spectra(facts)
    if {"flattened", "patches"} <= has:  # behind the row and the column of each, which are whole numbers
        return [_filled("unit", BATCH, LENGTH, facts.hidden)]
    if {"decoder", "values"} <= has:  # states that something before has made
        return [_filled("normal", BATCH, LENGTH - 1, facts.hidden), *_spectra(facts)]
    if "values" in has or has & {"past", "future", "observed"}:
        return _series(has, facts)
    if has & {"bbox", "boxes"}:
        whole = {"kind": "boxes", "shape": [BATCH, LENGTH, 4], "high": 64}
        return [whole, _filled("unit", BATCH, 2, 4), _filled("ids", BATCH, 2, low=0, high=2)]
    if "timesteps" in has:
        return [_filled("range", BATCH, LENGTH), *_others(facts)]
    if "structure" in has:  # how many of something there are for each row
        return [_filled("ones", BATCH), *_others(facts)]
    if has & {"rewards", "returns"}:  # one number a step
        return [_filled("normal", BATCH, LENGTH, 1), *_others(facts)]
    if name == "labels":
        return _tokens(name, facts)
    if name == "inputs":  # of an encoder of any kind: text and images have names of their own
        return [*_sounds(facts)[:1], *_others(facts)]
    return [*_own_width(name, facts), *_others(facts)]


def _own_width(name: str, facts: Facts) -> list[Recipe]:
    """``actions`` have the width that the config calls ``act_dim``, ``task_inputs`` the length ``task_seq_len``."""
    for field_name, value in vars(facts.config).items():
        stem, _, last = field_name.rpartition("_")
        if last in ("dim", "size") and len(stem) > 2 and name.startswith(stem) and integers(value):
            return [_filled("normal", BATCH, LENGTH, *integers(value)[:1])]
        if last == "len" and words(name)[0] == words(stem)[0] and integers(value):
            return [_filled("ids", BATCH, *integers(value)[:1], low=0, high=facts.vocabulary)]
    return []


def _filled(kind: str, *shape: int, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "shape": list(shape), **more}


def _images(facts: Facts) -> list[Recipe]:
    size, channels = facts.image, facts.channels
    flat = BATCH * facts.grid * facts.grid
    return [
        _filled("normal", BATCH, channels, size, size),
        _filled("normal", flat, facts.patch_width),
        _filled("normal", BATCH, 1, channels, size, size),
        _filled("normal", BATCH, facts.grid * facts.grid, facts.patch_width),
        _filled("normal", BATCH, facts.clip, channels, size, size),
        _filled("normal", flat, channels, facts.patch, facts.patch),
        _filled("normal", BATCH, channels, 2, size, size),
        _filled("normal", BATCH, 2, channels, size, size),
        _filled("normal", 1, channels, facts.patch, flat * facts.patch),  # patches of all images in a row
        _filled("normal", flat, facts.merge * facts.patch, facts.merge * facts.patch, channels),
        _filled("normal", BATCH, channels, 2 * size, 2 * size),
        _filled("normal", BATCH, 1, 1, channels, size, size),
        _filled("normal", BATCH, channels, 4 * size, 4 * size),  # cut into patches that are images (Depth Pro)
        _filled("normal", BATCH, facts.patches * facts.patches, facts.patch_width),
        _filled("normal", flat, facts.temporal, facts.patch, facts.patch, channels),  # each patch as a video (Inkling)
    ]


def _pooled(facts: Facts) -> Recipe:
    """The numbers of the patches, counted through all images, that are pooled into each token: those of a window."""
    side = max(1, facts.patches // facts.grid)
    windows = itertools.product(range(BATCH), range(facts.grid), range(facts.grid))
    within = list(itertools.product(range(side), repeat=2))

    def patch(image: int, row: int, column: int) -> int:
        return (image * facts.patches + row) * facts.patches + column

    value = [[patch(i, side * y + dy, side * x + dx) for dy, dx in within] for i, y, x in windows]
    return {"kind": "long", "value": value}


def _places(facts: Facts) -> Recipe:
    """The column and the row of every patch."""
    places = [[column, row] for row in range(facts.grid) for column in range(facts.grid)]
    return {"kind": "long", "value": [places] * BATCH}


def _videos(facts: Facts) -> list[Recipe]:
    size, channels, frames = (
        facts.image,
        facts.channels,
        max(2, attribute(facts.config, "num_frames") or attribute(facts.config, "frames_per_clip") or 2),
    )
    return [
        _filled("normal", BATCH, frames, channels, size, size),
        _filled("normal", BATCH * facts.grid * facts.grid, facts.patch_width),
        _filled("normal", BATCH, channels, frames, size, size),
    ]


def _grids(has: set[str], facts: Facts) -> list[Recipe]:
    pairs = {"kind": "long", "value": [[facts.grid, facts.grid]] * BATCH}
    triples = {"kind": "long", "value": [[1, facts.grid, facts.grid]] * BATCH}
    whole = {"kind": "long", "value": [[facts.grid, facts.grid, 0, 0]] * BATCH}  # without crops of higher resolution
    several = {"kind": "long", "value": [[1, facts.grid, facts.grid]] * BATCH * PER_ROW}  # one more is to be generated
    return [pairs, triples] if has & {"shapes", "hw"} else [triples, pairs, whole, several]


def _masks(has: set[str], facts: Facts) -> list[Recipe]:
    tokens = _filled("ones", BATCH, _length(facts))
    images = _filled("ones", BATCH, facts.image, facts.image)
    patches = _filled("ones", BATCH, facts.grid * facts.grid)
    sounds = _filled("ones", BATCH, facts.frames)
    if has & {"prompt", "prompts"}:  # painted over a picture
        return [_filled("unit", BATCH, facts.channels, facts.image, facts.image), images, tokens]
    if "position" in has and facts.put:  # of vectors in the place of tokens
        return [_filled("ids", BATCH, _length(facts), low=0, high=1, put=[[1, *span] for span in _spans(facts)])]
    if {"image", "attention"} <= has:  # which tokens see which of the images
        return [_filled("ones", BATCH, _length(facts), 1), tokens, images]
    if has & {"pixel", "image"}:
        tiles = [_filled("ones", BATCH, number, dtype="bool") for number in (1, 2)]
        return [images, patches, *tiles, _filled("ones", BATCH, 1, facts.image, facts.image, dtype="bool"), tokens]
    if {"input", "features"} <= has:  # some models index by it, where whole numbers would mean places
        return [_filled("ones", BATCH, facts.frames, dtype="bool"), sounds, tokens]
    if has & {"feature", "features", "padding", "mel", "audio"}:
        return [sounds, _filled("ones", BATCH, facts.frames, dtype="bool"), tokens]
    return [tokens, _filled("ones", BATCH, _length(facts), dtype="bool"), sounds]


def _length(facts: Facts) -> int:
    return LENGTH + sum(facts.put.values())


def _spans(facts: Facts) -> list[tuple[int, int]]:
    """First place and number of what stands in the place of tokens."""
    starts = itertools.accumulate((number + 1 for number in facts.put.values()), initial=1)
    return list(zip(starts, facts.put.values(), strict=False))


def placeholder(config: PreTrainedConfig, what: str) -> int | None:
    """The token that stands for one vector of an image ("image"), a sound ("audio") or a video."""
    for _, node in nodes(config):
        for name, value in vars(node).items():
            if integers(value) and isinstance(value, int) and stands_for(name, what):
                return value
    return None


def stands_for(name: str, what: str) -> bool:
    """``image_token_id``, ``image_token_index`` and ``image_patch_id`` for "image"."""
    said = words(name)
    return (
        said[:1] == (what,)
        and bool({"token", "patch"} & set(said))
        and said[-1] in {"id", "index"}
        and not {"start", "end", "begin"} & set(said)
    )


def missing_placeholders(config: PreTrainedConfig) -> dict[Path, int]:
    """Where a config leaves out which token stands for an image, a sound or a video: each another one."""
    missing = [
        (*path, name)
        for path, node in nodes(config)
        for name, value in vars(node).items()
        if value is None and any(stands_for(name, what) for what in ("image", "audio", "video"))
    ]
    return {path: MISSING - place for place, path in enumerate(missing)}


def _tokens(name: str, facts: Facts) -> list[Recipe]:
    said = words(name)
    if said[0] == "decoder":
        books = _number(_decoder(facts.config), ("num_codebooks", "num_channels"), 4)
        one = {"low": FIRST_TOKEN, "high": _decoder_vocabulary(facts)}
        return [_filled("ids", BATCH, LENGTH - 1, **one), _filled("ids", BATCH, LENGTH - 1, books, **one)]
    low, top = _plain_tokens(facts)
    high = facts.vocabulary
    put = []
    if name == "input_ids":
        tokens = (placeholder(facts.config, what) for what in facts.put)
        put = [[token, *span] for token, span in zip(tokens, _spans(facts), strict=True) if token is not None]
    one = _filled("ids", BATCH, _length(facts), low=low, high=top, **({"put": put} if put else {}))
    if put:
        return [one]
    books = _number(facts.config, ("num_codebooks", "n_codebooks", "num_quantizers"), 4)
    # A spectrum in whole numbers (Inkling).
    binned = [_filled("ids", BATCH, LENGTH, facts.bins, low=0, high=min(high, 20))] if "audio" in said else []
    return [
        *binned,
        one,
        _filled("ids", BATCH, books, LENGTH, low=0, high=min(high, 20)),
        _filled("ids", BATCH, LENGTH, books, low=0, high=min(high, 20)),
        _filled("ids", BATCH, 64, low=low, high=top),
        _filled("ids", BATCH, 2, LENGTH, low=low, high=top),
    ]


def _plain_tokens(facts: Facts) -> tuple[int, int]:
    """The longest range of tokens of which none is special."""
    low = min(FIRST_TOKEN, facts.vocabulary - 1)
    special = {
        number
        for _, node in nodes(facts.config)
        for name, value in vars(node).items()
        if "token" in words(name) or any(stands_for(name, what) for what in ("image", "audio"))
        for number in integers(value)
        if low <= number < facts.vocabulary
    }
    ends = [low - 1, *sorted(special), facts.vocabulary]
    before, after = max(itertools.pairwise(ends), key=lambda pair: pair[1] - pair[0])
    return (before + 1, after) if after - before > 1 else (low, facts.vocabulary)


def _decoder_vocabulary(facts: Facts) -> int:
    return _number(_decoder(facts.config), ("vocab_size", "decoder_vocab_size"), facts.vocabulary)


def _decoder(config: PreTrainedConfig) -> PreTrainedConfig:
    parts = (attribute(config, name) for name in ("decoder", "decoder_config"))
    return next((part for part in parts if isinstance(part, PreTrainedConfig)), config)


def _sounds(facts: Facts) -> list[Recipe]:
    return [
        _filled("normal", BATCH, 800),
        _filled("normal", BATCH, 1, 800),
        _filled("normal", BATCH, facts.frames, facts.bins),
        _filled("normal", BATCH, facts.bins, facts.frames),
        _filled("normal", BATCH, 6400),
        _filled("normal", BATCH, 2, 800),
        _filled("normal", BATCH, 1, 6400),
        _filled("normal", BATCH, LENGTH, facts.hidden),
    ]


def _spectra(facts: Facts) -> list[Recipe]:
    return [
        _filled("normal", BATCH, facts.bins, facts.frames),
        _filled("normal", BATCH, facts.frames, facts.bins),
        _filled("normal", BATCH, 1, facts.frames, facts.bins),
        _filled("normal", BATCH, 800),
        _filled("normal", BATCH, 1, 800),
        _filled("normal", BATCH, facts.frames, 160),
        _filled("normal", BATCH, facts.bins, 4 * facts.frames),
    ]


def _series(has: set[str], facts: Facts) -> list[Recipe]:
    lags = max(integers(attribute(facts.config, "lags_sequence")) or [0])
    if "future" in has:
        return _series_of(has, facts, _number(facts.config, ("prediction_length",), facts.context))
    if "padding" in has:
        return [_filled("zeros", BATCH, facts.context)]
    return [*_series_of(has, facts, facts.context + lags), *_series_of(has, facts, facts.context)]


def _series_of(has: set[str], facts: Facts, length: int) -> list[Recipe]:
    channels = _number(facts.config, ("num_input_channels", "input_size"), 1)
    kind = "ones" if has & {"observed", "mask"} else "normal"
    more = {"dtype": "float"} if kind == "ones" else {}
    if "time" in has:
        return 2 * [_filled(kind, BATCH, length, _number(facts.config, ("num_time_features",), 1), **more)]
    return [_filled(kind, BATCH, length, channels, **more), _filled(kind, BATCH, length, **more)]


def _others(facts: Facts) -> list[Recipe]:
    return [
        _filled("normal", BATCH, LENGTH, facts.hidden),
        _filled("normal", BATCH * facts.grid * facts.grid, facts.patch_width),
        _filled("normal", BATCH, facts.hidden),
        _filled("normal", BATCH, facts.channels, facts.image, facts.image),
        _filled("ids", BATCH, LENGTH, low=0, high=2),
        _filled("ids", BATCH, low=0, high=2),
        _filled("normal", BATCH, facts.hidden, LENGTH),
        {"kind": "plain", "value": 1},
        _filled("normal", BATCH, 1, 6400),  # a sound, whatever it is called
    ]


@dataclass(frozen=True)
class Found:
    """Which alternative of which parameter ran, and what was written over its shape."""

    choice: Mapping[str, int]
    overrides: Mapping[str, Recipe] = field(default_factory=dict)
    put: Mapping[str, int] = field(default_factory=dict)
    missed: frozenset[str] = frozenset()  # layers that did not run
    why: Failed | None = None  # what upstream raised on inputs that might have reached them

    def recipes(self, config: PreTrainedConfig) -> dict[str, Recipe]:
        facts = facts_of(config, self.put)
        made = {name: alternatives(name, facts)[place] for name, place in self.choice.items()}
        return {**made, **self.overrides}


def find(model: PreTrainedModel, seconds: float = 1) -> Found:
    """Inputs on which `model` runs, all its layers if possible; raises `Failed` with the most telling error."""
    told: list[Failed] = []
    best: Found | None = None
    parts: dict[str, list[Found]] = {}
    for kinds, standing in (*((kinds, _standing) for kinds in PLACEHOLDERS), (PLACEHOLDERS[0], _restated)):
        asked = [what for what in kinds if standing is _standing or what in parts]
        more = {what: founds for what in asked if (founds := standing(model, what, seconds, told))}
        if best is not None and not more:
            continue
        parts |= more
        for names, given in _sets(model, parts):
            deadline = time.process_time() + seconds
            try:
                found = _tried(model, model.config, takes(model), names, given, deadline)
            except Failed as failed:
                told.append(failed)
                continue
            missed = unreached(model, tensors(found.recipes(model.config)))
            if best is None or len(missed) < len(best.missed):
                best = replace(found, missed=missed)
            if not missed:
                return replace(best, why=_furthest(told))
    if best is None:
        raise _furthest(told) or Failed(ValueError(f"{type(model).__name__} takes no inputs that are known"))
    return _with_optional(model, replace(best, why=_furthest(told)), seconds)


def _with_optional(model: PreTrainedModel, best: Found, seconds: float) -> Found:
    """`best`, with tensors that may be left out: those with which more layers run. One that is asked for comes along."""
    for name, entry in takes(model).items():
        if not best.missed or not _optional_tensor(name, entry) or name in best.choice:
            continue
        try:
            given = replace(best, missed=frozenset())
            found = _tried(model, model.config, takes(model), [name], given, time.process_time() + seconds / 2)
        except Failed:
            continue
        missed = unreached(model, tensors(found.recipes(model.config)))
        if len(missed) < len(best.missed):
            best = replace(found, missed=missed, why=best.why)
    return best


def _optional_tensor(name: str, entry: inspect.Parameter) -> bool:
    """Neither what stands for the embeddings of something else, nor a mask or a number of places, which no layer waits for."""
    said = {"mask", "ids", "embeds", "outputs"} & set(words(name))
    given = name == "labels" or name not in _NEVER  # a part may read what another is to give (CSM)
    return given and not said and entry.default is None and "Tensor" in str(entry.annotation)


def _furthest(told: list[Failed]) -> Failed | None:
    """The error that got furthest; beside it first what other sets of inputs met, then what its own set did."""
    most: Failed | None = None
    for failed in told:
        most = further(most, failed)
    if most is not None:
        every = {str(failed): failed for failed in (*told, *most.others) if str(failed) != str(most)}
        most.others = tuple(every.values())
    return most


def _standing(model: PreTrainedModel, what: str, seconds: float, told: list[Failed]) -> list[Found]:
    """Inputs of images, sounds or videos, with the number of tokens that stand for them; errors on the way are `told`.

    The number is counted in what the model makes of them; where it makes nothing that can be counted, or only beside as many tokens, an
    error states it.
    """
    try:
        return _counted(model, what, seconds) or _stated(model, what, seconds)
    except Failed as failed:
        told.append(failed)
        return []


def _restated(model: PreTrainedModel, what: str, seconds: float, told: list[Failed]) -> list[Found]:
    """The same by what errors state alone: in the form that was counted, features may be no tokens yet (GLM-Image's get a code each)."""
    try:
        return _stated(model, what, seconds)
    except Failed as failed:
        told.append(failed)
        return []


def _counted(model: PreTrainedModel, what: str, seconds: float) -> list[Found]:
    """As `_features`; empty, too, where the tokens that stand for the features have to be there when they are made (MusicFlamingo).

    And where what is made of them hides all: the forward may give it the mask the other way round (Gemma 3n).
    """
    try:
        return _features(model, what, seconds)
    except Failed as failed:
        if not features_stated([str(one) for one in (failed, *failed.others)]) and UNREAD not in str(failed):
            raise
        return []


def _sets(model: PreTrainedModel, parts: Mapping[str, list[Found]]) -> Iterator[tuple[list[str], Found]]:
    """Sets of parameters beside those of features that are known, the richest that is likely first."""
    joined = [_joined(*one) for one in itertools.product(*parts.values())] if len(parts) > 1 else []
    for given in [*joined, *itertools.chain(*parts.values()), Found({})]:
        for names in _names(model, given):
            yield names, given


def _joined(*parts: Found) -> Found:
    return Found(
        *({k: v for part in parts for k, v in getattr(part, name).items()} for name in ("choice", "overrides", "put"))
    )


def _names(model: PreTrainedModel, given: Found) -> Iterator[list[str]]:
    known = takes(model)
    main = model.main_input_name
    mains = [name for name in ([main] if isinstance(main, str) else main) if name in known]
    required = [name for name, entry in known.items() if entry.default is entry.empty and name not in mains]
    base = [*mains, *required]
    text = [] if "input_ids" in base or "input_ids" not in known else ["input_ids"]
    decoder = [name for name in ("decoder_input_ids", "future_values", "future_time_features") if name in known]
    if given.choice:
        yield [name for name in (*base, *text, *decoder) if name not in given.choice]
        return
    pictures = [name for name in ("pixel_values", "image_grid_thw") if name in known and name not in base]
    sounds = [
        name
        for name in ("input_features", "input_values", "audio_input_features")
        if name in known and not {name, "inputs"} & set(base)  # other names of the same
    ][:1]
    grids = [
        name
        for name in ("spatial_shapes", "image_grid_hw", "image_sizes", "pixel_attention_mask")
        if name in known and name not in base
    ]
    seen: list[list[str]] = []
    for extra in (
        [*text, *decoder, *pictures, *sounds],
        [*text, *decoder, *pictures],
        [*text, *decoder, *pictures, *grids],
        [*text, *decoder, *sounds],
        [*decoder],
        [],
        [*text],
    ):
        names = [*base, *extra]
        if names and names not in seen:
            seen.append(names)
            yield names


def _tried(
    call: Callable[..., Any],
    config: PreTrainedConfig,
    known: Mapping[str, inspect.Parameter],
    names: list[str],
    given: Found,
    deadline: float,
) -> Found:
    """`given`, and inputs called `names` beside it, on which `call` runs."""
    run = _Once(call)
    failures: dict[str, Failed] = {}
    for turn in range(6):
        asked: list[str] = []
        texts: list[str] = []
        failures = {}  # what is said once all is given tells more
        for found, attempt in _attempts(config, names, given):
            late = time.process_time() > deadline + turn / 2
            if failures and (late or (not asked and _constant(texts))):
                raise _telling(failures)
            try:
                return attempt(run, config, found, deadline + turn / 2)
            except Failed as failed:
                failed.on = failed.on or (call, found.recipes)
                failures.setdefault(str(failed), failed)
                texts.append(str(failed))
                ours = [*names, *asked, *given.choice]
                asked += _asked(failed, known, ours)
            if asked and len(texts) >= 3 and "None" in texts[-1]:
                break  # no other shape helps where something is None
        if not asked:
            break
        names = [*names, *asked[:2]]
    raise _telling(failures)


def _telling(failures: Mapping[str, Failed]) -> Failed:
    first, *others = sorted(failures.values(), key=lambda failed: failed.reached, reverse=True)
    first.others = tuple(others)
    return first


def _constant(texts: list[str]) -> bool:
    """Whether so many inputs of other shapes failed in the same words that it is not for the inputs."""
    return len(texts) > LIKELY // 2 and len(set(texts)) == 1


def _attempts(config: PreTrainedConfig, names: list[str], given: Found) -> Iterator[tuple[Found, Any]]:
    """First the likeliest inputs as they are, and each alternative among likely others; then all, with what errors ask for."""
    facts = facts_of(config, given.put)
    counts = {name: len(alternatives(name, facts)) for name in names}
    every, alone = (
        [replace(given, choice={**given.choice, **choice}) for choice in of(counts)] for of in (choices, one_unlikely)
    )
    likely = every[:LIKELY]
    yield from ((found, _plain) for found in [*likely, *(found for found in alone if found not in likely)])
    if len(counts) > 1:
        yield every[0], _repaired
        yield every[0], functools.partial(_climbed, counts)
    yield from ((found, _repaired) for found in every)


class _Once:
    """Runs what is called on each set of recipes once: what failed before fails again at no cost."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call
        self._failed: dict[str, Failed] = {}

    def __call__(self, recipes: Mapping[str, Recipe]) -> None:
        key = json.dumps(recipes, sort_keys=True)
        if key in self._failed:
            raise self._failed[key]
        try:
            ran(self.call, tensors(recipes))
        except Failed as failed:
            self._failed[key] = failed.light()
            raise


def _plain(run: _Once, config: PreTrainedConfig, found: Found, deadline: float) -> Found:
    run(found.recipes(config))
    return found


def _climbed(counts: Mapping[str, int], run: _Once, config: PreTrainedConfig, found: Found, deadline: float) -> Found:
    """`found`, with one alternative after the other exchanged for that with which upstream gets furthest before it fails."""
    best: Failed | None = None
    start: Found | None = None
    while start is not found and time.process_time() < deadline:
        start = found
        for choice in one_after_the_other(counts, found.choice):
            tried = replace(found, choice=choice)
            try:
                run(tried.recipes(config))
                return tried
            except Failed as failed:
                if best is None or failed.reached > best.reached:
                    best, found = failed, tried
    if best is None:
        raise Failed(ValueError("no time is left"))
    raise best


def one_after_the_other(counts: Mapping[str, int], choice: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Choices that are not `choice` in one place at most; itself first."""
    yield dict(choice)
    for name, count in counts.items():
        yield from ({**choice, name: place} for place in range(count) if place != choice[name])


def _asked(failed: Failed, known: Mapping[str, Any], given: list[str]) -> list[str]:
    """Parameters beside those `given` that an error names, and those that are None in the statements that raised it.

    Without masks it goes on, without what they are for it does not: they are asked for last.
    """
    named = re.findall(r"[a-z]+(?:_[a-z]+)*", str(failed))
    absent = [name for name in failed.absent if name in known and name not in given]
    if owning := [name for name in _owners(failed) if name in absent]:
        absent = owning
    elif any("mask" not in words(name) for name in absent):
        absent = [name for name in absent if "mask" not in words(name)]
    every = dict.fromkeys([*named, *absent, *_misfitting(failed)])
    return [name for name in every if name in known and name not in _NEVER and name not in given]


def _owners(failed: Failed) -> list[str]:
    """What is to have the attribute that None has not, in the statements that failed: of several names that are None, this one is needed."""
    said = re.search(r"'NoneType' object has no attribute '(\w+)'", str(failed))
    return re.findall(rf"\b(\w+)\.{said[1]}\b", failed.code) if said else []


def _misfitting(failed: Failed) -> list[str]:
    """A mask in the statement in which sizes do not match: one that the model makes itself may be too short."""
    innermost = failed.code.partition("\n")[0] if "must match the size of tensor" in str(failed) else ""
    return [name for name in re.findall(r"\b[a-z_]+\b", innermost) if words(name)[-1:] == ("mask",)]


_NEVER = {
    "inputs_embeds",
    "past_key_values",
    "return_dict",
    "labels",
    "use_cache",
    "head_mask",
    "encoder_outputs",
    "self",
}


def choices(sizes: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Choices of alternatives: the same form for all, then those with small numbers first."""
    alike = [tuple(min(place, size - 1) for size in sizes.values()) for place in (0, 1)]
    most = sum(min(size, 12) - 1 for size in sizes.values())
    every = (places for total in range(most + 1) for places in _summing(list(sizes.values()), total))
    others = (choice for choice in every if choice not in alike)
    for choice in itertools.islice(dict.fromkeys((*alike, *itertools.islice(others, MOST_TRIES))), MOST_TRIES):
        yield dict(zip(sizes, choice, strict=True))


def one_unlikely(sizes: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Choices in which all but one are the likeliest."""
    for name, size in sizes.items():
        yield from ({**dict.fromkeys(sizes, 0), name: place} for place in range(1, size))


def _summing(sizes: list[int], total: int) -> Iterator[tuple[int, ...]]:
    """Places below `sizes` that add up to `total`."""
    if not sizes:
        if not total:
            yield ()
        return
    for place in range(min(sizes[0], 12, total + 1)):
        for others in _summing(sizes[1:], total - place):
            yield (place, *others)


def _repaired(run: _Once, config: PreTrainedConfig, found: Found, deadline: float, tries: int = 3) -> Found:
    """`found`, or with a dimension changed as an error asks for; as often as there is time until `deadline`.

    Raises:
        Failed: with what upstream said when it got furthest, which may ask for something else.
    """
    recipes = found.recipes(config)
    try:
        run(recipes)
        return found
    except Failed as failed:
        furthest = first = failed
    text = str(first)
    every = itertools.chain(_lengthened(text, recipes), _widened(text, recipes), _mended(text, recipes))
    for mended in every if tries else ():
        if time.process_time() > deadline:
            break
        changed = replace(found, overrides={**found.overrides, **mended})
        try:
            run(changed.recipes(config))
            return changed
        except Failed as failed:
            again = failed
        again.on = again.on or (run.call, changed.recipes)
        if str(again) != text and tries > 1:
            try:
                return _repaired(run, config, changed, deadline, tries - 1)
            except Failed as failed:
                again = failed
        furthest = further(furthest, again)
    raise furthest


def _lengthened(text: str, recipes: Mapping[str, Recipe]) -> Iterator[dict[str, Recipe]]:
    """Where one length is to be a multiple of another: sounds and their masks, which share it, get the latter."""
    if said := re.search(r"multiple of \D*?(?:\d+\D*)?\((\d+)\).* got (\d+)", text):
        wanted, length = int(said[1]), int(said[2])
        longer = {
            name: {
                **recipe,
                "shape": [*recipe["shape"][:1], *(wanted if n == length else n for n in recipe["shape"][1:])],
            }
            for name, recipe in recipes.items()
            if length in recipe.get("shape", ())[1:]
        }
        if longer:
            yield longer


def _widened(text: str, recipes: Mapping[str, Recipe]) -> Iterator[dict[str, Recipe]]:
    """Where a matrix gets a stream that is too narrow, of which something was cut off, what comes in is as much wider."""
    if said := re.search(r"cannot be multiplied \(\d+x(\d+) and (\d+)x\d+\)", text):
        more = int(said[2]) - int(said[1])
        for name, recipe in recipes.items():
            shape = recipe.get("shape", ())
            if recipe["kind"] in ("normal", "unit") and len(shape) > 2 and 0 < more < shape[-1]:
                yield {name: {**recipe, "shape": [*shape[:-1], shape[-1] + more]}}


def _mended(text: str, recipes: Mapping[str, Recipe]) -> Iterator[dict[str, Recipe]]:
    """Recipes in which one number of the error's text stands in the place of another."""
    said = re.sub(r"dimension \d+", "", text.splitlines()[0] if text else "")  # the number of an axis is no size
    numbers = list(dict.fromkeys(int(number) for number in re.findall(r"\d+", said)))
    tried = 0
    for name, recipe in recipes.items():
        shape = recipe.get("shape")
        if not shape or recipe["kind"] not in {"normal", "ones", "zeros", "ids"}:
            continue
        for place, size in enumerate(shape):
            if place == 0 or size not in numbers:
                continue
            for number in numbers:
                if number != size and 0 < number <= 2048 and tried < 6:
                    tried += 1
                    changed = list(shape)
                    changed[place] = number
                    if len(shape) >= 4 and place >= len(shape) - 2 and shape[-1] == shape[-2]:
                        changed[-1] = changed[-2] = number
                    if math.prod(changed) <= MOST_NUMBERS:
                        yield {name: {**recipe, "shape": changed}}


def fails_again(model: PreTrainedModel, before: Failed) -> bool:
    """Whether `model` fails in the same words on what `before` was raised on, made anew for its config."""
    if before.on is None:
        return False
    call, recipes = before.on
    try:
        ran(_of(model, call), tensors(recipes(model.config)))
    except Failed as again:
        return str(again) == str(before)
    return False


def _of(model: PreTrainedModel, call: Callable[..., Any]) -> Callable[..., Any]:
    """`call` is another model, or makes features of one; the same with `model`."""
    if not isinstance(call, functools.partial):
        return model
    maker, source = call.args
    what = maker.__name__.removeprefix("get_").removesuffix("_features")
    return functools.partial(call.func, _maker(model, what), source)


MADE_OF = {  # what tokens stand for -> the parameter that it is made of, the likeliest first
    "image": ("pixel_values",),
    "audio": ("input_features", "input_values", "audio_input_features", "audio_input_ids"),
    "video": ("pixel_values_videos",),
}
PLACEHOLDERS = (("image", "audio"), ("video",))  # a video is tried where images and sounds leave something out


def made_of(model: PreTrainedModel, what: str) -> str | None:
    """The parameter that images ("image"), sounds or videos come by, in a model that reads tokens beside them."""
    known = takes(model)
    return next((name for name in MADE_OF[what] if name in known and "input_ids" in known), None)


def _features(model: PreTrainedModel, what: str, seconds: float) -> list[Found]:
    """The inputs of images or sounds, and how many placeholders they need in a row of tokens, by what the model makes of them.

    Where the config says another number, the larger one is first: with too few placeholders a model may run, and mix rows.
    Empty if the model makes no features of its own that tokens could stand for, or in a form that says no number.
    """
    maker, source = _maker(model, what), made_of(model, what)
    if maker is None or source is None or source not in inspect.signature(maker).parameters:
        return []
    known = {name: entry for name, entry in inspect.signature(maker).parameters.items() if name in takes(model)}
    names = [n for n, entry in known.items() if entry.default is entry.empty or n == source]
    reading = functools.partial(_reading_all, maker, source)
    found = _tried(reading, model.config, known, names, Found({}), time.process_time() + PATIENCE * seconds)
    masked = any({what, "position", "mask"} <= set(words(name)) for name in takes(model))
    said = [n for _, node in nodes(model.config) for n in integers(attribute(node, "num_query_tokens"))]
    every: list[Found] = []
    for form in _forms(reading, model, source, found):
        features = ran(maker, tensors(form.recipes(model.config)))
        numbers = {_rows(features), *(BATCH * n for n in said if what == "image")}
        if placeholder(model.config, what) is None and not masked:
            raise Failed(ValueError(f"no {what}_token_id stands for the {sorted(numbers)} features of {BATCH} rows"))
        whole = sorted((number for number in numbers if number and not number % BATCH), reverse=True)
        every += [replace(form, put={what: number // BATCH}) for number in whole]
    return every


def _forms(reading: Callable[..., Any], model: PreTrainedModel, source: str, found: Found) -> list[Found]:
    """`found`, and before it those with another form of the source that tells rows apart, if that is by nothing else (patches of Fuyu)."""
    shape = found.recipes(model.config)[source].get("shape", (BATCH,))
    if shape[0] == BATCH or len(found.choice) > 1:
        return [found]
    by_rows: list[Found] = []
    for place, form in enumerate(alternatives(source, facts_of(model.config, found.put))):
        other = replace(found, choice={**found.choice, source: place})
        if form.get("shape", ())[:1] == [BATCH] and len(form["shape"]) == len(shape) + 1:
            with contextlib.suppress(Failed):
                ran(reading, tensors(other.recipes(model.config)))
                by_rows.append(other)
    return [*by_rows, found]


def _maker(model: PreTrainedModel, what: str) -> Callable[..., Any] | None:
    """The method that makes features of images or sounds: the model's, or that of a part to which it hands its parameters."""
    owners = [model, *(part for part in model.children() if isinstance(part, PreTrainedModel))]
    return next(
        (maker for owner in owners if (maker := getattr(owner, f"get_{what}_features", None)) is not None), None
    )


def _beside(model: PreTrainedModel, what: str) -> list[list[str]]:
    """What the maker of features takes beside their source, as far as the forward does: what it requires, then all tensors."""
    maker, source = _maker(model, what), made_of(model, what)
    every = inspect.signature(maker).parameters.values() if maker is not None else ()
    known = [one for one in every if one.name in takes(model) and one.name != source]
    required = [one.name for one in known if one.default is one.empty]
    tensors_of_it = [one.name for one in known if one.default is one.empty or _optional_tensor(one.name, one)]
    return [required, tensors_of_it] if tensors_of_it != required else [required]


def _stated(model: PreTrainedModel, what: str, seconds: float) -> list[Found]:
    """The same where an error says how many features there are. A few tokens stand for them at first.

    Empty if the config says no token for them, or the model reads none.
    """
    source = made_of(model, what)
    if source is None or placeholder(model.config, what) is None:
        return []
    told: list[Failed] = []
    for beside in _beside(model, what):
        try:
            return _stated_beside(model, what, ["input_ids", source, *beside], seconds)
        except Failed as failed:
            told.append(failed)
    raise _furthest(told) or Failed(ValueError(f"nothing makes features of {what}"))


def _stated_beside(model: PreTrainedModel, what: str, names: list[str], seconds: float) -> list[Found]:
    put = {what: FEW}
    for _ in range(2):
        given, deadline = Found({}, put=put), time.process_time() + seconds
        try:
            return [_tried(model, model.config, takes(model), names, given, deadline)]
        except Failed as failed:
            number = features_stated([str(one) for one in (failed, *failed.others)])
            if not number or number % BATCH or put == {what: number // BATCH}:
                raise
            put = {what: number // BATCH}
    return []


def features_stated(texts: list[str]) -> int:
    """How many features there are for all rows, by errors that state it beside the number of tokens; 0 if none does."""
    beside = r"tokens:? \(?\d+\)?,? (?:and )?features:? \(?(\d+)\b"
    matching = r"tokens \(\d+\) does not match \D*\((\d+)\)"
    stated = (re.search(rf"{beside}|{matching}", text) for text in texts)
    return next((int(said[1] or said[2]) for said in stated if said), 0)


def _reading_all(maker: Callable[..., Any], name: str, **inputs: Any) -> Any:
    """What `maker` makes; an error if the last entry of the input `name` changes nothing: its shape is meant otherwise."""
    features = maker(**inputs)
    if not _reads_last(maker, name, inputs) and not _reads_last(_with_noise(maker), name, inputs):
        raise ValueError(f"the last entry of {name} {UNREAD}")
    return features


def _reads_last(maker: Callable[..., Any], name: str, inputs: Mapping[str, Any]) -> bool:
    other = inputs[name].clone()
    other[-1] += 1
    pairs = list(zip(_flat(maker(**inputs)), _flat(maker(**{**inputs, name: other})), strict=True))
    return not pairs or any(bool((one.nan_to_num() != two.nan_to_num()).any()) for one, two in pairs)


def _with_noise(maker: Callable[..., Any]) -> Callable[..., Any]:
    """The method of a copy of its model, with weights of usual size: upstream's own may be too small to show anything."""
    owner = getattr(maker, "__self__", None)
    if owner is None:  # a function, which has no weights
        return maker
    model = copy.deepcopy(owner)
    randomise(model)
    return getattr(model, maker.__name__)


def _flat(features: Any) -> list[torch.Tensor]:
    """The tensors that tokens are replaced by."""
    if torch.is_tensor(features):
        return [features]
    if isinstance(features, (list, tuple)):
        return [tensor for entry in features for tensor in _flat(entry)]
    kept = (getattr(features, name, None) for name in ("pooler_output", "last_hidden_state"))
    return next((_flat(one) for one in kept if one is not None), [])


def _rows(features: Any) -> int:
    pooled = None if torch.is_tensor(features) else getattr(features, "pooler_output", None)
    features = features if pooled is None else pooled
    if torch.is_tensor(features):
        return features.numel() // features.shape[-1]
    if isinstance(features, (list, tuple)):
        return sum(_rows(entry) for entry in features)
    last = getattr(features, "last_hidden_state", None)
    return _rows(last) if last is not None else 0
