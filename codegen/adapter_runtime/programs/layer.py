"""What every module that runs adapters has in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, Generic, Protocol

from torch import nn
from typing_extensions import TypeVar, Unpack

from adapter_runtime.call.arguments import Argument, Outputs
from adapter_runtime.call.context import AdapterSetup, thread
from adapter_runtime.composition import AdapterCompositionBlock, Average, BatchSplit, MultiTask, Parallel, Stack
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.programs.blocks import is_registered, program_of_block
from adapter_runtime.programs.nodes import (
    BatchInFront,
    Chain,
    Keep,
    Leaf,
    Mean,
    Node,
    PackedInFront,
    Parts,
    Rest,
    Rows,
    SequenceInFront,
    TensorNode,
)
from adapter_runtime.programs.showing import ShowsOccupiedRoom

P = TypeVar("P", bound=Node, default=Node)  # the nodes of a kind of layer


class EntryModel(Protocol):
    """The members of a base model that adapters use that act at its entry."""

    training: bool
    embedding_output: str  # path of the module whose output enters the first layer
    token_entry: str  # path of the table of tokens, where no module gives all of that
    token_scale: str  # attribute by which its embeddings are multiplied, and no others

    def get_submodule(self, target: str) -> nn.Module: ...

    def get_input_embeddings(self) -> nn.Module: ...


# Attributes by which a module of an adapter can describe itself. Modules of torch do not have them.


def frozen_keys(module: nn.Module) -> Sequence[str]:
    """The module's attribute ``frozen_parameters``: names of its own parameters that training leaves as they are."""
    keys: Sequence[str] = getattr(module, "frozen_parameters", ())
    return keys


def check_frozen(module: nn.Module) -> None:
    """Raise where ``frozen_parameters`` of a module and what its parameters say contradict each other.

    Raises:
        TypeError: it names no parameter, or a parameter that takes no gradients is not named.
    """
    own = dict(module.named_parameters(recurse=False))
    unknown = sorted(set(frozen_keys(module)) - own.keys())
    if unknown:
        raise TypeError(
            f"{type(module).__name__}.frozen_parameters names {', '.join(unknown)}, but it has {', '.join(own)}."
        )
    unnamed = sorted(key for key in own.keys() - set(frozen_keys(module)) if not own[key].requires_grad)
    if unnamed:
        raise TypeError(
            f"{type(module).__name__} makes {', '.join(unnamed)} with requires_grad=False, but training would train it: name it"
            " in the class attribute frozen_parameters."
        )


def freeze_frozen(modules: Iterable[nn.Module]) -> None:
    """Let what modules name in ``frozen_parameters`` take no gradients. Loading a whole model makes parameters anew."""
    for module in modules:
        for key in frozen_keys(module):
            module.get_parameter(key).requires_grad_(False)


def has_own_type(module: nn.Module) -> bool:
    """The module's attribute ``has_own_type``: whether its parameters keep their dtype, whatever that of the model is."""
    return bool(getattr(module, "has_own_type", False))


