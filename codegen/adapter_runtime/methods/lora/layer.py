"""Projections that hold LoRA adapters. The class of an upstream projection is swapped for as long as it holds any.

Swapping keeps the object, its parameters, its hooks and its place in the model; ``super().forward`` keeps whatever the
upstream class does (quantised or sharded weights, for example).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from adapter_runtime.call.context import AdapterSetup, Place
from adapter_runtime.composition import Average, BatchSplit, MultiTask, Parallel, Split, Stack
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.common.groups import Groups
from adapter_runtime.methods.common.shared_parameters import SharedDict
from adapter_runtime.methods.lora.config import LoRAConfig
from adapter_runtime.methods.lora.modules.base import Parts, ProjectionAdapter, ProjectionSite
from adapter_runtime.methods.lora.modules.factory import make_adapter
from adapter_runtime.methods.lora.program import ProjectionLeaf, ProjectionNode, adapters_in, chain, keep_output
from adapter_runtime.programs.dynamic import DynamicMixin, subclass
from adapter_runtime.programs.hooks import patch_forward
from adapter_runtime.programs.layer import AdapterLayerBase, TensorLayer, check_frozen
from adapter_runtime.programs.merging import MergeableLayer
from adapter_runtime.programs.nodes import Mean, TensorNode, Turned


class LoRALayer(
    TensorLayer[torch.Tensor, torch.Tensor | None],
    MergeableLayer[TensorNode[torch.Tensor, torch.Tensor | None]],
    DynamicMixin,
):
    """Base of projections with LoRA adapters, in front of the upstream class."""

    adapter_containers = ("loras",)
    method_name = "LoRA"
    runnable_blocks = (Stack, BatchSplit, Parallel, MultiTask, Average, Split)
    without_adapter = keep_output
    loras: nn.ModuleDict
    # Attributes of upstream's class; which widths it has depends on the class:
    weight: torch.Tensor
    bias: nn.Parameter
    in_features: int
    out_features: int
    nf: int
    groups: Groups | None  # of its outputs; adapters see them in order
    stored_transposed = False  # True where the weight is [in, out] (Conv1D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = super().forward(x)
        program = self.current_program()
        return output if program is None else self.grouped(program(x, self.in_order(output), None))

    def in_order(self, outputs: torch.Tensor, dim: int = -1) -> torch.Tensor:
        """`outputs` [..., P, ...], with dimension `dim` as adapters see it."""
        return outputs if self.groups is None else self.groups.in_order(outputs, dim)

    def grouped(self, ordered: torch.Tensor, dim: int = -1) -> torch.Tensor:
        """What `in_order` made `ordered` [..., P, ...] of."""
        return ordered if self.groups is None else self.groups.grouped(ordered, dim)

    def add_adapter(self, name: str, config: LoRAConfig, parts: Parts, shared: SharedDict | None = None) -> None:
        """Create the adapter `name` for the spans `parts` of the output features.

        Args:
            shared: parameters that all projections share (VeRA).

        Raises:
            UnsupportedMethodError: the method needs a weight that it can read, and this one is quantised.
        """
        self.hold(name, make_adapter(config, self.site(parts, name), shared))

    def hold(self, name: str, adapter: ProjectionAdapter) -> None:
        """Add the module of the adapter `name`, with the dtype that its config asks for, or else that of the weight.

        Raises:
            TypeError: the class of the module does not say which of its parameters are frozen.
        """
        weight, config = self.weight, adapter.config
        check_frozen(adapter)
        dtype = getattr(torch, config.dtype) if config.dtype else None
        if dtype is None and weight.dtype.is_floating_point:
            dtype = weight.dtype
        self.loras[name] = adapter.to(weight.device, dtype)

    def site(self, parts: Parts, name: str = "") -> ProjectionSite:
        """What the adapter `name` must know about this projection to adapt the spans `parts` of its output features."""
        outputs = self.nf if self.stored_transposed else self.out_features
        place = Place(name, self.layer_index, self.location_key.partition("_lora")[0] + "_lora")
        return ProjectionSite(self, self.in_width(), int(outputs), parts, place)

    def in_width(self) -> int:
        return int(self.weight.shape[0] if self.stored_transposed else self.in_features)

    def own_weight(self, without_merged: bool = False) -> torch.Tensor:
        """The weight [P, I], whichever way it is stored, with the outputs in order.

        Args:
            without_merged: as it was before an adapter was merged into it.
        """
        weight: torch.Tensor = self.unmerged[0] if without_merged and self.unmerged is not None else self.weight
        return self.in_order(weight.t() if self.stored_transposed else weight, dim=0)

    def own_bias(self) -> torch.Tensor | None:
        """The bias [P], with the outputs in order; None where there is none."""
        bias = self._parameters["bias"]
        return None if bias is None else self.in_order(bias)

    def delete_adapter(self, name: str) -> None:
        if self.merged_adapter == name:
            self.unmerge()
        super().delete_adapter(name)

    def leaf(self, name: str) -> ProjectionLeaf | None:
        if name == self.merged_adapter or name not in self.loras:
            return None
        adapter = self.loras[name]
        assert isinstance(adapter, ProjectionAdapter)
        return ProjectionLeaf(adapter)

    def chain(self, programs: Sequence[ProjectionNode]) -> ProjectionNode:
        return chain(programs)

    def mean(self, programs: Sequence[ProjectionNode], weights: Sequence[float]) -> ProjectionNode:
        rest = 1.0 - sum(weights)
        return Mean(programs, weights, rest if abs(rest) > 1e-6 else 0.0, keep_output)

    def program_under(self, setup: AdapterSetup) -> ProjectionNode | None:
        if self.merged_adapter is not None and setup.key not in self.overrides:
            merged, self.merged_adapter = self.merged_adapter, None
            try:
                check_apart(merged, self.resolve(setup.adapter_setup))
            finally:
                self.merged_adapter = merged
        return super().program_under(setup)

    # Merging

    def merge(self, name: str) -> None:
        """Put the adapter `name` into the weight. The original is kept, so that `unmerge` is exact.

        Raises:
            UnsupportedMethodError: the weight is quantised, or the adapter depends on the input, or it runs in a block.
        """
        weight, bias = self.weight, self._parameters["bias"]  # None where it has none
        if not weight.dtype.is_floating_point or weight.dim() != 2:
            raise UnsupportedMethodError(f"A weight of type {weight.dtype} cannot take a merged adapter.")
        check_apart(name, self.program)
        self.unmerge()
        with torch.no_grad():
            adapter = self.loras[name]
            assert isinstance(adapter, ProjectionAdapter)
            ordered, new_bias = adapter.merged(self.own_weight(), self.own_bias())
            new_weight = self.grouped(ordered, dim=0)
            self.unmerged = (weight.detach().clone(), None if bias is None else bias.detach().clone())
            weight.copy_(new_weight.t() if self.stored_transposed else new_weight)
            if bias is not None and new_bias is not None:
                bias.copy_(self.grouped(new_bias))
        self.merged_adapter = name

    def unmerge(self) -> None:
        """Restore the weight, bit by bit, if an adapter is merged into it."""
        if self.unmerged is None:
            return
        weight, bias = self.unmerged
        with torch.no_grad():
            self.weight.copy_(weight)
            if bias is not None:
                self.bias.copy_(bias)
        self.merged_adapter = self.unmerged = None


class LoRALinear(LoRALayer, nn.Linear):
    """`torch.nn.Linear` with LoRA adapters."""


# (transformers has no types for mypy, so that a class of it is Any.)
class LoRAConv1D(LoRALayer, Conv1D):  # type: ignore[misc]
    """The transposed linear layer of GPT-2 with LoRA adapters."""

    stored_transposed = True


class LoRAMergedLinear(LoRALinear):
    """A linear layer that gives queries, keys and values together, with adapters for some of them."""


class LoRAMergedConv1D(LoRAConv1D):
    """GPT-2's transposed layer (Conv1D) that gives queries, keys and values together, with adapters for some of them."""


