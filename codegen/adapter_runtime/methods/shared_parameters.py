"""Parameters that all layers of a model share, per adapter: PHM rules, VeRA's random matrices."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from adapter_runtime.programs.layer import AdapterDict


class SharedParameters(AdapterDict):
    """Adapter name -> parameters. Keys in files: ``<base>.shared_parameters.<adapter>.<key>``.

    Modules of adapters that use them keep a reference that is not registered, so that a state dict names each once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.init_adapter_layer(-1, "shared")

    def of(self, name: str) -> nn.ParameterDict:
        """The parameters of the adapter `name`, an empty dict at first."""
        if name not in self:
            # Not by `self[name] = ...`, which refuses names of our own methods.
            self._modules[name] = nn.ParameterDict()
        held = self[name]
        assert isinstance(held, nn.ParameterDict)
        return held

    def products_of(self, name: str) -> Iterator[object]:
        """What is computed from the parameters of an adapter once per call (see `methods.phm.SharedProducts`)."""
        yield from getattr(self[name], "products", {}).values() if name in self else ()

    def leaf(self, name: str) -> None:
        return None
