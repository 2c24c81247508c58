"""Looking at the adapters of a model, and at the layers that they live in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, TypeVar, overload

import torch
from torch import nn

from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.contract.summary import HeadSummary, SummaryRow
from adapter_runtime.model.inspection import summary
from adapter_runtime.programs.layer import AdapterLayerBase

Result = TypeVar("Result")  # of a function whose result nobody reads


class InspectionMixin:
    """Looking at adapters and layers, and moving an adapter to another device or type."""

    def has_adapters(self: AdaptedModel) -> bool:
        """Whether any adapter was added."""
        return len(self.adapters_config) > 0

    @property
    def has_parallel_adapters(self: AdaptedModel) -> bool:
        """Whether the active setup holds `Parallel`, so that outputs have several times the rows of the input."""
        setup = self.adapters_config.active_setup
        return setup is not None and setup.parallel_channels > 1

    def iter_layers(self: AdaptedModel) -> Iterator[tuple[int, nn.Module]]:
        """All layers with their indices."""
        return self.adapters_base.iter_layers()

    def get_layer(self: AdaptedModel, index: int) -> nn.Module:
        """One layer.

        Raises:
            IndexError: there is none of this index.
        """
        layers = [layer for _, layer in self.iter_layers()]
        if not 0 <= index < len(layers):
            raise IndexError(f"There is no layer {index}: the model has the layers 0 to {len(layers) - 1}.")
        return layers[index]

    def apply_to_adapter_layers(self: AdaptedModel, fn: Callable[[int, AdapterLayerBase], Result]) -> None:
        """Call `fn` with each module that holds adapters, and the index of its layer (-1 for those of the whole model)."""
        for layer in self.adapters_base.adapter_layers():
            fn(layer.layer_index, layer)

    def apply_to_basemodel_childs(self: AdaptedModel, fn: Callable[[nn.Module], Result]) -> None:
        """Call `fn` with the base model and each of its modules."""
        for module in self.adapters_base.modules():
            fn(module)

    def adapter_parameters(self: AdaptedModel, adapter_name: str) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters of an adapter as its layers declare them, named as in the state dict of this model."""
        seen: set[int] = set()
        for path, module in declared_modules(self, adapter_name):
            for key, parameter in module.named_parameters():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield f"{path}.{key}", parameter

    def get_adapter(self: AdaptedModel, name: str) -> dict[int, dict[str, nn.Module]]:
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
        self: AdaptedModel, name: str, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """Move the modules of an adapter.

        Raises:
            UnknownAdapterError: there is no such adapter.
        """
        for modules in self.get_adapter(name).values():
            for module in modules.values():
                module.to(device=device, dtype=dtype)

    def summarized_heads(self) -> list[HeadSummary]:
        """The heads in `adapter_summary`: none for a base model."""
        return []

    @overload
    def adapter_summary(self: AdaptedModel, as_dict: Literal[False] = False) -> str: ...

    @overload
    def adapter_summary(self: AdaptedModel, as_dict: Literal[True]) -> list[SummaryRow]: ...

    def adapter_summary(self: AdaptedModel, as_dict: bool = False) -> str | list[SummaryRow]:
        """All adapters, fusions and heads: what they are, their parameters, which run, how many parameters are trained.

        Args:
            as_dict: rows in place of a table: one per adapter, with the keys "name", "architecture", "#param", "%param" (of
                the base model), "active", "train" and "#train" (parameters that are trained), and a last one for the base
                model, with "fusions" and "heads", which are lists of such rows, "#total" and "#total_train". An adapter that lies
                in several parts of a model made of several has "parts", a list of rows by the paths of these; one with which
                modules are trained along (`also_train`) has "also_trained", a list of rows by the names of these.
        """
        rows = summary.rows(self)
        return rows if as_dict else summary.table(rows)


def declared_modules(model: AdaptedModel, name: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules of an adapter, as the layers that hold them declare them, by their paths in the model."""
    for path, layer in model.named_modules():
        if isinstance(layer, AdapterLayerBase):
            for key, module in layer.modules_of(name):
                yield f"{path}.{key}" if path else key, module
