"""What every module that runs adapters has in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from torch import nn

from adapter_runtime.composition import AdapterCompositionBlock
from adapter_runtime.context import AdapterSetup


class AdapterLayerBase:
    """Base of modules that run adapters: hosts of bottlenecks, prefixes of an attention, adapted projections.

    What runs is decided when the active adapters change, never in a forward: `running` holds the modules, in order,
    or None. An `AdapterSetup` is resolved once per layer and remembered under its key.
    """

    # Declaration: attributes that hold modules by adapter name. All parameters of adapters are below them.
    adapter_modules: ClassVar[tuple[str, ...]] = ()

    layer_index: int = -1  # counted over all stacks of the model; -1 = not in a layer
    location_key: str = ""  # "output_adapter", "selfattn_lora", ...

    def init_adapter_layer(self, layer_index: int, location_key: str) -> None:
        """Give the layer its place, and room for adapters."""
        self.layer_index = layer_index
        self.location_key = location_key
        self.running: tuple[Any, ...] | None = None
        self.overrides: dict[str, tuple[Any, ...] | None] = {}
        for name in self.adapter_modules:
            setattr(self, name, nn.ModuleDict())

    def modules_of(self, name: str) -> Iterator[tuple[str, nn.Module]]:
        """The modules of the adapter `name`, each with its key relative to this layer."""
        for attribute in self.adapter_modules:
            held: nn.ModuleDict = getattr(self, attribute)
            if name in held:
                yield f"{attribute}.{name}", held[name]

    def adapter_names(self) -> set[str]:
        """The names of adapters that live here."""
        return {name for attribute in self.adapter_modules for name in getattr(self, attribute)}

    def delete_adapter(self, name: str) -> None:
        """Remove the adapter `name`, if it is here."""
        for attribute in self.adapter_modules:
            held: nn.ModuleDict = getattr(self, attribute)
            if name in held:
                del held[name]

    def activate(self, block: AdapterCompositionBlock | None, skip_layers: frozenset[int]) -> None:
        """Decide what runs from now on. Layers in `skip_layers` run nothing."""
        self.overrides = {}
        self.running = None if self.layer_index in skip_layers else self.resolve(block)

    def running_under(self, setup: AdapterSetup) -> tuple[Any, ...] | None:
        """What runs within the context of `setup`."""
        if setup.key not in self.overrides:
            self.overrides[setup.key] = self.resolve(setup.adapter_setup)
        return self.overrides[setup.key]

    def resolve(self, block: AdapterCompositionBlock | None) -> tuple[Any, ...] | None:
        """What runs here under `block`, in order; None = nothing."""
        if block is None:
            return None
        found = [self.runnable(name) for name in block.names()]
        return tuple(entry for entry in found if entry is not None) or None

    def runnable(self, name: str) -> Any:
        """What the layer has to run for the adapter `name`; None where it does not live here."""
        held: nn.ModuleDict = getattr(self, self.adapter_modules[0])
        return held[name] if name in held else None