class _TransposedLoRALayer(LoRALayer):
    stored_transposed = True


_SWAPPED: Mapping[tuple[type, bool], type] = {
    (nn.Linear, False): LoRALinear,
    (nn.Linear, True): LoRAMergedLinear,
    (Conv1D, False): LoRAConv1D,
    (Conv1D, True): LoRAMergedConv1D,
}


def check_apart(name: str, program: ProjectionNode | None) -> None:
    """Raise where the adapter `name` runs in `program` beside others: in the weight, it acts on all of them.

    Raises:
        UnsupportedMethodError: it does.
    """
    while isinstance(program, Turned):
        (program,) = program.programs
    if not isinstance(program, ProjectionLeaf) and name in {adapter.place.adapter for adapter in adapters_in(program)}:
        raise UnsupportedMethodError(
            f"Adapter {name!r} stands in a block with others, so it cannot be in the weights of a projection, where it acts"
            " on all rows. Activate it alone, or no adapter, before merging; take it out of the weights with"
            " reset_adapter()."
        )


def check_projection(module: nn.Module, path: str) -> None:
    """Raise where `module` cannot take LoRA adapters.

    Raises:
        UnsupportedMethodError: it is neither a linear layer nor a Conv1D.
    """
    if not isinstance(module, (nn.Linear, Conv1D)):
        raise UnsupportedMethodError(
            f"LoRA needs a linear layer, but {path} is a {type(module).__name__}. Leave it out of the config."
        )


def enable_lora(
    module: nn.Module,
    layer_index: int,
    location_key: str,
    fused: bool,
    groups: Groups | None = None,
    is_turned: bool = False,
    is_packed: bool = False,
) -> LoRALayer:
    """Give a projection room for LoRA adapters, by changing its class."""
    if not isinstance(module, LoRALayer):
        upstream: type = type(module)
        base = _TransposedLoRALayer if isinstance(module, Conv1D) else LoRALayer
        module.__class__ = _SWAPPED.get((upstream, fused)) or subclass(base, upstream)
        patch_forward(module)
        assert isinstance(module, LoRALayer)
        module.init_adapter_layer(layer_index, location_key)
        module.merged_adapter = module.unmerged = None
        module.groups = groups
        if is_turned:
            module.is_turned = True
        if is_packed:
            module.is_packed = True
    return module


def disable_lora(module: LoRALayer) -> None:
    """Give a projection that holds no adapters its upstream class back."""
    modules = (cls for cls in type(module).__mro__ if issubclass(cls, nn.Module))
    upstream = next(cls for cls in modules if not issubclass(cls, AdapterLayerBase))
    del module.loras
    for name in (
        "program",
        "is_skipped",
        "overrides",
        "layer_index",
        "location_key",
        "merged_adapter",
        "unmerged",
        "groups",
    ):
        del module.__dict__[name]
    for name in ("is_length_first", "is_packed", "is_turned"):  # only there where they are true
        module.__dict__.pop(name, None)
    # A class that is found at run time; mypy takes an assignment for one to the class of the variable.
    module.__class__ = upstream  # type: ignore[assignment]
    patch_forward(module)
