"""Models inside that another class of upstream holds under another path: what their tensors are called in a checkpoint of that class.

DPR's context encoder calls ``ctx_encoder`` what the question encoder, which the adapter model holds, calls ``question_encoder``.
InstructBLIP's class that generates holds its text model in a language model with a head, its base model holds it alone.

Nothing is told by a name: both classes are built without weights, and a model inside of one of them is that of the other where it has
the same class, and tensors of the same names and shapes, if it is the only one. A class that is written by itself has fewer, where what
holds it gives it some (the heads in the decoder of PP-DocLayoutV2): these are random. And a tensor that a class has under two names, and
saves under one, is read into the place of the other.
"""

from __future__ import annotations

import copy
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from safetensors import safe_open
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.modeling_utils import load_state_dict

Shapes = Mapping[str, torch.Size]  # name of a tensor in a module -> its shape


@dataclass(frozen=True)
class _Inside:
    """A model inside of another."""

    path: str  # "" = the whole
    cls: type[PreTrainedModel]
    shapes: Shapes

    @property
    def keys(self) -> set[str]:
        """The names of its tensors in the whole."""
        return {_joined(self.path, name) for name in self.shapes}

    def is_like(self, other: _Inside) -> bool:
        return self.cls is other.cls and self.shapes == other.shapes

    def is_made_more_of_in(self, other: _Inside) -> bool:
        """Whether it is a whole class, and `other` is that class with tensors more, which what holds it must have put into it."""
        return not self.path and self.cls is other.cls and self.shapes.items() < other.shapes.items()


def with_renaming(
    load_config: Any, model: PreTrainedModel, architecture: str | None, names: Iterable[str]
) -> tuple[Any, list[WeightRenaming]]:
    """How upstream is to read a checkpoint into `model`: with what is elsewhere in it renamed, where it has any such.

    Args:
        load_config: upstream's, which holds all renamings.
        architecture: the class that wrote the checkpoint.
        names: those of its tensors in the files.

    Returns:
        The config with the renamings, and these. They stand behind those of the whole, which give the names of the class that wrote it, and
        before those of models inside, which ask for paths in `model`.
    """
    known = load_config.weight_mapping or []
    left_over, lacking = _without_place(model, known, names)
    if not (left_over and lacking):
        return load_config, []
    base = _upstreams(type(model.base_model))
    added = renamings(base, architecture, model.config, model.base_model_prefix, left_over, lacking)
    first = next((place for place, one in enumerate(known) if one.scope_prefix is not None), len(known))
    return replace(load_config, weight_mapping=[*known[:first], *added, *known[first:]]), added


def names_in(state_dict: Mapping[str, Any] | None, files: Iterable[str] | None) -> set[str]:
    """The names of the tensors of a checkpoint, none of which is read."""
    if state_dict is not None:
        return set(state_dict)
    found: set[str] = set()
    for file in files or ():
        if file.endswith(".safetensors"):
            with safe_open(file, framework="pt") as opened:
                found.update(opened.keys())
        else:
            found.update(load_state_dict(file, map_location="meta"))
    return found


def _without_place(model: PreTrainedModel, known: list[Any], names: Iterable[str]) -> tuple[set[str], set[str]]:
    """The tensors of a checkpoint for which `model` has no place, and those of its base model that the checkpoint lacks."""
    held = model.state_dict()
    renaming = [one for one in known if isinstance(one, WeightRenaming)]
    converting = [one for one in known if isinstance(one, WeightConverter)]
    prefix = model.base_model_prefix
    # (Copies, since upstream notes in its own which of them were used.)
    renaming, converting = copy.deepcopy(renaming), copy.deepcopy(converting)
    read = {name: rename_source_key(name, renaming, converting, prefix, held)[0] for name in names}
    lacking = {name for name in held.keys() - set(read.values()) if name.startswith(f"{prefix}.")}
    return {name for name, place in read.items() if place not in held}, lacking


def renamings(
    base: type[PreTrainedModel],
    architecture: str | None,
    config: PreTrainedConfig,
    prefix: str,
    left_over: Set[str],
    lacking: Set[str],
) -> list[WeightRenaming]:
    """What upstream's class `architecture` holds elsewhere than an adapter model with the base model `base` does.

    Args:
        prefix: path of the base model in the adapter model.
        left_over: names of a checkpoint of that class that have no place in the adapter model.
        lacking: names of the adapter model that the checkpoint does not have.
    """
    writer = getattr(transformers, architecture or "", None)
    if writer is None or getattr(writer, "config_class", None) is not type(config):
        return []  # unknown, or of another model type
    whole, written = skeleton_of(base, config), skeleton_of(writer, config)
    if whole is None or written is None:
        return []
    models = [_renaming(source, target) for source, target in moved(whole, written, prefix).items()]
    return models + [
        WeightRenaming(rf"^{re.escape(source)}$", target)
        for source, target in tied(written, prefix, left_over, lacking).items()
    ]


