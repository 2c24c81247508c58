"""Looking at the adapters of a model, and at the layers that they live in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from adapter_runtime.model import summary
from adapter_runtime.programs.layer import AdapterLayerBase

if TYPE_CHECKING:
    from adapter_runtime.contract.state import ModelAdaptersConfig
    from adapter_runtime.model.base import ModelBaseAdaptersMixin


class InspectionMixin:
    """What changes nothing, and moving an adapter to another device or type."""

    if TYPE_CHECKING:

        @property
        def adapters_base(self) -> ModelBaseAdaptersMixin: ...

        @property
        def adapters_config(self) -> ModelAdaptersConfig: ...

        named_modules: Callable[..., Iterator[tuple[str, nn.Module]]]

    def has_adapters(self) -> bool:
        """Whether any adapter was added."""
        return len(self.adapters_config) > 0

    @property
    def has_parallel_adapters(self) -> bool:
        """Whether the active setup holds `Parallel`, so that outputs have several times the rows of the input."""
        setup = self.adapters_config.active_setup
        return setup is not None and setup.parallel_channels > 1

    def iter_layers(self) -> Iterator[tuple[int, nn.Module]]:
        """All layers with their indices."""
        return self.adapters_base.iter_layers()

    def get_layer(self, index: int) -> nn.Module:
        """One layer.

        Raises:
            IndexError: there is none of this index.
        """
        layers = [layer for _, layer in self.iter_layers()]
        if not 0 <= index < len(layers):
            raise IndexError(f"There is no layer {index}: the model has the layers 0 to {len(layers) - 1}.")
        return layers[index]

    def apply_to_adapter_layers(self, fn: Callable[[int, AdapterLayerBase], Any]) -> None:
        """Call `fn` with each module that holds adapters, and the index of its layer (-1 for those of the whole model)."""
        for layer in self.adapters_base.adapter_layers():
            fn(layer.layer_index, layer)

    def apply_to_basemodel_childs(self, fn: Callable[[nn.Module], Any]) -> None:
        """Call `fn` with the base model and each of its modules."""
        for module in self.adapters_base.modules():
            fn(module)

    def adapter_parameters(self, adapter_name: str) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters of an adapter as its layers declare them, named as in the state dict of this model."""
        seen: set[int] = set()
        for path, module in self._declared_modules(adapter_name):
            for key, parameter in module.named_parameters():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield f"{path}.{key}", parameter

    def _declared_modules(self, name: str) -> Iterator[tuple[str, nn.Module]]:
        for path, layer in self.named_modules():
            if isinstance(layer, AdapterLayerBase):
                for key, module in layer.modules_of(name):
                    yield f"{path}.{key}" if path else key, module

    def get_adapter(self, name: str) -> dict[int, dict[str, nn.Module]]:
        """The modules of an adapter: layer -> place -> module. Layer -1 holds what belongs to the whole model.

        Raises:
            UnknownAdapterError: there is no such adapter.
        """
        self.adapters_config.get(name)
        found: dict[int, dict[str, nn.Module]] = {}
        for layer in self.adapters_base.adapter_layers():
            for _, module in layer.modules_of(name):
                found.setdefault(layer.layer_index, {})[layer.location_key] = module
        return found

    def adapter_to(
        self, name: str, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """Move the modules of an adapter.

        Raises:
            UnknownAdapterError: there is no such adapter.
        """
        for modules in self.get_adapter(name).values():
            for module in modules.values():
                module.to(device=device, dtype=dtype)

    def adapter_summary(self, as_dict: bool = False) -> str | list[dict[str, Any]]:
        """A table of all adapters: method, number of parameters, share of the base model, active, trained."""
        rows = summary.rows(self)  # type: ignore[arg-type]
        return rows if as_dict else summary.table(rows)
