"""What a model with flexible heads is, for type checkers, and its heads by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol, TypeGuard

import torch
from torch import nn

from adapter_runtime.composition import Setup
from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.errors import nearest
from adapter_runtime.heads.base import PredictionHead
from adapter_runtime.heads.custom import HeadClass
from adapter_runtime.heads.errors import UnknownHeadError
from adapter_runtime.heads.pooling import Pooling
from adapter_runtime.heads.setups import HeadSetup, head_names


class FlexibleHeadsModel(AdaptedModel, Protocol):
    """A generated ``<Model>AdapterModel``: a model with any number of heads, of which one or several are active."""

    head_types: ClassVar[tuple[str, ...]]  # which types of heads make sense for the model
    pooling: ClassVar[Pooling]  # which token stands for a sequence
    encoder_heads: ClassVar[tuple[str, ...]]  # types that read what an encoder gives, and not the decoder behind it
    encoder_pooling: ClassVar[Pooling]  # which of its positions stands for a sequence
    pooling_skips: ClassVar[str]  # field of the config: how many tokens behind the first stand for nothing; "" = none
    frame_counter: ClassVar[str]  # method that counts the frames of so many samples; "" = there are no frames
    mask_token: ClassVar[str]  # where the base model reads the token for masked patches; "" = it masks none
    use_pooler: bool  # what ``use_pooler=None`` means where a head is added
    heads: nn.ModuleDict  # of `PredictionHead`
    custom_heads: dict[str, HeadClass]  # classes of heads that are registered for this model alone
    all_tied_weights_keys: dict[str, str]  # upstream's: parameter -> the parameter that it is
    _active_head: HeadSetup | None

    @property
    def active_head(self) -> HeadSetup | None: ...

    @active_head.setter
    def active_head(self, heads: Setup) -> None: ...

    def get_decoder(self) -> AdaptedModel: ...

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Where there is a decoder that predicts tokens."""
        ...

    def check_head_type(self, head_type: str) -> None: ...

    def add_prediction_head(
        self, head: PredictionHead, overwrite_ok: bool = False, set_active: bool = True
    ) -> None: ...

    def add_prediction_head_from_config(
        self, head_name: str, config: Mapping[str, object], overwrite_ok: bool = False, set_active: bool = True
    ) -> None: ...


def is_flexible(model: nn.Module | AdaptedModel) -> TypeGuard[FlexibleHeadsModel]:
    """Whether heads can be added to a model by name."""
    return hasattr(model, "head_types")


def head_named(model: FlexibleHeadsModel, name: str | None) -> PredictionHead:
    """The head of a model that has this name.

    Raises:
        UnknownHeadError: there is none.
    """
    if not isinstance(name, str) or name not in model.heads:
        raise UnknownHeadError(f"The model has no head {name!r}. {nearest(str(name), model.heads)}")
    head = model.heads[name]
    assert isinstance(head, PredictionHead)
    return head


def all_heads(model: FlexibleHeadsModel) -> list[PredictionHead]:
    """The heads of a model, in the order in which they were added."""
    return [head_named(model, name) for name in model.heads]


def active_heads(model: FlexibleHeadsModel) -> list[PredictionHead]:
    """The heads that `active_head` of a model names, in its order."""
    return [head_named(model, name) for name in head_names(model.active_head)]
