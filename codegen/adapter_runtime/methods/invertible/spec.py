"""Invertible adapters in the table of methods. They have no config of their own: bottleneck adapters ask for one."""

from __future__ import annotations

from adapter_runtime.contract.protocol import AdaptedBaseModel
from adapter_runtime.methods.bottleneck.config import BnConfig
from adapter_runtime.methods.invertible.layer import (
    CONTAINER,
    add_invertible,
    count_places,
    disable_invertible,
)
from adapter_runtime.methods.spec import MethodSpec


def _place(model: AdaptedBaseModel, name: str, config: BnConfig) -> int:
    add_invertible(model, name, config)
    return 1


INVERTIBLE = MethodSpec[BnConfig](
    name="invertible",
    configs=(BnConfig,),
    is_asked_for=lambda config: config.inv_adapter is not None,
    acts_on_tokens=True,
    place=_place,
    count_places=count_places,
    containers=frozenset({CONTAINER}),
    remove_empty=disable_invertible,
)
