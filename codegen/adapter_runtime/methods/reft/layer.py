"""Where ReFT edits: at the output of a layer, by a forward hook that is there only while the layer has such adapters.

The hook goes in front of all others, so that the hidden states that upstream records contain the edit. It runs outside of
a checkpointed forward, for which only the layer itself is computed twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import torch
from torch import nn
from typing_extensions import Unpack

from adapter_runtime.call.arguments import Argument, LayerOutputs, hidden_states_of, with_hidden_states
from adapter_runtime.composition import AdapterCompositionBlock
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.reft.config import ReftConfig
from adapter_runtime.methods.reft.module import EditShape, Reft
from adapter_runtime.methods.reft.positions import Stream, positions_of
from adapter_runtime.methods.reft.told import place_of_mask, told_by
from adapter_runtime.programs.hooks import remove_hooks
from adapter_runtime.programs.layer import TensorLayer
from adapter_runtime.programs.nodes import Branch, TensorNode

EditNode: TypeAlias = TensorNode[Unpack[tuple[torch.Tensor, ...]]]


class PlacedEdit(EditNode):
    """An adapter in a program. It edits those of the positions in the state that are for its own `EditShape`.

    Args:
        reft: the module of the adapter.
        slot: index of its shape in the `EditShape`s of the program.
    """

    def __init__(self, reft: Reft, slot: int) -> None:
        super().__init__()
        self.reft = reft
        self.slot = slot

    def __call__(self, hidden: torch.Tensor, *positions: torch.Tensor) -> torch.Tensor:
        start = 2 * self.slot
        edited: torch.Tensor = self.reft(hidden, positions[start], positions[start + 1])
        return edited


class Edits(Branch[Unpack[tuple[torch.Tensor, ...]]]):
    """What runs in a layer: (hidden [B, L, H], then per shape an index [B, P, H] and a mask [B, P, 1]) -> hidden.

    Args:
        shapes: of the edits in the program.
    """

    def __init__(self, program: EditNode, shapes: tuple[EditShape, ...]) -> None:
        super().__init__([program])
        self.shapes = shapes

    def __call__(self, hidden: torch.Tensor, *positions: torch.Tensor) -> torch.Tensor:
        return self.programs[0](hidden, *positions)


class ReftLayer(TensorLayer[Unpack[tuple[torch.Tensor, ...]]]):
    """The ReFT adapters of one layer.

    Args:
        layer_index: counted over all stacks of the model.
        stream: what the layer gives.
        mask_place: the index of the mask among the arguments of the layer; -1 where it takes none.
    """

    adapter_containers = ("refts",)
    method_name = "ReFT"
    reads_spans = True
    refts: nn.ModuleDict

    def __init__(self, layer_index: int, stream: Stream, mask_place: int = -1) -> None:
        super().__init__()
        self.init_adapter_layer(layer_index, "output_reft")
        self.stream = stream
        self.mask_place = mask_place
        self.shapes: tuple[EditShape, ...] = ()

    def trained_parameters(self, name: str) -> Iterator[nn.Parameter]:
        for unit in self._reft(name).running_units() if name in self.refts else ():
            yield from unit.parameters()

    def _reft(self, name: str) -> Reft:
        reft = self.refts[name]
        assert isinstance(reft, Reft)
        return reft

    def resolve(self, block: AdapterCompositionBlock | None) -> Edits | None:
        living = [name for name in block.names() if name in self.refts] if block is not None else []
        self.shapes = tuple(dict.fromkeys(self._reft(name).shape for name in living))
        program = super().resolve(block)
        return None if program is None else Edits(program, self.shapes)

    def leaf(self, name: str) -> PlacedEdit | None:
        if name not in self.refts:
            return None
        reft = self._reft(name)
        return PlacedEdit(reft, self.shapes.index(reft.shape))

    def edit_output(
        self, layer: nn.Module, args: tuple[Argument, ...], kwargs: Mapping[str, Argument], output: LayerOutputs
    ) -> LayerOutputs | None:
        """The forward hook: the output of `layer`, a tensor [B, L, H] or a tuple or list that begins with one, with the edits.

        Raises:
            UnsupportedMethodError: the tensor has another number of dimensions, or another width.
        """
        program = self.current_program()
        if not isinstance(program, Edits):
            return None
        hidden = hidden_states_of(output)
        if hidden.dim() != 3 or hidden.shape[-1] != self.stream.width:
            raise UnsupportedMethodError(
                f"ReFT edits positions of a sequence of vectors {self.stream.width} wide, but {type(layer).__name__} gives a tensor of "
                f"shape {list(hidden.shape)}. Use another method."
            )
        told = told_by(args, kwargs, self.mask_place)
        positions = positions_of(self.stream, program.shapes, hidden, told)
        if positions is None:
            return None
        return with_hidden_states(output, program(hidden, *positions))


def enable_reft(layer: nn.Module, layer_index: int, stream: Stream) -> ReftLayer:
    """Give a layer room for ReFT adapters."""
    found = getattr(layer, "reft_layer", None)
    if not isinstance(found, ReftLayer):
        found = layer.reft_layer = ReftLayer(layer_index, stream, place_of_mask(layer))
        layer.register_forward_hook(found.edit_output, prepend=True, with_kwargs=True)
    return found


def disable_reft(layer: nn.Module) -> None:
    """Remove the hook and the container from a layer, when its last ReFT adapter is deleted."""
    found = getattr(layer, "reft_layer", None)
    if not isinstance(found, ReftLayer) or found.adapter_names():
        return
    remove_hooks(layer, lambda hook: getattr(hook, "__self__", None) is found)
    del layer.reft_layer


def add_reft(layer: nn.Module, layer_index: int, stream: Stream, name: str, config: ReftConfig) -> None:
    """Create the adapter `name` in a layer, with the type and device of the layer's own parameters."""
    reft = Reft(config, stream.width)
    reference = next((tensor for tensor in layer.parameters() if tensor.is_floating_point()), None)
    dtype = getattr(torch, config.dtype) if config.dtype else reference.dtype if reference is not None else None
    reft.to(reference.device if reference is not None else None, dtype)
    enable_reft(layer, layer_index, stream).refts[name] = reft
