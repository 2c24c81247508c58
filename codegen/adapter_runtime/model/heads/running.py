"""Running the heads of a model on the outputs of its base model.

Letters of shapes: B rows of the outputs of the base model, L tokens, H hidden, E width of the token embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import nullcontext
from typing import ClassVar, TypedDict, TypeVar

import torch
from torch import nn
from transformers.utils import ModelOutput

from adapter_runtime.call.context import thread
from adapter_runtime.composition import Setup
from adapter_runtime.contract.config_values import config_value
from adapter_runtime.heads.base import PredictionHead
from adapter_runtime.heads.classes import HEAD_CLASSES
from adapter_runtime.heads.kinds.masked_image import MASK, MaskedImageModelingHead, lent
from adapter_runtime.heads.outputs import multi_head_output, of_encoder
from adapter_runtime.heads.parts import Part, Target, divide, targets_of
from adapter_runtime.heads.pooling import Pooling, pool
from adapter_runtime.heads.protocol import FlexibleHeadsModel, all_heads, head_named
from adapter_runtime.heads.setups import HeadSetup, head_names, heads_of, parse_heads
from adapter_runtime.methods.invertible.api import InvertibleAdaptersMixin
from adapter_runtime.methods.prompt_tuning.api import without_prompt

# Arguments of heads; a base model would let them pass unseen.
_DESCRIPTIONS = frozenset(name for head in HEAD_CLASSES.values() for name in head.input_arguments)
_HEAD_ARGUMENTS = frozenset(
    name for head in HEAD_CLASSES.values() for name in (*head.label_arguments, *head.input_arguments)
)

Value = TypeVar("Value")
Inverse = Callable[[torch.Tensor], torch.Tensor]


class Inputs(TypedDict):
    """The inputs of a model that its heads read."""

    input_ids: torch.Tensor | None  # [B, L], to find the token that stands for the sequence
    attention_mask: torch.Tensor | None  # [B, L], 1 at real tokens
    pixel_values: torch.Tensor | None  # [B, channels, Y, X]
    bool_masked_pos: torch.Tensor | None  # [B, N], true at patches that are masked
    num_choices: int | None  # rows that answer one question; None where the inputs do not say


class RunHeadsMixin:
    """The end of the forward of a model with flexible heads."""

    pooling: ClassVar[Pooling] = "first"  # rendered: which token stands for a sequence
    pooling_skips: ClassVar[str] = (
        ""  # rendered: the field of the config with how many tokens behind the first stand for nothing
    )
    frame_counter: ClassVar[str] = (
        ""  # rendered: the method that counts the frames of so many samples, where frames have padding
    )

    encoder_heads: ClassVar[tuple[str, ...]] = ()  # rendered: types that read what an encoder gives
    encoder_pooling: ClassVar[Pooling] = "mean"  # rendered: what of it stands for a sequence
    mask_token: ClassVar[str] = ""  # rendered: where the base model reads the token for masked patches

    def head_arguments(self: FlexibleHeadsModel, call: MutableMapping[str, Value]) -> dict[str, Value]:
        """Take out of `call`, the keyword arguments of a forward, those that heads declare."""
        if not call:
            return {}
        own = {name for head in all_heads(self) for name in (*head.label_arguments, *head.input_arguments)}
        return {name: call.pop(name) for name in sorted((_HEAD_ARGUMENTS | own) & call.keys())}

    def runs_head(self: FlexibleHeadsModel, head: Setup = None) -> bool:
        """Whether a forward, called with this argument ``head``, ends in a head; else it gives the base model's outputs."""
        return used_heads(self, head) is not None

    def used_heads(self: FlexibleHeadsModel, head: Setup = None) -> HeadSetup | None:
        """The heads that a call runs: `head`, else those of an enclosing `AdapterSetup`, else the active ones.

        A setup that names no heads means those that go by the names of its adapters, if there are such.

        Raises:
            UnknownHeadError: `head` or the setup names a head that does not exist.
        """
        return used_heads(self, head)

    def forward_head(
        self: FlexibleHeadsModel,
        outputs: ModelOutput,
        head: Setup = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        pixel_values: torch.Tensor | None = None,
        bool_masked_pos: torch.Tensor | None = None,
        num_choices: int | None = None,
        **arguments: Target | None,
    ) -> ModelOutput:
        """Run one or several heads on the outputs of the base model.

        Args:
            outputs: of the base model; ``last_hidden_state`` is [B, L, H].
            head: the head or heads to run; None = those of an enclosing `AdapterSetup`, else the active ones.
            input_ids: [B, L], to find the token that stands for the sequence.
            attention_mask: [B, L], 1 at real tokens.
            logits_to_keep: for language modelling heads, the positions to compute logits for; 0 = all.
            pixel_values: [B, channels, Y, X], for heads that paint images.
            bool_masked_pos: [B, N], the patches of these that were masked.
            num_choices: how many rows answer one question; None = as the head was added with.
            arguments: targets and further inputs; each head takes those that it declares in `label_arguments` and
                `input_arguments`. With several heads, a dict by names of heads or a list gives each its own.

        Returns:
            The output of the head. Of several, and of one on parallel adapters, a `MultiHeadOutput`.

        Raises:
            UnknownHeadError: there is no such head.
            ValueError: targets were given that no head takes.
            InvalidCompositionError: the heads do not fit the rows or the parallel adapters.
        """
        given = {name: value for name, value in arguments.items() if value is not None}
        descriptions = _descriptions(self) & given.keys()
        setup = used_heads(self, head)
        if setup is None:
            if given.keys() > descriptions:
                raise ValueError(f"Got {', '.join(given)}, but no head is active. Add one: add_..._head(name).")
            return outputs
        heads = [head_named(self, name) for name in head_names(setup)]
        parts = divide(setup, len(heads), outputs, copies_of_batch(self))
        heads = heads * len(parts) if len(heads) == 1 else heads
        targets = targets_of(given, heads, parts, descriptions)
        results = []
        for module, part, own in zip(heads, parts, targets, strict=True):
            inputs: Inputs = {
                "input_ids": part.of(input_ids),
                "attention_mask": part.of(attention_mask),
                "pixel_values": part.of(pixel_values),
                "bool_masked_pos": part.of(bool_masked_pos),
                "num_choices": num_choices,
            }
            read = _encoded(self, outputs, attention_mask) if module.head_type in self.encoder_heads else outputs
            results.append(_run(self, module, part, module.read(part.of_outputs(read)), inputs, logits_to_keep, own))
        is_single = isinstance(setup, str) and len(parts) == 1
        return results[0] if is_single else multi_head_output(outputs, results)

    def needs_layers(self: FlexibleHeadsModel, head: Setup = None) -> bool:
        """Whether a head that a call with this argument ``head`` runs reads the hidden states of all layers."""
        active = [head_named(self, name) for name in head_names(used_heads(self, head))]
        return any(one.config.get("weighted_layers", False) for one in active)

    def with_mask_token(self: FlexibleHeadsModel, head: Setup = None) -> Callable[..., ModelOutput]:
        """The base model, which in a call has the token for masked patches of the head that runs, if that has one.

        Args:
            head: the argument ``head`` of the call.

        Raises:
            ValueError: patches are masked and no head, or more than one, has a token for them.
        """
        active = (head_named(self, name) for name in head_names(used_heads(self, head)))
        painters = [one for one in active if isinstance(one, MaskedImageModelingHead)]

        def run(**inputs: torch.Tensor | None) -> ModelOutput:
            if inputs.get(MASK) is not None and len(painters) != 1:
                raise ValueError(
                    f"{MASK} needs one active head of the type masked_image_modeling, not {len(painters)}."
                )
            base = self.adapters_base
            assert isinstance(base, nn.Module)
            with lent(base, self.mask_token, painters[0].mask_token) if painters else nullcontext():
                outputs: ModelOutput = base(**inputs)
            return outputs

        return run

    def decoder_inputs(
        self: FlexibleHeadsModel,
        head: Setup,
        labels: Target | None,
        input_ids: torch.Tensor | None = None,
        rows: torch.Tensor | None = None,
    ) -> torch.Tensor | None:
        """What a decoder reads that was given nothing: the labels that it shall predict, else the input, shifted.

        None, which leaves it to the base model, where no head runs or there is neither. Where all heads read the encoder, a first
        token, which the base model asks for.

        Args:
            head: the argument ``head`` of the call.
            labels: its targets.
            input_ids: [B, L].
            rows: [B, ...], an input of the encoder.

        Raises:
            ValueError: heads that share a decoder have labels of their own.
        """
        setup = used_heads(self, head)
        heads = [head_named(self, name) for name in head_names(setup)]
        predicted = _predicted(heads, labels, copies_of_batch(self))
        tokens = input_ids if predicted is None and heads else predicted
        if rows is not None and heads and all(one.head_type in self.encoder_heads for one in heads):
            return rows.new_full(
                (len(rows), 1), getattr(self.config, "decoder_start_token_id", None) or 0, dtype=torch.long
            )
        return None if tokens is None else self.prepare_decoder_input_ids_from_labels(tokens)

    def pooled(
        self: FlexibleHeadsModel,
        head: PredictionHead,
        outputs: ModelOutput,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """The vector [B, H] that stands for each sequence, as `head` wants it.

        Args:
            head: its config says whether it reads the pooled output of the base model.
            outputs: of the base model; ``last_hidden_state`` is [B, L, H], ``pooler_output`` [B, H].
            input_ids: [B, L].
            attention_mask: [B, L], 1 at real tokens.
        """
        return _pooled(self, head, outputs, input_ids, attention_mask)

    @classmethod
    def flatten_choices(cls, **inputs: torch.Tensor | None) -> dict[str, torch.Tensor | None]:
        """Inputs of a multiple choice question, [B, choices, L], as [B * choices, L]; others stay as they are."""
        if cls.number_of_choices(inputs.get("input_ids"), inputs.get("inputs_embeds")) is None:
            return inputs
        return {name: None if tensor is None else tensor.flatten(0, 1) for name, tensor in inputs.items()}

    @staticmethod
    def number_of_choices(
        input_ids: torch.Tensor | None = None, inputs_embeds: torch.Tensor | None = None
    ) -> int | None:
        """How many answers there are to each question, in inputs [B, choices, L] or [B, choices, L, H]; None in others."""
        for tensor, rank in ((input_ids, 3), (inputs_embeds, 4)):
            if tensor is not None and tensor.dim() == rank:
                return tensor.shape[1]
        return None


def used_heads(model: FlexibleHeadsModel, head: Setup) -> HeadSetup | None:
    """The heads that a call with this argument ``head`` runs; see `RunHeadsMixin.used_heads`."""
    given = parse_heads(head)
    setup = thread.setup
    if given is None and setup is not None:
        given = parse_heads(setup.head_setup)
        if given is None:
            follows = heads_of(setup.adapter_setup)
            given = follows if all(name in model.heads for name in head_names(follows)) else None
    if given is None:
        return model.active_head
    for name in head_names(given):
        head_named(model, name)
    return given


def copies_of_batch(model: FlexibleHeadsModel) -> int:
    """How many copies of the batch the active adapters make."""
    return model.adapters_base.current_call_plan().copies


def _encoded(model: FlexibleHeadsModel, outputs: ModelOutput, mask: torch.Tensor | None) -> ModelOutput:
    """What heads on the encoder read of the outputs of a call with this mask [B, L]: no positions of a prompt."""
    return of_encoder(outputs, without_prompt(model.adapters_base, outputs["encoder_last_hidden_state"], mask))


def _predicted(heads: Sequence[PredictionHead], labels: Target | None, copies: int) -> torch.Tensor | None:
    """The labels [B, L] of heads that predict the tokens of a decoder, with a copy for each parallel adapter; None without.

    Raises:
        ValueError: several heads on one decoder have labels of their own.
    """
    generative = [head.is_generative for head in heads]
    if isinstance(labels, torch.Tensor) and any(generative):
        return labels.repeat(copies, 1) if copies > 1 else labels
    if isinstance(labels, Mapping):
        labels = [labels.get(head.name) for head in heads]
    if not isinstance(labels, (list, tuple)):
        return None
    own = [label for label, is_taken in zip(labels, generative, strict=False) if is_taken and label is not None]
    if not own:
        return None
    if len(own) != max(copies, 1):
        raise ValueError(
            f"{len(own)} heads have labels of their own, but there is one decoder for {max(copies, 1)} parallel adapters."
            " Say what it reads: decoder_input_ids=..."
        )
    return torch.cat(own)


def _descriptions(model: FlexibleHeadsModel) -> set[str]:
    """Names of arguments that say more about the inputs: heads that do not take them may run all the same."""
    return {*_DESCRIPTIONS, *(name for head in all_heads(model) for name in head.input_arguments)}


def _run(
    model: FlexibleHeadsModel,
    head: PredictionHead,
    part: Part,
    outputs: ModelOutput,
    inputs: Inputs,
    logits_to_keep: int | torch.Tensor,
    targets: dict[str, torch.Tensor | float],
) -> ModelOutput:
    """Run one head.

    Args:
        model: the model of the head.
        head: which one.
        part: what of the batch it works on.
        outputs: of the base model, for that part.
        inputs: of the model, for that part.
        logits_to_keep: for language modelling heads, the positions to compute logits for; 0 = all.
        targets: and further inputs, for that part.
    """
    options: dict[str, bool | int | torch.Tensor | Inverse | None]
    frame_mask = _frame_mask(model, outputs, inputs["attention_mask"]) if model.frame_counter else None
    options = {"return_dict": True, "frame_mask": frame_mask, "attention_mask": inputs["attention_mask"]}
    options |= {name: inputs[name] for name in ("pixel_values", "bool_masked_pos", "num_choices")}
    if head.is_pooled:
        options["cls_output"] = _pooled(model, head, outputs, inputs["input_ids"], inputs["attention_mask"])
    projection = head.get_output_embeddings()
    if projection is not None:
        options |= {"logits_to_keep": logits_to_keep, "inverse": _inverse(model, part, projection)}
    result: ModelOutput = head(outputs, **head.taken(options), **targets)
    return result


def _frame_mask(model: FlexibleHeadsModel, outputs: ModelOutput, mask: torch.Tensor | None) -> torch.Tensor | None:
    """[B, L], true at frames that come from samples which are no padding, as `mask` [B, samples] says; None = all do."""
    if mask is None:
        return None
    frames: torch.Tensor = getattr(model, model.frame_counter)(mask.sum(dim=-1))
    positions = torch.arange(outputs["last_hidden_state"].shape[1], device=frames.device)
    return positions < frames[:, None]


def _inverse(model: FlexibleHeadsModel, part: Part, projection: nn.Module) -> Inverse | None:
    """What undoes the invertible adapters that run; None where none does, or the projection is not tied."""
    base = model.adapters_base
    if not isinstance(base, InvertibleAdaptersMixin) or not base.has_running_invertible(projection):
        return None
    invertible = base

    def inverse(hidden_states: torch.Tensor) -> torch.Tensor:
        if part.rows is None:
            return invertible.invertible_adapters_forward(hidden_states, rev=True)
        # Which adapter runs is told by the row, so the rows must stand where they stand in the whole batch.
        whole = hidden_states.new_zeros(part.total, *hidden_states.shape[1:])  # [B, L, E]
        whole[part.rows] = hidden_states
        return invertible.invertible_adapters_forward(whole, rev=True)[part.rows]

    return inverse


def _pooled(
    model: FlexibleHeadsModel,
    head: PredictionHead,
    outputs: ModelOutput,
    input_ids: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
) -> torch.Tensor:
    """See `RunHeadsMixin.pooled`."""
    if head.config.get("use_pooler"):
        pooled: torch.Tensor | None = outputs.get("pooler_output")
        if pooled is None:
            raise ValueError(f"Head {head.name!r} has use_pooler=True, but the base model gives no pooled output.")
        return pooled
    rule = model.encoder_pooling if head.head_type in model.encoder_heads else model.pooling
    return pool(
        outputs["last_hidden_state"],
        rule,
        input_ids,
        attention_mask,
        pad_token_id=config_value(model.config, "pad_token_id"),
        eos_token_id=config_value(model.config, "eos_token_id"),
        frame_mask=_frame_mask(model, outputs, attention_mask) if rule == "frames" else None,
        skipped=getattr(model.config, model.pooling_skips) if model.pooling_skips else 0,
    )
