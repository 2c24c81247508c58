"""Tests of training: losses, gradients, and layers that are computed again on the way back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from conformance.checks.checkpointing import MOST_RECOMPUTED, InBackward, upstreams_gradients
from conformance.subjects import Subject, model_class
from upstream.exempt.table import Exempt, Facts
from upstream.model_tester import lengths, outputs_of, part_of_head, without_dropped_layers, without_long_masks


@functools.cache
def _on_the_way_back(subject: Subject) -> str:
    """What upstream's own class says on the way back through reentrant checkpoints, from states; "" = it comes to an end. (The test
    itself leaves upstream's classes without heads out.)"""
    config = without_long_masks(subject.config(), lengths(subject)[0])
    config.use_cache = False
    upstream = model_class(subject.architecture)(without_dropped_layers(config))
    found = upstreams_gradients(upstream, subject.padded_inputs(), reentrant=True)
    return str(found) if isinstance(found, InBackward) else ""


def _goes_back_with(said: str) -> Callable[[Facts], bool]:
    return lambda facts: bool(facts.head) and said in _on_the_way_back(facts.subject)


def _embeds_for_none(facts: Facts) -> bool:
    """Upstream trains on a loss with gradient checkpointing, and watches what reaches the embeddings: they have no matrix, or
    one that upstream freezes (Idefics), or what comes first out of a model without heads is
    that of a part (InstructBLIP for videos), or always sums to the same (VideoPrism's shares of each text), or they are of a part that does
    not run under the head."""
    weight = getattr(facts.embeddings, "weight", None)
    if not facts.upstream.supports_gradient_checkpointing or weight is None or not weight.requires_grad:
        return True
    first = next(iter(outputs_of(facts.subject).values()), None)
    if not facts.head and (not isinstance(first, (torch.Tensor, tuple)) or _is_of_shares(first)):
        return True
    return not _is_read(facts, lambda module: module is facts.embeddings)


def _is_of_shares(output: Any) -> bool:
    """Its rows or its columns each sum to one."""
    if not isinstance(output, torch.Tensor) or not output.is_floating_point() or output.dim() != 2:
        return False
    return any(torch.allclose(sums, torch.ones_like(sums)) for sums in (output.sum(0), output.sum(1)))


def _has_no_loss(facts: Facts) -> bool:
    """Nothing computes a loss: there is no head, and the model itself is given no labels (CSM's are of the instance)."""
    return not facts.head and "labels" not in facts.subject.padded_inputs()


def _checkpoints_unread_first(facts: Facts) -> bool:
    """The first layer that can be checkpointed is of a part that does not run under the head."""
    return not _is_read(facts, lambda module: isinstance(module, GradientCheckpointingLayer))


def _is_read(facts: Facts, sought: Callable[[torch.nn.Module], bool]) -> bool:
    """The first module that is `sought` is of what runs under the head; True where there is none."""
    read = facts.on_meta.base_model.get_submodule(part_of_head(facts.subject.model_type))
    first = next((module for module in facts.on_meta.modules() if sought(module)), read)
    return any(module is first for module in read.modules())


def _checkpoints_nowhere(facts: Facts) -> bool:
    """Upstream says that the model supports gradient checkpointing, and no module of it has the switch."""
    switches = any(hasattr(module, "gradient_checkpointing") for module in facts.on_meta.modules())
    return facts.tested.supports_gradient_checkpointing and not switches


EXEMPT: tuple[Exempt, ...] = (
    Exempt(
        "enable_input_require_grads_with_gradient_checkpointing",
        "the model has no gradient checkpointing, or its embeddings have no matrix that a gradient could reach",
        "No model with a differentiable loss",
        _embeds_for_none,
    ),
    Exempt(
        "training_gradient_checkpointing*",
        "upstream watches the first layer that can be checkpointed, which is of a tower that does not run under the head",
        "0 not greater than 1",
        _checkpoints_unread_first,
    ),
    Exempt(
        "training_gradient_checkpointing_use_reentrant_true",
        "a layer of upstream's leaves what it computed beside its output, through which torch goes back twice",
        "Trying to backward through the graph a second time",
        _goes_back_with("a second time"),
    ),
    Exempt(
        "training_gradient_checkpointing_use_reentrant_true",
        "a layer of upstream's hands the next one more than its hidden states, and torch computes it again for each later one",
        f"more than {MOST_RECOMPUTED} layers were recomputed",
        _goes_back_with("layers were recomputed"),
    ),
    Exempt(
        "gradient_checkpointing_backward_compatibility gradient_checkpointing_enable_disable "
        "peft_gradient_checkpointing_enable_disable",
        "upstream says that the model supports gradient checkpointing, and no module of it does",
        r"is not compatible with gradient checkpointing|\[\] is not true",
        _checkpoints_nowhere,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "enable_input_require_grads_with_gradient_checkpointing",
        "upstream's model reads its cache, which its layers switch off where they are checkpointed",
        "'NoneType' object has no attribute 'get_seq_length'",
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "training",
        "an AdapterModel without heads computes no loss",
        "has no attribute '(loss|backward)'|All labels must be provided",  # or it is None
        _has_no_loss,
    ),
    Exempt(
        "training_gradient_checkpointing*",
        "an AdapterModel without heads computes no loss",
        "has no attribute '(loss|backward)'",
        lambda facts: _has_no_loss(facts) and facts.tested.supports_gradient_checkpointing,
    ),
)
