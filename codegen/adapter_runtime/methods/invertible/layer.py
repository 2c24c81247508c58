"""Where invertible adapters run: after the embeddings, and, backwards, before the projection to the vocabulary.

Forwards, they run in a hook on the module whose output enters the first layer, registered while the model has such adapters.
Where that module is the table of token embeddings itself, callers may go past it with ``inputs_embeds``, or call it by
themselves: it is then the base model's call that decides.

Backwards, they run only where the projection is tied to the token embeddings: in flexible heads as a part of the head, in
upstream's heads by `undo_before_projection`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import nn

from adapter_runtime.call.arguments import Argument, LayerOutputs, Outputs, hidden_states_of, with_hidden_states
from adapter_runtime.call.context import CallSlot, thread
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


class InvertibleAdapters(TensorLayer[bool], AdapterDict[CouplingNode]):
    """Adapter name -> invertible adapter. Keys in files: ``<base or encoder>.invertible_adapters.<adapter>.<key>``.

    Args:
        is_token_table: whether the module after which they run is the table of token embeddings.
        in_encoder: whether they belong to the encoder of an encoder-decoder model.
    """

    method_name = "an invertible adapter"
    runnable_blocks = (Stack, BatchSplit, Parallel, MultiTask)
    acts_at_entry = True
    entry_order = -1  # before a prompt, which they do not change

    def __init__(self, is_token_table: bool, in_encoder: bool) -> None:
        super().__init__()
        self.init_adapter_layer(-1, "invertible")
        self.is_token_table = is_token_table
        self.in_encoder = in_encoder

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
        if self.is_token_table and not self.in_encoder:
            context = thread.context
            if context is None or not context.is_in_base:  # the caller wants the embeddings for itself
                return None
        if self.current_program() is None:
            return None
        return with_hidden_states(output, self.couple(hidden_states_of(output)))

    def before_encoder(
        self, module: nn.Module, args: tuple[Argument, ...], kwargs: dict[str, Argument]
    ) -> tuple[tuple[Argument, ...], dict[str, Argument]]:
        """Forward pre-hook of an encoder that has embeddings given."""
        return args, self._coupled_inputs(kwargs)

    def at_entry(self, model: EntryModel, given: dict[str, Argument]) -> dict[str, Argument]:
        if self.in_encoder or not self.is_token_table:
            return given
        table = model.get_submodule(model.embedding_output)
        if not _is_hooked(table, self):  # the table was replaced
            table.register_forward_hook(self.after_embeddings, prepend=True)
        return self._coupled_inputs(given)

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

    def _coupled_inputs(self, given: dict[str, Argument]) -> dict[str, Argument]:
        embeddings = given.get("inputs_embeds")
        if not isinstance(embeddings, torch.Tensor):
            return given
        return {**given, "inputs_embeds": self.couple(embeddings)}


def _is_hooked(module: nn.Module, owner: nn.Module) -> bool:
    return any(getattr(hook, "__self__", None) is owner for hook in module._forward_hooks.values())


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
    if not model.embedding_output or not model.token_embeddings:
        raise UnsupportedMethodError(
            f"{type(model).__name__} has no one place where the embeddings of tokens enter the layers, so it cannot have "
            "invertible adapters. Use inv_adapter=None."
        )
    # Upstream may project what it took out of the table to another width (MobileBERT).
    projected = summed_width(model.get_submodule(model.embedding_output))
    return projected or embedding_width(model.get_submodule(model.token_embeddings))


def host_of(model: AdaptedBaseModel) -> nn.Module:
    """The module that holds the invertible adapters of a base model: its encoder, if that reads the tokens, or itself.

    An encoder of sounds (Canary) does not: there the decoder embeds them.
    """
    whole = model.get_submodule("")
    if not model.config.is_encoder_decoder:
        return whole
    encoder = model.get_encoder()
    reads_tokens = model.embedding_output and model.get_submodule(model.embedding_output) in set(encoder.modules())
    return encoder if reads_tokens else whole


def invertible_adapters_of(model: AdaptedBaseModel) -> InvertibleAdapters | None:
    """The invertible adapters of a base model, if it has any."""
    found = host_of(model)._modules.get(CONTAINER)
    return found if isinstance(found, InvertibleAdapters) else None


def _attached(model: AdaptedBaseModel, host: nn.Module) -> InvertibleAdapters:
    module = model.get_submodule(model.embedding_output)
    in_encoder = host is not model.get_submodule("")
    layer = InvertibleAdapters(isinstance(module, nn.Embedding), in_encoder)
    module.register_forward_hook(layer.after_embeddings, prepend=True)  # before that of a prompt
    if layer.in_encoder and layer.is_token_table:
        host.register_forward_pre_hook(layer.before_encoder, with_kwargs=True)
    return layer


def disable_invertible(model: AdaptedBaseModel) -> None:
    """Remove what `add_invertible` added to a base model, when its last invertible adapter is deleted."""
    layer = invertible_adapters_of(model)
    if layer is None or layer.adapter_names():
        return
    host = host_of(model)
    for module in (model.get_submodule(model.embedding_output), host):
        remove_hooks(module, lambda hook: getattr(hook, "__self__", None) is layer)
    delattr(host, CONTAINER)
