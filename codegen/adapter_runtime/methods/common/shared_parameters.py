"""Parameters that all layers of a model share, per adapter: PHM rules, VeRA's random matrices."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from adapter_runtime.call.context import ComputedOnce
from adapter_runtime.contract.protocol import AdaptedBaseModel
from adapter_runtime.programs.layer import AdapterDict

CONTAINER = "shared_parameters"  # the attribute of base models that holds them; a part of keys in files


class SharedDict(nn.ParameterDict):
    """The shared parameters of one adapter.

    Attributes:
        frozen_parameters: names of those that training leaves as they are.
        has_own_type: they keep their type when the adapter is added, whatever that of the model is.
        products: what is computed from them once per call, by the key under which calls keep it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.frozen_parameters: tuple[str, ...] = ()
        self.has_own_type = False
        self.products: dict[str, ComputedOnce] = {}

    def freeze(self, names: tuple[str, ...]) -> None:
        """Let training leave these parameters as they are."""
        self.frozen_parameters = tuple(sorted({*self.frozen_parameters, *names}))
        for name in names:
            self[name].requires_grad_(False)


class SharedParameters(AdapterDict):
    """Adapter name -> parameters. Keys in files: ``<base>.shared_parameters.<adapter>.<key>``.

    Modules of adapters that use them keep a reference that is not registered, so that a state dict names each once.
    """

    only_holds_parameters = True

    def __init__(self) -> None:
        super().__init__()
        self.init_adapter_layer(-1, "shared")

    def of(self, name: str) -> SharedDict:
        """The parameters of the adapter `name`, an empty dict at first."""
        if name not in self:
            # Not by `self[name] = ...`, which refuses names of our own methods.
            self._modules[name] = SharedDict()
        held = self[name]
        assert isinstance(held, SharedDict)
        return held

    def products_of(self, name: str) -> Iterator[ComputedOnce]:
        """What is computed from the parameters of an adapter once per call."""
        if name in self:
            yield from self.of(name).products.values()

    def leaf(self, name: str) -> None:
        return None


def prepare_shared_parameters(model: AdaptedBaseModel) -> None:
    """Give a base model room for shared parameters."""
    model.add_module(CONTAINER, SharedParameters())


def shared_parameters_of(model: AdaptedBaseModel) -> SharedParameters:
    """The shared parameters of a base model, by adapter."""
    held = model.get_submodule(CONTAINER)
    assert isinstance(held, SharedParameters)
    return held
