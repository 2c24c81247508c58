"""ReFT in the table of methods."""

from __future__ import annotations

from adapter_runtime.methods.reft import places
from adapter_runtime.methods.reft.config import DiReftConfig, LoReftConfig, NoReftConfig, ReftConfig
from adapter_runtime.methods.spec import MethodSpec

REFT = MethodSpec[ReftConfig](
    name="reft",
    configs=(ReftConfig,),
    named={"loreft": LoReftConfig(), "noreft": NoReftConfig(), "direft": DiReftConfig()},
    place=places.place,
    count_places=places.count_places,
    wishes=places.wishes,
    containers=frozenset({"refts"}),
    remove_empty=places.remove_empty,
    without_layers=places.without_layers,
)
