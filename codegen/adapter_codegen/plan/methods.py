"""Which adapter methods hold for a model, and why not where not. One function per method."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from adapter_codegen.model import (
    BasePlan,
    Diagnostic,
    Level,
    Location,
    Method,
    MethodSupport,
    StackPlan,
    StreamForm,
)
from adapter_codegen.plan.module import LayerEntry


class Lack(Enum):
    """What a model lacks that a method needs. ``{}`` is the class of a layer."""

    ADDITION_IN_LAYER = "{} has no residual addition that a rule claims."
    COMPLETE = "Not every layer of the stack {} has its sites. {}"
    ADDITIONS = "No layer has a residual addition that a rule claims."
    KEYS_AND_VALUES = "No layer has keys and values."
    PROJECTIONS = "No layer has linear modules that play a known role."
    LAYERS = "The model has no layers of its own."
    ROWS = "The hidden states of {} are no rows of tokens or patches: {}."
    STREAM = "Nothing is added to a stream in {}, so its output may be no hidden states of tokens."
    COUNT_OF_TOKENS = "What {} keeps of earlier tokens is no Cache, which the run time could tell how many they are: a step of a generation does not show which tokens are the first."
    ENTRANCE = "What enters the first layer is not one module's output."
    SEQUENCE = "The model reads no tokens, and the parts of what it reads are not known to be a plain sequence with a class token in front."
    POOLER = "A class token stands in front of the parts of what the model reads, but no submodule `pooler` shows what is read at it."
    ONE_ATTENTION = "{} attends in several ways, so its input may be a grid."
    OWN_HEAD = "The head of {} reads hidden states in its own forward, where a prompt cannot be taken out of them."
    TOKENS_IN_PARTS = "No model in {} reads tokens, whose embeddings could be inverted."
    TOKEN_EMBEDDINGS = "The model has no token embeddings that could be inverted."


_FORMS = {
    StreamForm.PACKED: "the positions of all examples stand in one row",
    StreamForm.LENGTH_FIRST: "the positions stand in front of the batch",
    StreamForm.JOINED: "something else stands in front of the tokens of each row",
    StreamForm.SEVERAL: "they are several tensors or streams beside each other",
    StreamForm.GATHERED: "a position stands for several tokens",
    StreamForm.SPREAD: "a token stands at as many positions as were computed for it",
    StreamForm.PADDED: "positions that hold nothing stand beside them, which the model takes away behind its layers",
    StreamForm.OTHER: "they have more dimensions than batch, length and width",
}


@dataclass(frozen=True)
class Obstacle:
    """Why a method does not hold."""

    reason: str
    location: Location | None


def _lack(lack: Lack, location: Location | None, layer: str = "") -> Obstacle:
    return Obstacle(lack.value.format(layer), location)


Rule = Callable[[BasePlan, Sequence[LayerEntry]], Obstacle | None]


def plan_methods(
    base: BasePlan, entries: Sequence[LayerEntry], diagnostics: Sequence[Diagnostic]
) -> tuple[MethodSupport, ...]:
    """Support of every method.

    Args:
        entries: the layer classes of the base model's stacks.
        diagnostics: about the whole model; one that names a method makes it unavailable.
    """
    return tuple(_support(method, base, entries, diagnostics) for method in Method)


def _support(
    method: Method, base: BasePlan, entries: Sequence[LayerEntry], diagnostics: Sequence[Diagnostic]
) -> MethodSupport:
    for diagnostic in diagnostics:
        if method in diagnostic.methods and diagnostic.level is not Level.NOTE:
            return MethodSupport(method, False, diagnostic.message, diagnostic.location)
    if base.is_of_parts:
        return _support_of_parts(method, base)
    obstacle = RULES[method](base, entries)
    if obstacle is None:
        return MethodSupport(method, True, *_restriction(method, base))
    return MethodSupport(method, False, obstacle.reason, obstacle.location)


def _support_of_parts(method: Method, base: BasePlan) -> MethodSupport:
    """Support in a model made of models: what its parts have is known when one is built, what none can have is known now."""
    tells = all(part.reads for part in base.parts)
    if not tells or any("tokens" in part.reads for part in base.parts):
        return MethodSupport(method, True, "")
    if method is Method.INVERTIBLE:
        obstacle = _lack(Lack.TOKENS_IN_PARTS, base.location, base.class_name)
        return MethodSupport(method, False, obstacle.reason, obstacle.location)
    if method is Method.PROMPT_TUNING and base.head is not None and base.stacks:  # into which it would go (ZoeDepth)
        obstacle = _lack(Lack.OWN_HEAD, base.location, base.class_name)
        return MethodSupport(method, False, obstacle.reason, obstacle.location)
    return MethodSupport(method, True, "")


def _restriction(method: Method, base: BasePlan) -> tuple[str, Location | None]:
    """What users should know of a method that holds, and the place in upstream that shows it."""
    stack = _without_rows(base)
    if method is not Method.REFT or stack is None:
        return "", None
    return f"{_no_rows(stack)} They are left out.", stack.shown


def _without_rows(base: BasePlan) -> StackPlan | None:
    return next((stack for stack in base.stacks if stack.form in _FORMS), None)


def _no_rows(stack: StackPlan) -> str:
    return Lack.ROWS.value.format(stack.path, _FORMS[stack.form])


def _bottleneck(base: BasePlan, entries: Sequence[LayerEntry]) -> Obstacle | None:
    for entry in entries:
        if not entry.plan.bottlenecks and entry.plan.attentions:
            return _lack(Lack.ADDITION_IN_LAYER, entry.plan.location, entry.plan.class_name)
    for index, stack in enumerate(base.stacks):
        if stack.gaps and (stack.is_main or index == 0):
            gap = stack.gaps[0]
            return Obstacle(Lack.COMPLETE.value.format(stack.path, gap.message), gap.location)
    if not any(entry.plan.bottlenecks for entry in entries):
        return _lack(Lack.ADDITIONS, base.location)
    return None


def _prefix_tuning(base: BasePlan, entries: Sequence[LayerEntry]) -> Obstacle | None:
    attending = [entry for entry in entries if entry.plan.attentions]
    for entry in attending:
        for problem in entry.prefix_problems:
            return Obstacle(problem.message, problem.location)
    has_keys = any(roles.key or roles.fused for entry in attending for roles in entry.plan.attentions)
    return None if has_keys else _lack(Lack.KEYS_AND_VALUES, base.location)


def _lora(base: BasePlan, entries: Sequence[LayerEntry]) -> Obstacle | None:
    for entry in entries:
        mlp, mixer, attentions = entry.plan.mlp, entry.plan.mixer, entry.plan.attentions
        if mlp.first or mlp.last or mixer.first or mixer.last:
            return None
        if any(roles.query or roles.fused or roles.value for roles in attentions):
            return None
    return _lack(Lack.PROJECTIONS, base.location)


def _reft(base: BasePlan, entries: Sequence[LayerEntry]) -> Obstacle | None:
    if obstacle := _not_counted(base, entries):
        return obstacle
    for entry in entries:
        if not entry.has_additions:
            return _lack(Lack.STREAM, entry.plan.location, entry.plan.class_name)
    stack = _without_rows(base)
    if stack is not None and all(one.form in _FORMS for one in base.stacks):
        return Obstacle(_no_rows(stack), stack.shown)
    return None if base.stacks else _lack(Lack.LAYERS, base.location)


def _not_counted(base: BasePlan, entries: Sequence[LayerEntry]) -> Obstacle | None:
    """A recurrence goes on from a state. If that is no cache of upstream's, the run time does not tell it what it has seen (xLSTM)."""
    kept = {parameter.name: parameter.annotation for parameter in base.parameters}
    attends = any(entry.plan.attentions for entry in entries)
    has_cache = "past_key_values" in kept or any(re.search(r"\bCache\b", text) for text in kept.values())
    if attends or "use_cache" not in kept or has_cache:
        return None
    return _lack(Lack.COUNT_OF_TOKENS, base.location, base.class_name)