class AdapterLayerBase(ShowsOccupiedRoom, nn.Module, Generic[P]):
    """Base of modules that run adapters: hosts of bottlenecks, prefixes of an attention, adapted projections.

    What runs is decided when the active adapters change, never in a forward: `program` holds a tree of nodes
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
    reads_spans: ClassVar[bool] = False  # whether it needs to know where the real tokens of a row are
    reads_context: ClassVar[bool] = (
        False  # whether it runs within calls of the model only, so that these must have a context
    )
    acts_at_entry: ClassVar[bool] = False  # whether it changes the arguments of the base model, by `at_entry`
    acts_at_root: ClassVar[bool] = (
        False  # whether it also changes those of a model made of several, of which that is a part
    )
    entry_order: ClassVar[int] = 0  # of several that do, that with the least acts first

    # Whether the module only stores parameters that modules elsewhere use: merging concerns those, not this one.
    only_holds_parameters: ClassVar[bool] = False

    is_length_first: bool = (
        False  # whether it is called with tensors (length, batch, ...); told before anything is resolved
    )
    is_packed: bool = (
        False  # whether it is called with tensors in which one row holds the positions of all; told as well
    )
    is_turned: bool = False  # whether it sees batch and positions the other way round than the layer around it
    layer_index: int = -1  # counted over all stacks of the model; -1 = not in a layer
    location_key: str = ""  # "output_adapter", "selfattn_lora", ...

    def init_adapter_layer(self, layer_index: int, location_key: str) -> None:
        """Give the layer its place, and room for adapters."""
        self.layer_index = layer_index
        self.location_key = location_key
        self.program: P | None = None
        self.is_skipped = False
        self.overrides: dict[str, P | None] = {}
        for name in self.adapter_containers:
            setattr(self, name, nn.ModuleDict())

    def modules_of(self, name: str) -> Iterator[tuple[str, nn.Module]]:
        """The modules of the adapter `name`, each with its key relative to this layer."""
        for attribute, held in self._containers():
            if name in held:
                yield f"{attribute}.{name}", held[name]

    def _containers(self) -> Iterator[tuple[str, nn.ModuleDict]]:
        """What holds modules by adapter name, each with its attribute."""
        for attribute in self.adapter_containers:
            held = self._modules[attribute]
            assert isinstance(held, nn.ModuleDict)
            yield attribute, held

    def trained_parameters(self, name: str) -> Iterator[nn.Parameter]:
        """The parameters of the adapter `name` that training changes: all, unless a layer says otherwise.

        A module below may say which of its own parameters stay as they are (`frozen_keys`).
        """
        for _, module in self.modules_of(name):
            for part in module.modules():
                frozen = frozen_keys(part)
                for key, parameter in part.named_parameters(recurse=False):
                    if key not in frozen:
                        yield parameter

    def adapter_names(self) -> set[str]:
        """The names of the adapters that have modules here."""
        return {name for _, held in self._containers() for name in held}

    @classmethod
    def is_only_room(cls) -> bool:
        """Whether modules of the class are no modules of upstream's, but hold adapters and nothing else."""
        modules = (base for base in cls.__mro__ if issubclass(base, nn.Module))
        return all(issubclass(base, AdapterLayerBase) or base in (nn.Module, nn.ModuleDict) for base in modules)

    def adapter_rooms(self) -> tuple[str, ...]:
        """The attributes that hold what upstream's module would not have."""
        return self.adapter_containers

    def is_vacant(self) -> bool:
        """Whether the module holds no adapter, and is no module of upstream's either."""
        return self.is_only_room() and not self.adapter_names()

    def delete_adapter(self, name: str) -> None:
        """Remove the adapter `name`, if it is here."""
        for _, held in self._containers():
            if name in held:
                del held[name]

    # Activating

    def activate(self, block: AdapterCompositionBlock | None, skip_layers: frozenset[int]) -> None:
        """Decide what runs from now on. Layers in `skip_layers` run nothing.

        Raises:
            UnsupportedMethodError: the method of this layer cannot run a block.
        """
        self.overrides = {}
        self.is_skipped = self.layer_index in skip_layers
        self.program = self.turned(self.resolve(block))

    def current_program(self) -> P | None:
        """What runs now in this thread; None = nothing."""
        return self.program if thread.setup is None else self.program_under(thread.setup)

    def program_under(self, setup: AdapterSetup) -> P | None:
        """What runs within the context of `setup`."""
        if setup.key not in self.overrides:
            self.overrides[setup.key] = self.turned(self.resolve(setup.adapter_setup))
        return self.overrides[setup.key]

    def resolve(self, block: AdapterCompositionBlock | None) -> P | None:
        """The program that runs here under `block`; None = nothing."""
        return None if block is None or self.is_skipped else self.program_of(block)

    def turned(self, program: P | None) -> P | None:
        """`program` for the tensors that this layer is called with, where these do not have the batch in front."""
        return program

    def program_of(self, block: str | AdapterCompositionBlock) -> P | None:
        """The program of a name or a block; None where none of its adapters lives here.

        Raises:
            UnsupportedMethodError: the method cannot run the block.
        """
        if isinstance(block, str):
            return self.leaf(block)
        programs = [self.program_of(child) for child in block]
        if all(program is None for program in programs):
            return None
        if not self.can_run(block):
            raise UnsupportedMethodError(
                f"{type(block).__name__} cannot be run with {self.method_name or self.location_key}: {block!r}. "
                f"Supported there: {', '.join(kind.__name__ for kind in self.runnable_blocks)}."
            )
        return self.build_program(block, programs)

    def can_run(self, block: AdapterCompositionBlock) -> bool:
        """Whether the method of this layer can run a block, whatever its children are."""
        return isinstance(block, self.runnable_blocks) or is_registered(block)

    def shown_place(self) -> str:
        """Where the layer is, for messages."""
        return f"{self.location_key} of layer {self.layer_index}"

    def leaf(self, name: str) -> P | None:
        """What runs for the adapter `name`; None where it does not live here, or has nothing to run here."""
        return None

    def build_program(self, block: AdapterCompositionBlock, programs: Sequence[P | None]) -> P:
        """The program of a block from those of its children; None stands for a child without modules here."""
        raise NotImplementedError

    def at_entry(self, model: EntryModel, given: dict[str, Argument]) -> dict[str, Argument]:
        """The arguments of a call of the base model, changed. Called where `acts_at_entry` and an adapter runs here."""
        raise NotImplementedError

    def at_exit(self, outputs: Outputs) -> Outputs:
        """The outputs of a call of the base model, changed. Called after each call that `at_entry` changed."""
        return outputs

    def at_root(self, root: EntryModel, part: EntryModel, given: dict[str, Argument]) -> dict[str, Argument]:
        """The arguments of a call of a model made of several, changed. Called where `acts_at_root` and an adapter runs here.

        Args:
            root: that model.
            part: the model in it that this layer belongs to.
            given: its arguments.
        """
        raise NotImplementedError

    def after_root(self, outputs: Outputs) -> Outputs:
        """The outputs of such a call, changed."""
        return outputs


