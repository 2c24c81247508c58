"""Which adapter methods hold for a model, and why not where not. One function per method."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from adapter_codegen.model import BasePlan, Diagnostic, Level, Location, Method, MethodSupport
from adapter_codegen.plan.module import LayerEntry

Rule = Callable[[BasePlan, Sequence[LayerEntry]], tuple[str, Location | None]]


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
    reason, location = RULES[method](base, entries)
    return MethodSupport(method, not reason, reason, location)


def _bottleneck(base: BasePlan, entries: Sequence[LayerEntry]) -> tuple[str, Location | None]:
    for entry in entries:
        if not entry.plan.bottlenecks and entry.plan.attentions:
            return f"{entry.plan.class_name} has no residual addition that a rule claims.", entry.plan.location
    if not any(entry.plan.bottlenecks for entry in entries):
        return "No layer has a residual addition that a rule claims.", base.location
    return "", None


def _prefix_tuning(base: BasePlan, entries: Sequence[LayerEntry]) -> tuple[str, Location | None]:
    attending = [entry for entry in entries if entry.plan.attentions]
    for entry in attending:
        for problem in entry.prefix_problems:
            return problem.message, problem.location
    return ("", None) if attending else ("No layer has keys and values.", base.location)


def _lora(base: BasePlan, entries: Sequence[LayerEntry]) -> tuple[str, Location | None]:
    for entry in entries:
        mlp = entry.plan.mlp
        if mlp.first or mlp.last or any(one.query or one.fused or one.value for one in entry.plan.attentions):
            return "", None
    return "No layer has linear modules that play a known role.", base.location


def _reft(base: BasePlan, entries: Sequence[LayerEntry]) -> tuple[str, Location | None]:
    return ("", None) if base.stacks else ("The model has no layers of its own.", base.location)


def _prompt_tuning(base: BasePlan, entries: Sequence[LayerEntry]) -> tuple[str, Location | None]:
    if not base.token_embeddings:
        reason, location = _not_a_sequence(base, entries)
        if reason:
            return reason, location
    return (
        ("", None)
        if base.embedding_output
        else ("What enters the first layer is not one module's output.", base.location)
    )


def _not_a_sequence(base: BasePlan, entries: Sequence[LayerEntry]) -> tuple[str, Location | None]:
    """A prompt may stand in front of the parts of an image where these are a sequence to all layers, and not a grid."""
    if not base.class_token or len(base.stacks) != 1 or "*" in base.stacks[0].path:
        return (
            "The model reads no tokens, and the parts of what it reads are not a plain sequence with a class token in front.",
            base.location,
        )
    for entry in entries:
        if len(entry.plan.attentions) > 1:
            return f"{entry.plan.class_name} attends in several ways, so its input may be a grid.", entry.plan.location
    return "", None


def _invertible(base: BasePlan, entries: Sequence[LayerEntry]) -> tuple[str, Location | None]:
    if not base.token_embeddings:
        return "The model has no token embeddings that could be inverted.", base.location
    return (
        ("", None)
        if base.embedding_output
        else ("What enters the first layer is not one module's output.", base.location)
    )


RULES: dict[Method, Rule] = {
    Method.BOTTLENECK: _bottleneck,
    Method.PREFIX_TUNING: _prefix_tuning,
    Method.LORA: _lora,
    Method.REFT: _reft,
    Method.PROMPT_TUNING: _prompt_tuning,
    Method.INVERTIBLE: _invertible,
}