def _prompt_tuning(base: BasePlan, entries: Sequence[LayerEntry]) -> Obstacle | None:
    if obstacle := _not_counted(base, entries):
        return obstacle
    if (
        base.head is not None and not base.is_encoder_decoder
    ):  # there, it reads what a decoder gives, which has no prompt
        return _lack(Lack.OWN_HEAD, base.location, base.class_name)
    if not base.token_embeddings and (obstacle := _no_sequence(base, entries)):
        return obstacle
    return None if base.embedding_output else _lack(Lack.ENTRANCE, base.location)


def _no_sequence(base: BasePlan, entries: Sequence[LayerEntry]) -> Obstacle | None:
    """A prompt may stand in front of the parts of an image where these are a sequence to all layers, and not a grid."""
    if not base.class_token or len(base.stacks) != 1 or "*" in base.stacks[0].path:
        return _lack(Lack.SEQUENCE, base.location)
    for entry in entries:
        if len(entry.plan.attentions) > 1:
            return _lack(Lack.ONE_ATTENTION, entry.plan.location, entry.plan.class_name)
    return None if base.has_pooler else _lack(Lack.POOLER, base.location)


def _invertible(base: BasePlan, entries: Sequence[LayerEntry]) -> Obstacle | None:
    if not base.token_embeddings:
        return _lack(Lack.TOKEN_EMBEDDINGS, base.location)
    return None if base.embedding_output or base.token_entry else _lack(Lack.ENTRANCE, base.location)


RULES: dict[Method, Rule] = {
    Method.BOTTLENECK: _bottleneck,
    Method.PREFIX_TUNING: _prefix_tuning,
    Method.LORA: _lora,
    Method.REFT: _reft,
    Method.PROMPT_TUNING: _prompt_tuning,
    Method.INVERTIBLE: _invertible,
}