class TensorLayer(AdapterLayerBase[TensorNode[Unpack[Rest]]]):
    """Base of layers whose adapters are called with a tensor and whatever else the layer hands on."""

    without_adapter: TensorNode[Unpack[Rest]] = Keep()  # the program of no adapter

    def turned(self, program: TensorNode[Unpack[Rest]] | None) -> TensorNode[Unpack[Rest]] | None:
        """See `AdapterLayerBase`. What divides the batch or the length finds them where it expects them."""
        nodes = [] if program is None else list(program.walk())
        parts = [node for node in nodes if isinstance(node, Parts)]
        reads = any(node.reads_sequence for node in nodes)
        if program is None or not (parts or reads):
            return program
        if self.is_packed and parts and all(isinstance(node, Rows) for node in parts):
            return PackedInFront([program], self.shown_place())
        turned = BatchInFront([program]) if self.is_length_first else program
        return SequenceInFront([turned], self.layer_index) if reads else turned

    def leaf(self, name: str) -> TensorNode[Unpack[Rest]] | None:
        _, held = next(self._containers())
        return Leaf(held[name]) if name in held else None

    def build_program(
        self, block: AdapterCompositionBlock, programs: Sequence[TensorNode[Unpack[Rest]] | None]
    ) -> TensorNode[Unpack[Rest]]:
        if isinstance(block, Stack):
            found = [program for program in programs if program is not None]
            return found[0] if len(found) == 1 else self.chain(found)
        filled = [self.without_adapter if program is None else program for program in programs]
        if isinstance(block, Average):
            return self.mean(filled, block.weights)
        return program_of_block(block, filled)

    def chain(self, programs: Sequence[TensorNode[Unpack[Rest]]]) -> TensorNode[Unpack[Rest]]:
        """The program of a stack of at least two adapters."""
        return Chain(programs)

    def mean(self, programs: Sequence[TensorNode[Unpack[Rest]]], weights: Sequence[float]) -> TensorNode[Unpack[Rest]]:
        """The program of a weighted sum."""
        return Mean(programs, weights)


class AdapterDict(AdapterLayerBase[P], nn.ModuleDict):
    """Base of what holds one module per adapter for the whole model, under the adapter's name itself."""

    def modules_of(self, name: str) -> Iterator[tuple[str, nn.Module]]:
        if name in self:
            yield name, self[name]

    def adapter_names(self) -> set[str]:
        return set(self)

    def delete_adapter(self, name: str) -> None:
        if name in self:
            del self[name]


# What `adapters` calls layers that can run blocks.
ComposableAdapterLayerBase = TensorLayer
