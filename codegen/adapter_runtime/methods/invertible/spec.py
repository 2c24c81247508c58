"""Invertible adapters in the table of methods. They have no config of their own: bottleneck adapters ask for one."""

from __future__ import annotations

from adapter_runtime.contract.protocol import AdaptedBaseModel, AdaptedModel
from adapter_runtime.methods.bottleneck.config import BnConfig
from adapter_runtime.methods.common.activations import check_activation
from adapter_runtime.methods.invertible.layer import (
    CONTAINER,
    add_invertible,
    count_places,
    disable_invertible,
)
from adapter_runtime.methods.spec import MethodSpec, NotedFile


def _place(model: AdaptedBaseModel, name: str, config: BnConfig) -> int:
    add_invertible(model, name, config)
    return 1


def _has_head_of_upstream(model: AdaptedModel, config: BnConfig) -> bool:
    return not model.is_adapter_model and model.get_output_embeddings() is not None


INVERTIBLE = MethodSpec[BnConfig](
    name="invertible",
    configs=(BnConfig,),
    is_asked_for=lambda config: config.inv_adapter is not None,
    check=check_activation,
    acts_on_tokens=True,
    place=_place,
    count_places=count_places,
    containers=frozenset({CONTAINER}),
    remove_empty=disable_invertible,
    noted_files=(
        NotedFile(
            _has_head_of_upstream,
            "does not undo an invertible adapter before the projection of upstream's language modeling head. Here it is undone where the"
            " projection is tied to the embeddings",
        ),
    ),
)
