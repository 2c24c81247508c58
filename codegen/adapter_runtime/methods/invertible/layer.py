"""Where invertible adapters run: after the embeddings, and, backwards, before the projection to the vocabulary.

Forwards, they run in a hook on the module whose output enters the first layer, registered while the model has such adapters.
Where no module gives all that enters it, they run behind the table of token embeddings, to which positions are added further on.
Callers may go past a table with ``inputs_embeds``, or call it by themselves: it is then the call of the base model that decides,
or that of the module in it which embeds the tokens (`TableReader`).

Backwards, they run only where the projection is tied to the token embeddings: in flexible heads as a part of the head, in
upstream's heads by `undo_before_projection`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from operator import attrgetter
from typing import TypeAlias

import torch
from torch import nn

from adapter_runtime.call.arguments import Argument, LayerOutputs, Outputs, hidden_states_of, with_hidden_states
from adapter_runtime.call.context import CallSlot, thread
from adapter_runtime.call.repeating import positional_names
from adapter_runtime.composition import BatchSplit, MultiTask, Parallel, Stack
from adapter_runtime.contract.protocol import AdaptedBaseModel
from adapter_runtime.contract.widths import embedding_width, summed_width
from adapter_runtime.errors import InvalidConfigError, UnsupportedMethodError
from adapter_runtime.methods.bottleneck.config import BnConfig
from adapter_runtime.methods.invertible.module import Coupling, make_invertible
from adapter_runtime.programs.hooks import remove_hooks
from adapter_runtime.programs.layer import AdapterDict, EntryModel, TensorLayer
from adapter_runtime.programs.nodes import Branch, Leaf, TensorNode

CONTAINER = "invertible_adapters"  # the attribute of the host; a part of keys in files

CouplingNode: TypeAlias = TensorNode[bool]
Scale: TypeAlias = float | torch.Tensor | None  # of embeddings; None = they stay as they are


class CouplingChain(Branch[bool]):
    """A stack of invertible adapters, which is undone from its end."""

    def __call__(self, states: torch.Tensor, rev: bool) -> torch.Tensor:
        for program in reversed(self.programs) if rev else self.programs:
            states = program(states, rev)
        return states


class CoupledSlot(CallSlot):
    """Whether invertible adapters have run in the current call."""

    def __init__(self) -> None:
        self.is_coupled = False


class ReadingSlot(CallSlot):
    """Whether what embeds the tokens runs now in the current call: not a model around it, which may use the table before."""

    def __init__(self) -> None:
        self.is_reading = False


class InvertibleAdapters(TensorLayer[bool], AdapterDict[CouplingNode]):
    """Adapter name -> invertible adapter. Keys in files: ``<base or encoder>.invertible_adapters.<adapter>.<key>``.

    Args:
        is_token_table: whether the module after which they run is the table of token embeddings.
        in_encoder: whether they belong to the encoder of an encoder-decoder model.
        in_reader: whether a `TableReader` lets them run, and not the call of the base model.
    """

    method_name = "an invertible adapter"
    runnable_blocks = (Stack, BatchSplit, Parallel, MultiTask)
    reads_context = True
    entry_order = -1  # before a prompt, which they do not change

    def __init__(self, is_token_table: bool, in_encoder: bool, in_reader: bool = False) -> None:
        super().__init__()
        self.init_adapter_layer(-1, "invertible")
        self.is_token_table = is_token_table
        self.in_encoder = in_encoder
        self.in_reader = in_reader

    @property
    def acts_at_entry(self) -> bool:  # type: ignore[override]
        """See `AdapterLayerBase`."""
        return not self.in_reader

    def leaf(self, name: str) -> CouplingNode | None:
        return Leaf(self[name]) if name in self else None

    def chain(self, programs: Sequence[CouplingNode]) -> CouplingChain:
        return CouplingChain(programs)

    def couple(self, states: torch.Tensor, rev: bool = False) -> torch.Tensor:
        """[B, ..., E] -> [B, ..., E]: run the active adapters, with `rev` backwards.

        Raises:
            UnsupportedMethodError: the adapters are for embeddings of another width.
        """
        program = self.current_program()
        if program is None:
            return states
        if not rev and thread.context is not None:
            thread.context.slot(CoupledSlot).is_coupled = True
        width = next(coupling.width for coupling in self.values() if isinstance(coupling, Coupling))
        if states.shape[-1] != width:
            raise UnsupportedMethodError(
                f"Invertible adapters are for embeddings of width {width}, but these are {states.shape[-1]} wide."
            )
        return program(states, rev)

    # Hooks

    def after_embeddings(
        self, module: nn.Module, args: tuple[Argument, ...], output: LayerOutputs
    ) -> LayerOutputs | None:
        """Forward hook of the module after which invertible adapters run; `output` is [B, L, E], or a tuple that begins so."""
        is_asked = self.in_reader or (self.is_token_table and not self.in_encoder)
        if is_asked and (thread.context is None or not thread.context.slot(ReadingSlot).is_reading):
            return None  # the caller wants the embeddings for itself, or is another half that has the same table
        if self.current_program() is None:
            return None
        return with_hidden_states(output, self.couple(hidden_states_of(output)))

    def before_encoder(
        self, module: nn.Module, args: tuple[Argument, ...], kwargs: dict[str, Argument]
    ) -> tuple[tuple[Argument, ...], dict[str, Argument]]:
        """Forward pre-hook of an encoder that has embeddings given."""
        return args, self.coupled_inputs(kwargs)

    def follow(self, table: nn.Module) -> None:
        """Run after a table of tokens: after another one than before, where that was replaced."""
        if not _is_hooked(table, self):
            table.register_forward_hook(self.after_embeddings, prepend=True)

    def at_entry(self, model: EntryModel, given: dict[str, Argument]) -> dict[str, Argument]:
        if self.in_encoder or not self.is_token_table:
            return given
        if thread.context is not None:
            thread.context.slot(ReadingSlot).is_reading = True
        self.follow(model.get_submodule(model.token_entry or model.embedding_output))
        scale = attrgetter(model.token_scale)(model) if model.token_entry and model.token_scale else None
        return self.coupled_inputs(given, scale)

    def at_exit(self, outputs: Outputs) -> Outputs:
        """See `AdapterLayerBase`.

        Raises:
            UnsupportedMethodError: the module after which the adapters run did not.
        """
        context = thread.context
        if context is not None and not self.in_encoder and not context.slot(CoupledSlot).is_coupled:
            raise UnsupportedMethodError(
                "The module after which invertible adapters run did not run in this call, so that they changed nothing. Use"
                " inv_adapter=None."
            )
        return outputs

    def coupled_inputs(self, given: dict[str, Argument], scale: Scale = None) -> dict[str, Argument]:
        """Arguments, with adapters run on embeddings among them.

        Args:
            scale: what the embeddings of tokens are multiplied by behind the adapters; these here are, by the caller.
        """
        embeddings = given.get("inputs_embeds")
        if not isinstance(embeddings, torch.Tensor):
            return given
        coupled = self.couple(embeddings) if scale is None else self.couple(embeddings / scale) * scale
        return {**given, "inputs_embeds": coupled}


class TableReader:
    """Hooks of the module in a base model that embeds the tokens, or is given embeddings: the decoder of OPT and of Whisper, an encoder.

    Args:
        layer: the invertible adapters of the base model.
        table: the attribute of the module that holds its table.
        scale: path in it of what multiplies the embeddings of tokens, and no others; "" = nothing does.
    """

    def __init__(self, layer: InvertibleAdapters, table: str, scale: str) -> None:
        self.layer = layer
        self.table = table
        self.scale = scale

    def attach(self, module: nn.Module) -> None:
        """Let the adapters run in the calls of a module."""
        module.register_forward_pre_hook(self.before, with_kwargs=True)
        module.register_forward_hook(self.after, prepend=True, always_call=True)  # in the context that `before` saw

    def before(
        self, module: nn.Module, args: tuple[Argument, ...], kwargs: dict[str, Argument]
    ) -> tuple[tuple[Argument, ...], dict[str, Argument]] | None:
        """Forward pre-hook."""
        context = thread.context
        if context is None or self.layer.current_program() is None:
            return None
        self.layer.follow(module.get_submodule(self.table))
        context.slot(ReadingSlot).is_reading = True
        scale = attrgetter(self.scale)(module) if self.scale else None
        named = dict(zip(positional_names(type(module).forward), args, strict=False))
        changed = self.layer.coupled_inputs({**named, **kwargs}, scale)
        return tuple(changed[name] for name in named), {name: changed[name] for name in kwargs}

    def after(self, module: nn.Module, args: tuple[Argument, ...], output: Argument) -> None:
        """Forward hook."""
        if thread.context is not None:
            thread.context.slot(ReadingSlot).is_reading = False


def _is_hooked(module: nn.Module, owner: nn.Module) -> bool:
    return any(_is_of(hook, owner) for hook in module._forward_hooks.values())


def _is_of(hook: Hashable, layer: nn.Module) -> bool:
    owner = getattr(hook, "__self__", None)
    return owner is layer or (isinstance(owner, TableReader) and owner.layer is layer)


def _place(model: AdaptedBaseModel) -> nn.Module:
    """The module after which the invertible adapters of a base model run."""
    return model.get_submodule(model.token_entry or model.embedding_output)


def add_invertible(model: AdaptedBaseModel, name: str, config: BnConfig) -> None:
    """Create the invertible part of the adapter `name`.

    Raises:
        UnsupportedMethodError: the model has no one place for it.
        InvalidConfigError: the options make no sense, or the name cannot be used here.
    """
    coupling = make_invertible(config, _width(model))
    host = host_of(model)
    layer = invertible_adapters_of(model)
    if layer is None:
        layer = _attached(model, host)
        host.add_module(CONTAINER, layer)
    if hasattr(layer, name):  # names of adapters stand beside those of methods
        raise InvalidConfigError(f"An adapter with an invertible part cannot be called {name!r}. Choose another name.")
    layer[name] = coupling


def count_places(model: AdaptedBaseModel, config: BnConfig) -> int:
    """1, where the model has a place for an invertible adapter.

    Raises:
        UnsupportedMethodError: it has none.
        InvalidConfigError: the options make no sense.
    """
    with torch.device("meta"):
        make_invertible(config, _width(model))
    return 1


def _width(model: AdaptedBaseModel) -> int:
    """Width E of the embeddings that enter the layers.

    Raises:
        UnsupportedMethodError: they do so at no one place.
    """
    if not (model.token_entry or model.embedding_output) or not model.token_embeddings:
        raise UnsupportedMethodError(
            f"{type(model).__name__} has no one place where the embeddings of tokens enter the layers, so it cannot have "
            "invertible adapters. Use inv_adapter=None."
        )
    # Upstream may project what it took out of the table to another width (MobileBERT).
    projected = summed_width(_place(model))
    return projected or embedding_width(model.get_submodule(model.token_embeddings))


def host_of(model: AdaptedBaseModel) -> nn.Module:
    """The module that holds the invertible adapters of a base model: its encoder, if that reads the tokens, or itself.

    An encoder of sounds (Canary) does not: there the decoder embeds them.
    """
    whole = model.get_submodule("")
    if not model.config.is_encoder_decoder:
        return whole
    encoder = model.get_encoder()
    place = model.token_entry or model.embedding_output
    return encoder if place and model.get_submodule(place) in set(encoder.modules()) else whole


def invertible_adapters_of(model: AdaptedBaseModel) -> InvertibleAdapters | None:
    """The invertible adapters of a base model, if it has any."""
    found = host_of(model)._modules.get(CONTAINER)
    return found if isinstance(found, InvertibleAdapters) else None


def _attached(model: AdaptedBaseModel, host: nn.Module) -> InvertibleAdapters:
    module = _place(model)
    reader, _, table = model.token_entry.rpartition(".")
    in_encoder = host is not model.get_submodule("")
    layer = InvertibleAdapters(isinstance(module, nn.Embedding), in_encoder, in_reader=bool(reader))
    module.register_forward_hook(layer.after_embeddings, prepend=True)  # before that of a prompt
    if layer.in_reader:
        TableReader(layer, table, model.token_scale).attach(model.get_submodule(reader))
    elif layer.in_encoder and layer.is_token_table:
        host.register_forward_pre_hook(layer.before_encoder, with_kwargs=True)
    return layer


def disable_invertible(model: AdaptedBaseModel) -> None:
    """Remove what `add_invertible` added to a base model, when its last invertible adapter is deleted."""
    layer = invertible_adapters_of(model)
    if layer is None or layer.adapter_names():
        return
    host = host_of(model)
    reader = model.get_submodule(model.token_entry.rpartition(".")[0])
    for module in (_place(model), host, reader):
        remove_hooks(module, lambda hook: _is_of(hook, layer))
    delattr(host, CONTAINER)
