"""One call with a prompt: where it goes in, what it does to masks and positions, and where it is taken out again.

A prompt goes in once, while the cache is empty; later the cache holds it like tokens. Two places are possible:

  * the output of the module that embeds tokens and adds positions and the like (BERT, ViT), as `adapters` does it: a hook on
    that module puts the prompt in;
  * the embeddings of tokens: these are computed at the entry of the model, which then gets ``inputs_embeds``. This is also
    the way in models without such a module (Llama, GPT-2, T5).

The mask grows by ones where the prompt stands. Positions that the caller gives are moved, so that real tokens follow the
prompt - unless the model has added them to the tokens before the prompt comes in. With padding on the left the prompt stands
in front of the padding ("prefix"), as in PEFT, or after the first real token of each row ("prefix_after_bos"). Where layers count columns (a
window), a "prefix" stands behind the padding instead, right in front of the first real token: else padding would push it out of their sight.

Called from a model with a head, the base model leaves the positions of the prompt out of ``last_hidden_state`` and of what
its pooler reads, so that heads, labels and masks are about real tokens only. All other outputs keep them.

Letters of shapes: B rows, L tokens, P positions of the prompt.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from operator import attrgetter
from typing import Protocol, TypeAlias

import torch
from torch import nn
from transformers import Cache, EncoderDecoderCache, PreTrainedModel
from transformers.cache_utils import StaticLayer, StaticSlidingWindowLayer
from transformers.utils import ModelOutput

from adapter_runtime.call.arguments import Argument, Arrays, LayerOutputs, Outputs, tokens_among
from adapter_runtime.call.context import CallSlot, ForwardContext, thread
from adapter_runtime.call.repeating import by_name
from adapter_runtime.call.seen import cache_among, keeps_states, past_positions
from adapter_runtime.contract.protocol import AdaptedBaseModel
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.prompt_tuning.beside import with_prompt
from adapter_runtime.methods.prompt_tuning.insertion import Insertion
from adapter_runtime.methods.prompt_tuning.module import goes_to_tokens
from adapter_runtime.methods.prompt_tuning.program import Prompts
from adapter_runtime.methods.prompt_tuning.windows import counts_columns
from adapter_runtime.programs.hooks import remove_hooks

Arguments: TypeAlias = tuple[Argument, ...]  # of a forward, by position
Scale: TypeAlias = float | torch.Tensor | None  # of embeddings; None = they stay as they are
ChangedArguments: TypeAlias = (
    tuple[Arguments, dict[str, Argument]] | None
)  # what a hook makes of both kinds; None = nothing


@dataclass(frozen=True)
class PromptSites:
    """What must be known of a base model to run prompts in it."""

    embeddings: str  # path of the module whose output enters the first layer
    token_scale: str  # attribute of the model that reads tokens, by which it multiplies what it embeds; "" = none
    stays_near: bool  # a mask is one of tokens, and layers count columns: no padding may stand behind a prompt
    holds_tokens: bool  # that module has the table of tokens inside, or the model reads no tokens
    takes_positions: bool  # forward has the argument position_ids
    positions_come_first: bool  # and that module adds them
    positions_go_on: bool  # the model itself turns them into rotary embeddings too, behind that module
    needs_mask: (
        bool  # a mask of tokens alone is made where the call gives none: elsewhere one of ones may mean something else
    )
    is_encoder_decoder: bool

    @staticmethod
    def find(model: AdaptedBaseModel) -> PromptSites:
        """Look at a base model.

        Raises:
            UnsupportedMethodError: it has no place for a prompt.
        """
        if not model.embedding_output:
            raise UnsupportedMethodError(
                f"{type(model).__name__} has no one place where the embeddings of tokens enter the layers, so it cannot have "
                "prompts. Use prefix tuning."
            )
        names = {name.rpartition(".")[2] for name, _ in model.named_parameters()}
        if not model.token_embeddings and "relative_position_bias_table" in names:
            raise UnsupportedMethodError(
                f"The layers of this {type(model).__name__} have a bias for each pair of places in an image, and none for the "
                "positions of a prompt. Use prefix tuning."
            )
        reader = model.get_encoder() if model.config.is_encoder_decoder else model.get_submodule("")
        takes = inspect.signature(type(reader).forward)
        if goes_to_tokens(model, "embedding_output") and "inputs_embeds" not in takes.parameters:
            raise UnsupportedMethodError(
                f"The forward of {type(model).__name__} takes no inputs_embeds, by which a prompt would go in. Use prefix tuning."
            )
        module = model.get_submodule(model.embedding_output)
        own = inspect.signature(type(module).forward).parameters
        holds_tokens = not goes_to_tokens(model, "embedding_output")
        return PromptSites(
            embeddings=model.embedding_output,
            token_scale=model.token_scale,
            stays_near=bool({"input_ids", "inputs_embeds"} & takes.parameters.keys()) and counts_columns(model.config),
            holds_tokens=holds_tokens,
            takes_positions="position_ids" in inspect.signature(type(model.get_submodule("")).forward).parameters,
            positions_come_first="position_ids" in own,
            positions_go_on="rotary_emb" in model.get_submodule("")._modules,
            needs_mask=holds_tokens and model.makes_mask,
            is_encoder_decoder=bool(model.config.is_encoder_decoder),
        )

    def attach(self, model: AdaptedBaseModel, layer: RunsPrompts) -> None:
        """Register the hooks that put a prompt in and take it out."""
        module = model.get_submodule(self.embeddings)
        if self.holds_tokens:
            module.register_forward_pre_hook(before_embeddings, with_kwargs=True)
            module.register_forward_hook(after_embeddings)
        if self.is_encoder_decoder:
            encoder = model.get_encoder()
            encoder.register_forward_pre_hook(EncoderEntry(self, layer), with_kwargs=True)
            encoder.register_forward_hook(after_encoder, always_call=True)
        pooler = getattr(model, "pooler", None)
        if isinstance(pooler, nn.Module):
            pooler.register_forward_pre_hook(before_pooler, with_kwargs=True)
        if isinstance(pooler, nn.Linear):  # it gets the first position alone, so the stream is read before
            layers = [layer for _, layer in model.iter_layers()]
            norm = model.final_norm_path
            (model.get_submodule(norm) if norm else layers[-1]).register_forward_hook(after_last_layer)

    @staticmethod
    def detach(model: AdaptedBaseModel) -> None:
        """Remove the hooks that `attach` registered."""
        for module in model.modules():
            remove_hooks(module, lambda hook: hook in _HOOKS or isinstance(hook, EncoderEntry))


class PromptSlot(CallSlot):
    """The prompt of the current call."""

    def __init__(self) -> None:
        self.call: PromptCall | None = None
        self.around_encoder: tuple[ForwardContext | None] | None = (
            None  # in an encoder with a prompt: the outer context
        )


class EmbedsTokens(Protocol):
    """A model that has a table of token embeddings."""

    def get_input_embeddings(self) -> nn.Module: ...

    def get_submodule(self, target: str) -> nn.Module: ...


class RunsPrompts(Protocol):
    """What holds the prompts of a model: `PromptTuningLayer`."""

    def current_program(self) -> Prompts | None: ...


def current_call() -> PromptCall | None:
    """The prompt of the current call; None where there is none."""
    slot = thread.context.find(PromptSlot) if thread.context is not None else None
    return None if slot is None else slot.call


class PromptCall:
    """A call with a prompt, as its hooks see it.

    Args:
        prompts: what runs.
        insertion: where it stands.
        past_length: positions in the cache, those of the prompt too; with none, the prompt goes in.
    """

    def __init__(self, prompts: Prompts, insertion: Insertion, past_length: int | torch.Tensor) -> None:
        self.prompts = prompts
        self.insertion = insertion
        self.is_first = not bool(past_length)
        self.past_length = past_length
        self.at_embeddings = False  # the hook on the embeddings puts it in
        self.is_in = False
        self.is_of_part = False  # of a model made of several, which reads the states of its layers too (FLAVA)
        self.stream: torch.Tensor | None = None  # [B, L + P, H], what the last layer gave, where a pooler needs it
        self.mask: torch.Tensor | None = None  # of tokens
        self.grown_mask: torch.Tensor | None = None  # of tokens and prompt
        self.mask_is_embedded = False  # the embeddings read the mask of tokens
        self.positions: torch.Tensor | None = (
            None  # of tokens, where the model reads those of the prompt behind them too
        )
        self.grown_positions: torch.Tensor | None = None  # of tokens and prompt

    def put_into(self, embeddings: torch.Tensor, scale: Scale = None) -> torch.Tensor:
        """Put the prompt, times `scale`, among the embeddings: [B, L, H] -> [B, L + P, H].

        Raises:
            UnsupportedMethodError: the embeddings have another width than the prompt.
        """
        prompt = _scaled(self.prompts(embeddings), scale)
        if prompt.shape[-1] != embeddings.shape[-1]:
            raise UnsupportedMethodError(
                f"The embeddings are {embeddings.shape[-1]} wide at the place of the prompt, but the prompt is "
                f"{prompt.shape[-1]} wide. Use insert_at='token_embeddings'."
            )
        self.is_in = True
        return self.insertion.into(embeddings, prompt)

    def pooled_from(self, states: torch.Tensor) -> torch.Tensor:
        """What a pooler reads, without the prompt: [B, L + P, H] -> [B, L, H], or [B, H] -> that of the first real token."""
        if states.dim() > 2:
            return self.insertion.out_of(states)
        return states if self.stream is None else self.insertion.out_of(self.stream)[:, 0]

    def grow_mask(self, mask: torch.Tensor) -> torch.Tensor:
        """Put ones for the prompt into a mask: [B, L] -> [B, L + P]."""
        self.mask = mask
        self.grown_mask = self._with_ones(mask)
        return self.grown_mask

    def grown(self, entry: Argument, embeddings: torch.Tensor) -> Argument:
        """What embeddings [B, L, H] that read the mask give beside them: a mask [B, L] grows, all else stays."""
        if self.mask_is_embedded and isinstance(entry, torch.Tensor) and entry.shape == embeddings.shape[:2]:
            return self._with_ones(entry)
        return entry

    def _with_ones(self, mask: torch.Tensor) -> torch.Tensor:
        return self.insertion.into(mask, mask.new_ones(mask.shape[0], self.insertion.length))


def before_call(
    sites: PromptSites, model: EmbedsTokens, prompts: Prompts, given: dict[str, Argument]
) -> dict[str, Argument]:
    """The arguments of the base model, changed for the prompt: mask, positions, and what holds one entry per token.

    Raises:
        UnsupportedMethodError: the mask or the positions cannot grow, or a static cache has no room.
    """
    if sites.is_encoder_decoder:
        return _before_encoder_decoder(sites, prompts, given)
    context = thread.context
    assert context is not None
    cache, past = cache_among(given), past_positions(given)
    mask = checked_mask(given.get("attention_mask"))
    call = context.slot(PromptSlot).call = PromptCall(prompts, insertion_of(prompts, mask, sites), past)
    call.is_of_part = model.get_submodule("") is not context.owner
    length = _length(given)
    check_room(cache, prompts.length, mask, length)
    tokens = tokens_among(given)
    if mask is None and sites.needs_mask and tokens is not None and call.is_first:
        mask = torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device)
    if cache is not None and keeps_states(cache) and not call.is_first:  # upstream masks the new tokens alone
        mask = None
    changed: dict[str, Argument] = {} if mask is None else {"attention_mask": call.grow_mask(mask)}
    at_tokens = not sites.holds_tokens or prompts.insert_at == "token_embeddings"
    call.at_embeddings = not at_tokens
    if sites.takes_positions:
        positions = _positions(sites, call, given.get("position_ids"), tokens)
        changed["position_ids"] = positions
    if at_tokens and call.is_first:
        changed |= _at_tokens(sites, model, call, given)
    return {**given, **changed}


def insertion_of(prompts: Prompts, mask: torch.Tensor | None, sites: PromptSites) -> Insertion:
    """Where a prompt stands among the tokens of a mask [B, L]."""
    leads = prompts.combine == "prefix"
    if mask is None:
        return Insertion(prompts.length, 0 if leads else 1, leads)
    first = mask.to(torch.bool).int().argmax(dim=-1)
    at = first if leads else first + 1
    return Insertion(prompts.length, 0 if leads and not sites.stays_near else at, leads, first)


def checked_mask(mask: Argument) -> torch.Tensor | None:
    """A mask that can grow.

    Raises:
        UnsupportedMethodError: it has not the shape [B, L].
    """
    if mask is None:
        return None
    if isinstance(mask, torch.Tensor) and mask.dim() == 2:
        return mask
    shown = f"shape {list(mask.shape)}" if isinstance(mask, torch.Tensor) else f"type {type(mask).__name__}"
    raise UnsupportedMethodError(
        f"Prompt tuning lets the attention mask grow, and can do so with masks of shape [batch, length], but got one of "
        f"{shown}. Give a mask of ones and zeros for the tokens."
    )


def _length(given: dict[str, Argument]) -> int | None:
    tokens = tokens_among(given)
    return None if tokens is None else int(tokens.shape[1])


def check_room(cache: Argument, prompt: int, mask: torch.Tensor | None, length: int | None) -> None:
    """Raise where a static cache has no room for the prompt: upstream writes past its end, or counts wrong."""
    # That of an encoder-decoder is two caches, and has no layers of its own.
    for layer in cache.layers if isinstance(cache, Cache) and not isinstance(cache, EncoderDecoderCache) else ():
        if isinstance(layer, StaticLayer) and not isinstance(layer, StaticSlidingWindowLayer):
            needed = prompt + (mask.shape[1] if mask is not None else length or 0)
            if needed > layer.max_cache_len:
                raise UnsupportedMethodError(
                    f"The static cache has room for {layer.max_cache_len} positions, but the prompt of {prompt} and the "
                    f"tokens need {needed}. Make it longer by the length of the prompt."
                )
            return


def _positions(sites: PromptSites, call: PromptCall, given: Argument, tokens: torch.Tensor | None) -> Argument:
    """What to hand on as position_ids."""
    prompt = call.insertion.length
    if sites.positions_come_first and call.at_embeddings:
        if not (sites.positions_go_on and call.is_first and tokens is not None):
            return given
        call.positions = given if isinstance(given, torch.Tensor) else _counted(tokens, 0)
        call.grown_positions = call.insertion.into_positions(call.positions)
        return call.grown_positions
    if isinstance(given, torch.Tensor):
        if given.dim() != 2:
            raise UnsupportedMethodError(
                f"Prompt tuning moves positions of shape [batch, length], but got position_ids of shape {list(given.shape)}."
            )
        return call.insertion.into_positions(given) if call.is_first else given + prompt
    if call.is_first and call.at_embeddings and tokens is not None:
        return _counted(tokens, prompt)  # upstream would count the tokens alone
    return None


def _counted(tokens: torch.Tensor, prompt: int) -> torch.Tensor:
    """Positions [1, L + P] of tokens [B, L, ...] and a prompt, from 0 on."""
    return torch.arange(tokens.shape[1] + prompt, device=tokens.device)[None]


def _at_tokens(
    sites: PromptSites, model: EmbedsTokens, call: PromptCall, given: dict[str, Argument]
) -> dict[str, Argument]:
    """The arguments that hold one entry per token, with the prompt.

    A model may multiply what it embeds, and nothing that it is given: then this is done here, as prompts are rows of the table.
    """
    embeddings = embedded(sites, model, given)
    changed: dict[str, Argument] = {
        "input_ids": None,
        "inputs_embeds": call.put_into(embeddings, _scale(sites, model)),
    }
    return changed | dict(with_prompt(call.insertion, given, embeddings.shape))


def embedded(sites: PromptSites, model: EmbedsTokens, given: dict[str, Argument]) -> torch.Tensor:
    """The embeddings [B, L, H] that a call is given, or those of the tokens that it is given."""
    embeddings = given.get("inputs_embeds")
    if isinstance(embeddings, torch.Tensor):
        return embeddings
    return _scaled(_table(model, sites)(given["input_ids"]), _scale(sites, model))


def _scale(sites: PromptSites, model: EmbedsTokens) -> Scale:
    return attrgetter(sites.token_scale)(model) if sites.token_scale else None


def _table(model: EmbedsTokens, sites: PromptSites) -> nn.Module:
    """The table that `model`, an encoder or a model without one, embeds tokens by.

    It need not be the one that upstream names: T5EncoderModel names the one that its encoder has the weights of.
    """
    module = None if sites.is_encoder_decoder else model.get_submodule(sites.embeddings)
    return module if isinstance(module, nn.Embedding) else model.get_input_embeddings()


def _scaled(rows: torch.Tensor, scale: Scale) -> torch.Tensor:
    return rows if scale is None else rows * scale


def after_call(outputs: Outputs) -> Outputs:
    """The outputs of the base model; for a head, those of real tokens only."""
    call, context = current_call(), thread.context
    if call is None or not call.is_in or context is None or not context.has_head:
        return outputs
    states = outputs[0] if isinstance(outputs, tuple) else outputs["last_hidden_state"]
    assert isinstance(states, torch.Tensor)
    if isinstance(outputs, tuple):
        others = (_without_prompt(call, entry, states.shape) for entry in outputs[1:])
        return (call.insertion.out_of(states), *others)
    outputs["last_hidden_state"] = call.insertion.out_of(states)
    if "hidden_states" in outputs:
        outputs["hidden_states"] = _without_prompt(call, outputs["hidden_states"], states.shape)
    return outputs


def _without_prompt(call: PromptCall, entry: Argument | Arrays, shape: torch.Size) -> Argument | Arrays:
    """What a part gives beside its last states [B, L + P, H], as the whole around it reads it: those of its layers without the prompt.

    The last ones may have another width: EmbeddingGemma 2 projects them.
    """
    if not call.is_of_part or not isinstance(entry, tuple):
        return entry
    return tuple(call.insertion.out_of(one) if _are_states(one, shape) else one for one in entry)


def _are_states(value: Argument, shape: torch.Size) -> bool:
    """Whether a tensor has rows of as many positions: no weights of attention, which have more dimensions."""
    return isinstance(value, torch.Tensor) and value.dim() == len(shape) and value.shape[:2] == shape[:2]


# Hooks. They are functions, and find the call in the context, so that models can be copied and pickled.


def before_embeddings(module: nn.Module, args: Arguments, kwargs: dict[str, Argument]) -> ChangedArguments:
    """Give the module that embeds tokens the mask and the positions of the tokens alone, without the prompt."""
    call = current_call()
    if call is None or not call.at_embeddings:
        return None
    if call.grown_mask is not None and call.is_first:
        grown, mask = call.grown_mask, call.mask
        call.mask_is_embedded = any(entry is grown for entry in (*args, *kwargs.values()))
        args = tuple(mask if entry is grown else entry for entry in args)
        kwargs = {name: mask if entry is grown else entry for name, entry in kwargs.items()}
    if call.grown_positions is not None and kwargs.get("position_ids") is call.grown_positions:
        kwargs = {**kwargs, "position_ids": call.positions}
    past = kwargs.get("past_key_values_length")
    if not call.is_first and isinstance(past, (int, torch.Tensor)):
        kwargs = {**kwargs, "past_key_values_length": past - call.insertion.length}
    return args, kwargs


def after_embeddings(
    module: nn.Module, args: Arguments, output: LayerOutputs | ModelOutput
) -> LayerOutputs | ModelOutput | None:
    """Put the prompt into the output [B, L, H] of the module that embeds tokens, or the one field of it.

    Raises:
        UnsupportedMethodError: the module gives something else than one tensor, or several fields.
    """
    call = current_call()
    if call is None or not (call.at_embeddings and call.is_first):
        return None
    if isinstance(
        output, tuple
    ):  # models of images also give the number of patches, ViLT a mask of all that it embeds
        return (call.put_into(output[0]), *(call.grown(entry, output[0]) for entry in output[1:]))
    if isinstance(output, ModelOutput):
        return _into_field(call, module, output)
    if not isinstance(output, torch.Tensor):
        raise UnsupportedMethodError(
            f"A prompt goes in front of the positions that {type(module).__name__} gives, but it gives a "
            f"{type(output).__name__} and not one tensor of them. Use prefix tuning."
        )
    return call.put_into(output)


def _into_field(call: PromptCall, module: nn.Module, output: ModelOutput) -> ModelOutput:
    """The output of a module with the prompt in the one field of it that holds anything.

    Raises:
        UnsupportedMethodError: there are several, so that it does not show which of them goes on to the layers.
    """
    held = [name for name, value in output.items() if value is not None]
    states = output[held[0]] if len(held) == 1 else None
    if not isinstance(states, torch.Tensor):
        raise UnsupportedMethodError(
            f"A prompt goes in front of the positions that {type(module).__name__} gives, but its output has the fields "
            f"{', '.join(held)}. Use prefix tuning."
        )
    return type(output)(**{held[0]: call.put_into(states)})


def before_pooler(module: nn.Module, args: Arguments, kwargs: dict[str, Argument]) -> ChangedArguments:
    """For a head, let the pooler read real tokens only."""
    call, context = current_call(), thread.context
    if call is None or not call.is_in or context is None or not context.has_head:
        return None
    name = "" if args else next(iter(kwargs))
    states = args[0] if args else kwargs[name]
    assert isinstance(states, torch.Tensor)
    if args:
        return (call.pooled_from(states), *args[1:]), kwargs
    return args, {**kwargs, name: call.pooled_from(states)}


def after_last_layer(module: nn.Module, args: Arguments, output: LayerOutputs) -> None:
    """Keep the stream for a pooler that gets one position of it. (ALBERT runs its layer many times; the last one counts.)"""
    call = current_call()
    if call is not None and call.is_in:
        call.stream = output if isinstance(output, torch.Tensor) else output[0]


# Encoder-decoders: the prompt is the encoder's, which `generate` also calls by itself


def _before_encoder_decoder(sites: PromptSites, prompts: Prompts, given: dict[str, Argument]) -> dict[str, Argument]:
    """The mask of the encoder is also what cross-attention sees of it, so it grows here, not only in the encoder."""
    mask = checked_mask(given.get("attention_mask"))
    encoded = given.get("encoder_outputs")
    if mask is None:
        return given
    states = encoded[0] if isinstance(encoded, (ModelOutput, tuple, list)) else None
    if isinstance(states, torch.Tensor) and states.shape[1] != mask.shape[1] + prompts.length:
        return given  # of an encoder that ran without the prompt
    grown = PromptCall(prompts, insertion_of(prompts, mask, sites), 0).grow_mask(mask)
    return {**given, "attention_mask": grown}


class EncoderEntry:
    """Hook before the encoder of an encoder-decoder model runs.

    Args:
        sites: of the model.
        layer: its prompts.
    """

    def __init__(self, sites: PromptSites, layer: RunsPrompts) -> None:
        self.sites = sites
        self.layer = layer

    def __call__(self, module: nn.Module, args: Arguments, kwargs: dict[str, Argument]) -> ChangedArguments:
        prompts = self.layer.current_program()
        if prompts is None:
            return None
        outer = thread.context
        context = ForwardContext() if outer is None else outer.copied()
        context.has_head = False
        slot = PromptSlot()
        slot.around_encoder = (outer,)
        context.put(slot)
        thread.context = context
        names = tuple(inspect.signature(type(module).forward).parameters)[1:]
        given = by_name(names, args, kwargs)
        mask = checked_mask(given.get("attention_mask"))
        length = _length(given)
        is_grown = mask is not None and mask.shape[1] != length
        insertion = insertion_of(
            prompts, mask, self.sites
        )  # a mask with the prompt in it has the same first real token
        call = slot.call = PromptCall(prompts, insertion, 0)
        if mask is not None and not is_grown:
            given["attention_mask"] = call.grow_mask(mask)
        call.at_embeddings = self.sites.holds_tokens and prompts.insert_at != "token_embeddings"
        if isinstance(given.get("position_ids"), torch.Tensor):
            given["position_ids"] = _positions(self.sites, call, given["position_ids"], tokens_among(given))
        if not call.at_embeddings:
            assert isinstance(module, PreTrainedModel)
            given |= _at_tokens(self.sites, module, call, given)
        return (), given


def after_encoder(module: nn.Module, args: Arguments, output: Outputs) -> None:
    """Leave the context that `EncoderEntry` opened."""
    slot = thread.context.find(PromptSlot) if thread.context is not None else None
    if slot is not None and slot.around_encoder is not None:
        (thread.context,) = slot.around_encoder


_HOOKS = (before_embeddings, after_embeddings, before_pooler, after_last_layer, after_encoder)
