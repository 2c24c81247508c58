"""Parts that read images, sounds or videos of which not each row of a batch shows one, in a model made of several.

What tells it are placeholders among tokens, which the config of the model names that puts features in their place. That may be the
whole, or a model in it that is made of several itself: one of upstream's in a class of a user's own.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import cast

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from adapter_runtime.call.arguments import Argument
from adapter_runtime.call.placeholders import kinds_without_places, puts_by_index
from adapter_runtime.contract.protocol import AdaptedBaseModel
from adapter_runtime.model.parts.naming import kind_of
from adapter_runtime.model.parts.part import AdapterPart


def without_places(base: AdaptedBaseModel, given: Mapping[str, Argument]) -> frozenset[Hashable]:
    """The parts of whose inputs some row has none, as far as the arguments of a call of the whole show.

    Args:
        given: the arguments; tokens are [B, L].
    """
    if base.own_part is base:  # it is one model
        return frozenset()
    models = (base.get_submodule(""), *_around_parts(base))
    return frozenset(part for model in models for part in lacking_in(base, model, given))


def lacking_in(base: AdaptedBaseModel, model: nn.Module, given: Mapping[str, Argument]) -> frozenset[Hashable]:
    """Those in `model`, which is the whole or made of several parts of it, as far as the arguments of its call show."""
    kinds = kinds_without_places(cast("PreTrainedConfig", model.config), given)
    return (
        frozenset(part.get_submodule("") for part in parts_in(base, model) if kind_of(part) in kinds)
        if kinds
        else frozenset()
    )


def parts_in(base: AdaptedBaseModel, model: nn.Module) -> Iterator[AdapterPart]:
    """The parts of `base` that stand in `model`, or are its own layers, but for the one that reads the tokens."""
    inside = set(model.modules())
    for part in base.adapter_parts().values():
        if part is not base.text_part and part.get_submodule("") in inside:
            yield cast("AdapterPart", part)


def counts_items(base: AdaptedBaseModel) -> bool:
    """Whether arguments may count images or sounds, of which a row may have several, and not rows."""
    return base.repeats_whole or puts_by_index(base.config)


def _around_parts(base: AdaptedBaseModel) -> Iterator[nn.Module]:
    """The models in the whole that are made of several of its parts, and have a config of their own."""
    parts = {part.get_submodule("") for part in base.adapter_parts().values()}
    for module in base.modules():
        if isinstance(module, PreTrainedModel) and module.config is not base.config and module not in parts:
            if any(other in parts for other in module.modules()):
                yield module
