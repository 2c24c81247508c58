"""What every module that runs adapters has in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from torch import nn

from adapter_runtime.call.context import AdapterSetup
from adapter_runtime.composition import (
    AdapterCompositionBlock,
    Average,
    BatchSplit,
    MultiTask,
    Parallel,
    Split,
    Stack,
)
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.programs.nodes import Chain, Mean, Rows, Spans, Tasks, first_kept


class AdapterLayerBase:
    """Base of modules that run adapters: hosts of bottlenecks, prefixes of an attention, adapted projections.

    What runs is decided when the active adapters change, never in a forward: `running` holds a program
    (``programs/nodes.py``), or None. An `AdapterSetup` is resolved once per layer and remembered under its key.
    """

    # Declaration: attributes that hold modules by adapter name. All parameters of adapters are below them.
    adapter_containers: ClassVar[tuple[str, ...]] = ()
    method_name: ClassVar[str] = ""  # for messages: "LoRA"
    runnable_blocks: ClassVar[tuple[type[AdapterCompositionBlock], ...]] = (
        Stack,
        BatchSplit,
        Parallel,
        MultiTask,
        Average,
    )
    without_adapter: ClassVar[Any] = staticmethod(first_kept)  # the program of no adapter
    reads_spans: ClassVar[bool] = False  # whether it needs to know where the real tokens of a row are
    acts_at_entry: ClassVar[bool] = False  # whether it changes the arguments of the base model, by `at_entry`
    entry_order: ClassVar[int] = 0  # of several that do, that with the least acts first

    layer_index: int = -1  # counted over all stacks of the model; -1 = not in a layer
    location_key: str = ""  # "output_adapter", "selfattn_lora", ...

    def init_adapter_layer(self, layer_index: int, location_key: str) -> None:
        """Give the layer its place, and room for adapters."""
        self.layer_index = layer_index
        self.location_key = location_key
        self.running: Any = None
        self.is_skipped = False
        self.overrides: dict[str, Any] = {}
        for name in self.adapter_containers:
            setattr(self, name, nn.ModuleDict())

    def modules_of(self, name: str) -> Iterator[tuple[str, nn.Module]]:
        """The modules of the adapter `name`, each with its key relative to this layer."""
        for attribute in self.adapter_containers:
            held: nn.ModuleDict = getattr(self, attribute)
            if name in held:
                yield f"{attribute}.{name}", held[name]

    def trained_parameters(self, name: str) -> Iterator[nn.Parameter]:
        """The parameters of the adapter `name` that training changes: all, unless a layer says otherwise.

        A module below may have an attribute ``frozen_parameters``: names of its own parameters that stay as they are.
        """
        for _, module in self.modules_of(name):
            for part in module.modules():
                frozen = getattr(part, "frozen_parameters", ())
                for key, parameter in part.named_parameters(recurse=False):
                    if key not in frozen:
                        yield parameter

    def adapter_names(self) -> set[str]:
        """The names of adapters that live here."""
        return {name for attribute in self.adapter_containers for name in getattr(self, attribute)}

    def delete_adapter(self, name: str) -> None:
        """Remove the adapter `name`, if it is here."""
        for attribute in self.adapter_containers:
            held: nn.ModuleDict = getattr(self, attribute)
            if name in held:
                del held[name]

    # Activating

    def activate(self, block: AdapterCompositionBlock | None, skip_layers: frozenset[int]) -> None:
        """Decide what runs from now on. Layers in `skip_layers` run nothing.

        Raises:
            UnsupportedMethodError: the method that lives here cannot run a block.
        """
        self.overrides = {}
        self.is_skipped = self.layer_index in skip_layers
        object.__setattr__(self, "running", self.resolve(block))  # it may be a module, and must not become a child

    def running_under(self, setup: AdapterSetup) -> Any:
        """What runs within the context of `setup`."""
        if setup.key not in self.overrides:
            self.overrides[setup.key] = self.resolve(setup.adapter_setup)
        return self.overrides[setup.key]

    def resolve(self, block: AdapterCompositionBlock | None) -> Any:
        """The program that runs here under `block`; None = nothing."""
        return None if block is None or self.is_skipped else self.program_of(block)

    def program_of(self, block: str | AdapterCompositionBlock) -> Any:
        """The program of a name or a block; None where none of its adapters lives here."""
        if isinstance(block, str):
            return self.runnable(block)
        programs = [self.program_of(child) for child in block]
        if all(program is None for program in programs):
            return None
        if not isinstance(block, self.runnable_blocks):
            raise UnsupportedMethodError(
                f"{type(block).__name__} cannot be run with {self.method_name or self.location_key}: {block!r}. "
                f"Supported there: {', '.join(kind.__name__ for kind in self.runnable_blocks)}."
            )
        return self.build_program(block, programs)

    def runnable(self, name: str) -> Any:
        """What the layer has to run for the adapter `name`; None where it does not live here."""
        held: nn.ModuleDict = getattr(self, self.adapter_containers[0])
        return held[name] if name in held else None

    def build_program(self, block: AdapterCompositionBlock, programs: Sequence[Any]) -> Any:
        """The program of a block out of those of its children, in which None stands for children that do not live here."""
        if isinstance(block, Stack):
            found = [program for program in programs if program is not None]
            return found[0] if len(found) == 1 else self.chain_program(found)
        filled = [self.without_adapter if program is None else program for program in programs]
        if isinstance(block, BatchSplit):
            return Rows(filled, block.batch_sizes)
        if isinstance(block, Parallel):
            return Rows(filled) if len(filled) > 1 else filled[0]
        if isinstance(block, MultiTask):
            return Tasks(filled)
        if isinstance(block, Average):
            return self.mean_program(filled, block.weights)
        if isinstance(block, Split):
            return Spans(filled, block.splits)
        raise AssertionError(f"{type(self).__name__} says that it runs {type(block).__name__}, but does not build it.")

    def at_entry(self, model: Any, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a forward of the base model, changed; called if `acts_at_entry` and something runs here."""
        raise NotImplementedError

    def at_exit(self, model: Any, outputs: Any) -> Any:
        """The outputs of that forward, changed."""
        return outputs

    def chain_program(self, programs: Sequence[Any]) -> Any:
        """The program of a stack of at least two adapters."""
        return Chain(programs)

    def mean_program(self, programs: Sequence[Any], weights: Sequence[float]) -> Any:
        """The program of a weighted sum."""
        return Mean(programs, weights)


class AdapterDict(AdapterLayerBase, nn.ModuleDict):
    """Base of what holds one module per adapter for the whole model, under the adapter's name itself."""

    def modules_of(self, name: str) -> Iterator[tuple[str, nn.Module]]:
        if name in self:
            yield name, self[name]

    def adapter_names(self) -> set[str]:
        return set(self)

    def delete_adapter(self, name: str) -> None:
        if name in self:
            del self[name]


# `adapters` keeps layers apart that can run blocks; here all can say which they run.
ComposableAdapterLayerBase = AdapterLayerBase
