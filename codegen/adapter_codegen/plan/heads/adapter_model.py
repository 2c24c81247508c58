"""The class with flexible heads of a model (`AdapterModelPlan`), decided from its base model and the heads that fit on it.

Where do I add an argument that a new type of head reads? An entry of `_HEAD_ARGUMENTS`.
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from adapter_codegen.model import AdapterModelPlan, Argument, BasePlan, Borrowed, HeadArguments, ModelPlan, Parameter
from adapter_codegen.parse.facts import ModuleFacts
from adapter_codegen.parse.syntax import dotted_name, literal_keys, literal_string
from adapter_codegen.plan.heads.annotations import read_annotation
from adapter_codegen.plan.heads.encoders import on_encoder
from adapter_codegen.plan.heads.flexible import (
    GENERATIVE,
    HEAD_TYPES,
    base_attribute,
    feeding_config,
    is_composite,
    part_at,
    pooling,
)
from adapter_codegen.plan.heads.shifting import plan_shift

# Inputs that have one row per answer in multiple choice. In the order in which they are handed on.
_PER_ANSWER = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")
_READ_BY_HEADS = ("input_ids", "attention_mask")  # to find the token that stands for a sequence
_READ_BY_PAINTERS = ("pixel_values", "bool_masked_pos")
_PAINTS = "masked_image_modeling"

# Names in annotations that are neither built in nor torch's are the runtime's.
_TARGET = "Target | None"
# Types of heads that read the arguments (None = all) -> the arguments, and what is said about them.
_HEAD_ARGUMENTS: tuple[tuple[frozenset[str] | None, HeadArguments], ...] = (
    (
        None,
        HeadArguments(
            (Argument("head", "HeadSetup | None", "None"),),
            "the head or heads to run; by default the active ones.",
        ),
    ),
    (
        frozenset(HEAD_TYPES) - {"question_answering", _PAINTS},
        HeadArguments(
            (Argument("labels", _TARGET, "None"),),
            "targets of the head; with them the output holds a loss. For several heads also a dict by their names.",
        ),
    ),
    (
        frozenset({"question_answering"}),
        HeadArguments(
            (Argument("start_positions", _TARGET, "None"), Argument("end_positions", _TARGET, "None")),
            "(batch,), targets of a question answering head.",
        ),
    ),
    (
        frozenset({"dependency_parsing"}),
        HeadArguments(
            (Argument("word_starts", "torch.Tensor | None", "None"),),
            "(batch, up to length + 1), where the words begin; for a dependency parsing head, whose targets are\n"
            "labels_arcs and labels_rels.",
        ),
    ),
    (
        GENERATIVE,
        HeadArguments(
            (Argument("logits_to_keep", "int | torch.Tensor", "0"),),
            "language modelling heads compute that many last positions; 0 = all.",
        ),
    ),
)
_OF_TORCH = "import torch"
_CAPTURES = "capture_outputs"  # upstream's decorator that records hidden states and attention weights


def plan_adapter_model(plan: ModelPlan, facts: ModuleFacts, class_name: str) -> AdapterModelPlan:
    """The adapter model of a model.

    Args:
        facts: of the file that the model was planned from.
        class_name: of the adapter model.
    """
    heads, base = plan.flexible_heads, plan.base
    groups = tuple(group for types, group in _HEAD_ARGUMENTS if heads and (types is None or types & {*heads}))
    of_heads = {argument.name for group in groups for argument in group.arguments}
    # An argument of both goes to the heads: what the base model would leave out of the hidden states, a head may need.
    apart = of_heads | _asked_of_wrapper(facts, base)
    taken = [one for one in base.parameters if one.kind in ("positional", "keyword") and one.name not in apart]
    read = list(_arguments(taken, facts, plan.module))
    imports = {statement for _, statements in read for statement in statements} | ({_OF_TORCH} if heads else set())
    given = [argument.name for argument, _ in read]
    on_encoders = [head for head in plan.static_heads if on_encoder(base, head) and head.head_type in heads]
    is_named = base.prefix.isidentifier()
    return AdapterModelPlan(
        class_name=class_name,
        base_attribute=base_attribute(base),
        states_attribute=not is_named or _inherited_prefix(base, facts) != base.prefix,
        arguments=tuple(argument for argument, _ in read),
        imports=tuple(sorted(imports, key=lambda statement: (statement.startswith("from "), statement))),
        head_types=heads,
        head_config=_head_config(plan),
        part=(part := _part(plan)),
        part_arguments=_taken_by(facts, base, part, given) if part else (),
        encoder_heads=tuple(head.head_type for head in on_encoders),
        encoder_pooling=next((head.reads for head in on_encoders if head.reads), ""),
        borrowed=_borrowed(plan) if GENERATIVE & {*heads} else None,
        frames=next((head.frames for head in plan.static_heads if head.frames), "") if heads else "",
        weighs_layers=bool(heads) and any(head.weighs_layers for head in plan.static_heads),
        mask_token=next((head.mask_token for head in plan.static_heads if head.mask_token), "") if heads else "",
        pooling_skips=next((head.skips for head in plan.static_heads if head.skips), "") if heads else "",
        pooling=pooling(base, heads, (head.reads for head in plan.static_heads if head.reads)),
        generates=bool(GENERATIVE & {*heads}),
        head_arguments=groups,
        read_by_heads=tuple(name for name in _read(heads) if name in given) if heads and not part else (),
        stacked=tuple(name for name in _PER_ANSWER if name in given) if "multiple_choice" in heads else (),
        shift=plan_shift(plan, facts) if "seq2seq_lm" in heads else None,
    )


def _asked_of_wrapper(facts: ModuleFacts, base: BasePlan) -> set[str]:
    """Arguments that upstream's wrapper of the forward reads among the keywords of a call, and else in the configuration.

    There, None is an answer too: what is not asked for must not be handed on.
    """
    known = facts.classes.get(base.class_name)
    forward = known.functions.get("forward") if known is not None else None
    wrappers = [one.decorator for one in forward.node.decorators] if forward is not None else []
    if not any(dotted_name(one.func if isinstance(one, cst.Call) else one) == _CAPTURES for one in wrappers):
        return set()
    # What upstream records of a model: hidden_states, attentions
    recorded = (literal_keys(one.attributes.get("_can_record_outputs")) for one in facts.classes.values())
    return {"return_dict", *(f"output_{name}" for names in recorded for name in names)}


def _read(heads: tuple[str, ...]) -> tuple[str, ...]:
    """Arguments of the base model that heads of these types read."""
    return (*_READ_BY_HEADS, *(_READ_BY_PAINTERS if _PAINTS in heads else ()))


def _part(plan: ModelPlan) -> str:
    """The part whose outputs the heads read; "" = those of the base model."""
    parts = (head.part for head in plan.static_heads if head.part and not on_encoder(plan.base, head))
    return next(parts, "") if plan.flexible_heads else ""


def _head_config(plan: ModelPlan) -> str:
    """Path, in the config, of that of what feeds the heads; "" = the config itself."""
    if not plan.flexible_heads or not is_composite(plan.base):
        return ""
    part = part_at(plan.base, _part(plan))
    return (part.config_path if part is not None else feeding_config(plan.base)) or ""


def _taken_by(facts: ModuleFacts, base: BasePlan, path: str, given: list[str]) -> tuple[str, ...]:
    """Of the arguments of the base model those that a part of the same file takes too."""
    part = part_at(base, path)
    known = facts.classes.get(part.class_name) if part is not None else None
    forward = known.functions.get("forward") if known is not None else None
    return tuple(name for name in given if forward is not None and name in forward.parameters)


def _borrowed(plan: ModelPlan) -> Borrowed | None:
    """What the first of upstream's classes with a head that generates says of the steps of its generation; None = nothing."""
    return next((head.borrowed for head in plan.static_heads if head.head_type in GENERATIVE), None)


def _arguments(
    parameters: list[Parameter], facts: ModuleFacts, module: str
) -> Iterator[tuple[Argument, frozenset[str]]]:
    """The arguments for the parameters of the base model, each with the imports that its annotation needs.

    What upstream requires is required; but behind an argument that can be left out, all can.
    """
    is_optional = False
    for parameter in parameters:
        is_optional = is_optional or bool(parameter.default)
        default = parameter.default or ("None" if is_optional else "")
        annotation = read_annotation(parameter.annotation, facts, module)
        annotation = annotation.optional() if default == "None" else annotation
        yield Argument(parameter.name, annotation.text, default), annotation.imports


def _inherited_prefix(base: BasePlan, facts: ModuleFacts) -> str:
    """``base_model_prefix`` of the class that the adapter model derives from. The base model's own may be another: SigLIP's
    towers have theirs, beside that of the class that all models of the file share."""
    inherited = facts.classes.get(base.pretrained_class)
    return (literal_string(inherited.attributes.get("base_model_prefix")) if inherited else None) or ""
