"""The halves of an encoder-decoder that is a part: its encoder and its decoder, where the model around it calls them by themselves.

Florence-2 embeds tokens, writes features of images over some of them, and goes on with the encoder and then the decoder of its
language model, past the forward of that; BLIP-2 asks the encoder of a T5 for the features of a text; `generate` runs an encoder
before anything else. What a call of the part would have told its adapters, each half is told then: where real tokens are, and for
the decoder that a prompt stands among what the encoder gave.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TypeAlias, cast

from torch import nn

from adapter_runtime.call.arguments import Argument
from adapter_runtime.call.context import CallSlot, ContextScope, ForwardContext, thread
from adapter_runtime.call.repeating import by_name
from adapter_runtime.contract.protocol import AdaptedBaseModel
from adapter_runtime.model.calls import context_of_part, find_spans, see_rows
from adapter_runtime.model.parts.part import AdapterPart
from adapter_runtime.programs.hooks import remove_hooks

Arguments: TypeAlias = tuple[Argument, ...]  # of a forward, by position

# What a decoder calls the arguments of the whole, which is asked under these names what its adapters change.
_OF_WHOLE = {
    "input_ids": "decoder_input_ids",
    "inputs_embeds": "decoder_inputs_embeds",
    "attention_mask": "decoder_attention_mask",
    "encoder_attention_mask": "attention_mask",
}


class HalfSlot(CallSlot):
    """The call of a half."""

    def __init__(self) -> None:
        self.around: tuple[ForwardContext | None] | None = None  # the context outside of it


class HalfEntry:
    """Forward pre-hook of a half: opens the context of its part where the forward of that does not run.

    Args:
        part: an encoder-decoder.
        half: its encoder or its decoder.
        is_encoder: which of them.
    """

    def __init__(self, part: AdaptedBaseModel, half: nn.Module, is_encoder: bool) -> None:
        self.part, self.is_encoder = part, is_encoder
        self.names = tuple(inspect.signature(type(half).forward).parameters)[1:]

    def __call__(
        self, module: nn.Module, args: Arguments, kwargs: dict[str, Argument]
    ) -> tuple[Arguments, dict[str, Argument]] | None:
        part, outer = self.part, thread.context
        whole, plan = part.adapters_base, part.current_call_plan()
        enclosing = outer if outer is not None and outer.owner is whole else None
        is_inside = enclosing is not None and not (enclosing.is_between_parts or enclosing.is_generation)
        if plan.is_idle or is_inside:
            return None
        given = by_name(self.names, args, kwargs)
        context = enclosing
        if context is None or context.is_generation:
            context, of_whole = ForwardContext(whole, enclosing), whole.current_call_plan()
            if of_whole.divides_rows:
                see_rows(context, whole, of_whole, given, None)
        own = context_of_part(context, part, plan, given)
        own.is_in_base = True
        own.slot(HalfSlot).around = (outer,)
        with ContextScope(own):
            changed = self._entered(own, given)
        thread.context = own  # until `after_half`, which does not run where this raises
        return (), changed

    def _entered(self, context: ForwardContext, given: dict[str, Argument]) -> dict[str, Argument]:
        """The arguments of the half, with what adapters that act at the entry of the part do to them.

        Those of the encoder act in hooks of its own.
        """
        part, plan = self.part, self.part.current_call_plan()
        asked = given if self.is_encoder else dict(_as_whole(given))
        if plan.reads_spans:
            find_spans(part, asked, plan.added_positions)
        if not _embeds_in_encoder(part):  # what acts at the entry has no place here: the call of the whole raises
            return given
        context.entered.add(part.get_submodule(""))
        if self.is_encoder:
            return given
        for layer in plan.at_entry:
            asked = layer.at_entry(part, asked)
        return {name: asked[_OF_WHOLE.get(name, name)] for name in given}


def after_half(module: nn.Module, args: Arguments, output: Argument) -> None:
    """Leave the context that `HalfEntry` opened."""
    slot = thread.context.find(HalfSlot) if thread.context is not None else None
    if slot is not None and slot.around is not None:
        (thread.context,) = slot.around


def watch_halves(part: AdapterPart) -> None:
    """Let the halves of a part, if it is an encoder-decoder, do what its forward would where they are called past it."""
    encoder = part.encoder_inside()
    decoder = part.get_decoder() if encoder is not None else None
    whole = part.get_submodule("")
    for half in (encoder, decoder):
        if not isinstance(half, nn.Module) or half is whole or half not in set(whole.modules()):
            continue
        remove_hooks(half, lambda hook: isinstance(hook, HalfEntry) or hook is after_half)
        half.register_forward_pre_hook(
            HalfEntry(cast("AdaptedBaseModel", part), half, half is encoder), with_kwargs=True, prepend=True
        )
        half.register_forward_hook(after_half, always_call=True)


class RunNote:
    """Forward pre-hook of the first layer of a model inside of another: notes that its layers run, maybe past its forward."""

    def __init__(self, part: nn.Module) -> None:
        self.part = part

    def __call__(self, module: nn.Module, args: Arguments) -> None:
        if thread.context is not None:
            thread.context.ran.add(self.part)


def watch_run(part: AdapterPart) -> None:
    """Let a call of the whole see whether the layers of this part ran."""
    first = next((layer for _, layer in part.iter_layers()), None)
    if first is not None:
        remove_hooks(first, lambda hook: isinstance(hook, RunNote))
        first.register_forward_pre_hook(RunNote(part.get_submodule("")))


def _as_whole(given: dict[str, Argument]) -> Iterator[tuple[str, Argument]]:
    """The arguments of a decoder, as those of the whole."""
    for name, value in given.items():
        yield _OF_WHOLE.get(name, name), value
    yield "encoder_outputs", (given.get("encoder_hidden_states"),)


def _embeds_in_encoder(part: AdaptedBaseModel) -> bool:
    """Whether what acts on the embeddings of tokens does so in the encoder."""
    if not part.embedding_output:
        return False
    return part.get_submodule(part.embedding_output) in set(part.get_encoder().modules())
