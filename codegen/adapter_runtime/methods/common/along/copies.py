"""Copies of the parameters of a module, one per adapter that trains it along, and which of them the module computes with.

The module stays what and where it is, with its own parameters. While an adapter is active, whoever asks the module for a parameter
gets the adapter's: its forward, and whatever reads ``module.weight`` past it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from adapter_runtime.composition import AdapterCompositionBlock, Stack
from adapter_runtime.contract.protocol import TorchModule
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.common.averaging import weighted_sum
from adapter_runtime.programs.dynamic import DynamicMixin, change_class, subclass
from adapter_runtime.programs.layer import AdapterDict
from adapter_runtime.programs.nodes import Node

CONTAINER = "trained_along"  # the child of such a module that holds the copies; a part of keys in files


class Copies(nn.Module):
    """The copies of one adapter: of all parameters of a module, and of the buffers that checkpoints have (running means)."""

    has_own_type = True  # that of what was copied

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        for key, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            self.register_parameter(key, nn.Parameter(parameter.detach().clone()))
        for key, buffer in module.named_buffers(recurse=False):
            if key not in module._non_persistent_buffers_set:
                self.register_buffer(key, buffer.detach().clone())

    def average(self, others: Sequence[nn.Module], weights: Sequence[float]) -> None:
        """Become what a module would be after the weighted changes of all of `others`. See `AveragesItself`.

        The copies are those of a new adapter, and so what was there before any change. Weights that do not sum up to 1 scale
        changes, never the module itself.
        """
        states = [self.state_dict(), *(other.state_dict() for other in others)]
        for key, own in states[0].items():
            values = [state[key] for state in states]
            is_float = own.dtype.is_floating_point
            own.copy_(weighted_sum(values, [1 - sum(weights), *weights]) if is_float else values[1])


class RunsCopies(Node):
    """The module computes with the copies of an adapter."""

    def __init__(self, copies: nn.Module) -> None:
        super().__init__()
        self.copies = copies


class TrainedAlong(AdapterDict[RunsCopies]):
    """Adapter name -> its copies. Keys in files: ``<path of the module>.trained_along.<adapter>.<key>``.

    Args:
        path: of the module.
        layer_index: of the layer that it stands in; -1 = it stands in none.
    """

    runnable_blocks = (Stack,)

    def __init__(self, path: str, layer_index: int) -> None:
        super().__init__()
        self.init_adapter_layer(layer_index, path)

    def leaf(self, name: str) -> RunsCopies | None:
        return RunsCopies(self[name]) if name in self else None

    def program_of(self, block: str | AdapterCompositionBlock) -> RunsCopies | None:
        """See `AdapterLayerBase`. One call of a module computes with one set of parameters.

        Raises:
            UnsupportedMethodError: the block gives the module to several adapters, or to a part of what runs.
        """
        if isinstance(block, str):
            return self.leaf(block)
        programs = [program for program in map(self.program_of, block) if program is not None]
        if not programs:
            return None
        names = ", ".join(repr(name) for name in dict.fromkeys(block.names()) if name in self)
        if not isinstance(block, Stack):
            raise UnsupportedMethodError(
                f"{type(block).__name__} cannot be run with modules that are trained along (also_train): {self.location_key} of"
                f" {names} would compute for all that {block!r} runs, not for that adapter alone. Call the model for each adapter,"
                " or load them without: config={'also_train': None}."
            )
        if len(programs) > 1:
            raise UnsupportedMethodError(
                f"{names} in {block!r} each train {self.location_key} along, which computes with one of them. Activate one of"
                " these adapters, or load the others without: config={'also_train': None}."
            )
        return programs[0]


class ComputesWithCopiesMixin(DynamicMixin):
    """What the class of a module gets while adapters train it along."""

    def __getattr__(self, name: str) -> torch.Tensor | nn.Module:
        """A parameter or buffer: that of the active adapter, if it has a copy. See `torch.nn.Module`."""
        held: TrainedAlong | None = self.__dict__.get("_modules", {}).get(CONTAINER)
        running = None if held is None or name == CONTAINER else held.current_program()
        if running is not None:
            for tensors in (running.copies._parameters, running.copies._buffers):
                tensor = tensors.get(name)
                if tensor is not None:
                    return tensor
        found: torch.Tensor | nn.Module = super().__getattr__(name)
        return found


def add_copies(module: nn.Module, name: str, path: str, layer_index: int) -> None:
    """Give the adapter `name` copies of what a module has; see `TrainedAlong`."""
    held = module._modules.get(CONTAINER)
    if held is None:
        change_class(module, subclass(ComputesWithCopiesMixin, type(module)))
        held = TrainedAlong(path, layer_index)
        module.add_module(CONTAINER, held)
    assert isinstance(held, TrainedAlong)
    held._modules[name] = Copies(module)  # not by `held[name] = ...`, which refuses names of our own methods


def give_back(model: TorchModule) -> None:
    """Make modules that no adapter trains along any more what they were before."""
    for module in list(model.modules()):
        held = module._modules.get(CONTAINER)
        if isinstance(held, TrainedAlong) and not held.adapter_names():
            del module._modules[CONTAINER]
            module.__class__ = type(module).__dict__["_made_of"][1]