def moved(base: PreTrainedModel, writer: PreTrainedModel, prefix: str) -> dict[str, str]:
    """Path of a model in `writer` -> its path in an adapter model, of those for which the names of `writer` have no place.

    A model of which `writer` has several, or has inside one of the same class with other tensors (a pooler less, a head of other sizes),
    is not determined. Nor is anything inside of either: the halves of two models would make a third, and the decoder of a model of units that of
    texts (SeamlessM4T).

    Args:
        base: upstream's base model, as the adapter model holds it under `prefix`.
    """
    held = {_joined(prefix, name) for name in base.state_dict()}
    placed = {name: _placed(name, held, prefix) for name in writer.state_dict()}
    left_over = {name for name, place in placed.items() if place is None}
    lacking = held - set(placed.values())
    sources = [one for one in _inside(writer, "") if one.keys <= left_over]
    targets = [one for one in _inside(base, prefix) if one.keys <= lacking]
    kinds = {one.cls for one in sources} & {one.cls for one in targets}
    found = dict(_pairs(_outermost(targets, kinds), _outermost(sources, kinds)))
    taken = Counter(source.path for source in found.values())
    return {source.path: path for path, source in found.items() if taken[source.path] == 1}


def tied(writer: PreTrainedModel, prefix: str, left_over: Set[str], lacking: Set[str]) -> dict[str, str]:
    """Name of a tensor of `writer` -> its name in an adapter model, where `writer` has it under both and saves the first alone.

    So does a class that ties its embeddings to its head, and not the head to them (OpenAI GPT with two heads).

    Args:
        left_over, lacking: see `renamings`.
    """
    found = {}
    for group in tied_names(writer):
        saved, places = group & left_over, {_placed(name, lacking, prefix) for name in group} - {None}
        if len(saved) == len(places) == 1:
            found[saved.pop()] = str(places.pop())
    return found


def tied_names(model: PreTrainedModel) -> list[set[str]]:
    """The names of each parameter that has several."""
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return [group for group in names.values() if len(group) > 1]


def _outermost(models: list[_Inside], kinds: set[type[PreTrainedModel]]) -> list[_Inside]:
    """Those of some classes that stand in no other of these."""
    found: list[_Inside] = []
    for one in models:
        if one.cls in kinds and not any(_is_below(one.path, outer.path) for outer in found):
            found.append(one)
    return found


def _is_below(path: str, outer: str) -> bool:
    return path != outer and f"{path}.".startswith(f"{outer}." if outer else "")


def _pairs(targets: list[_Inside], sources: list[_Inside]) -> Iterator[tuple[str, _Inside]]:
    """The path of each target with the only source that is like it, or that becomes it."""
    for target in targets:
        like = [source for source in sources if source.is_like(target) or source.is_made_more_of_in(target)]
        if len(like) == 1:
            yield target.path, like[0]


def _inside(whole: PreTrainedModel, prefix: str) -> list[_Inside]:
    """All models in `whole` that have tensors, itself first."""
    models = (
        (_joined(prefix, path), module)
        for path, module in whole.named_modules()
        if isinstance(module, PreTrainedModel)
    )
    found = [
        _Inside(path, type(module), {name: tensor.shape for name, tensor in module.state_dict().items()})
        for path, module in models
    ]
    return [one for one in found if one.shapes]


def _placed(name: str, held: Set[str], prefix: str) -> str | None:
    """Where upstream reads a tensor of this name to."""
    return next((place for place in (_joined(prefix, name), name) if place in held), None)


def _renaming(source: str, target: str) -> WeightRenaming:
    """From one path to another: of all names, where `source` is the whole."""
    before = rf"{re.escape(source)}\." if source else ""
    return WeightRenaming(rf"^{before}(.+)$", rf"{target}.\1")


def skeleton_of(cls: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel | None:
    """A model without memory for its weights; None where upstream refuses the config for it."""
    own = copy.deepcopy(config)
    own._attn_implementation = "eager"  # which every class has
    try:
        with torch.device("meta"):
            return cls(own)
    except Exception:  # whatever upstream raises
        return None


def _upstreams(cls: type) -> type[PreTrainedModel]:
    """The class of upstream's that one with adapters extends: the one of its name in its module. (A class made at run time looks like it.)"""
    known = (one for one in cls.__mro__ if one.__module__.startswith("transformers."))
    found: type[PreTrainedModel] = next(
        one for one in known if getattr(sys.modules[one.__module__], one.__name__, None) is one
    )
    return found


def _joined(*path: str) -> str:
    return ".".join(part for part in path if part)
