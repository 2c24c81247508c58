"""Attention in one call: which argument is which, and what each means for longer keys."""

from __future__ import annotations

from collections.abc import Iterator, Set

import libcst as cst

from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.model import Expression
from adapter_codegen.parse.syntax import dotted_name
from adapter_codegen.plan.attention.core import PREFIX, AttentionCore, CoreKind
from adapter_codegen.plan.findings import Finding
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Op, Value, same_tensor
from adapter_codegen.plan.flow.walks import is_scalar

# Arguments that say nothing about single keys, or that grow as the mask does.
_SAFE = frozenset(
    {
        *("module", "query", "key", "value", "attention_mask", "attn_mask", "mask", "head_mask"),
        *("dropout", "dropout_p", "scaling", "scale", "softcap", "is_causal", "sliding_window", "enable_gqa"),
        *("output_attentions", "position_ids", "deterministic", "use_cache", "layer_idx", "training"),
    }
)
_PER_HEAD = frozenset({"s_aux", "sinks"})  # one logit per head, behind all keys
_PACKED = frozenset({"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "cu_seqlens"})
_BIAS = "position_bias"  # by convention, added to the scores


def attention_call(
    kind: CoreKind, call: Value, parameters: tuple[str, ...], positional: tuple[Value, ...], mask: str
) -> Iterator[AttentionCore]:
    """The core of a call, if queries, keys and values are among its arguments.

    Args:
        parameters: of the function, in order.
        positional: the arguments without keywords.
        mask: the parameter that takes the mask.
    """
    assert isinstance(call.node, cst.Call)
    written = call.node.args
    values = {name: value for name, value in call.keywords if name != "**"}
    nodes = {argument.keyword.value: argument.value for argument in written if argument.keyword is not None}
    plain = [argument.value for argument in written if argument.keyword is None and not argument.star]
    values.update(zip(parameters, positional, strict=False))
    nodes.update(zip(parameters, plain, strict=False))
    if {"query", "key", "value"} <= values.keys():
        if mask in nodes:
            nodes["mask"] = nodes[mask]
        query, key, value = values["query"], values["key"], values["value"]
        yield AttentionCore(kind, call, call, query, key, value, nodes, values.get(mask))


def unclaimed_arguments(core: AttentionCore, added: Set[str] = frozenset()) -> Iterator[Finding]:
    """Arguments that may have a key dimension.

    Args:
        added: those that are known to be added to the scores.
    """
    packing = list(packing_arguments(core))
    yield from (Finding(Problem.PACKED, node, PREFIX) for node in packing)
    for name, node in core.nodes.items():
        value = core.call.keyword(name)
        if (
            node in packing
            or name == _BIAS
            or name in added
            or (name in _PER_HEAD and value is not None and _is_own_attribute(value))
        ):
            continue
        elif name not in _SAFE and value is not None and not is_scalar(value):
            yield Finding(Problem.UNKNOWN_ARGUMENT, node, PREFIX, {"name": name})


def packing_arguments(core: AttentionCore) -> Iterator[cst.BaseExpression]:
    """Lengths of the sequences that stand one behind the other in one row."""
    for name, node in core.nodes.items():
        value = core.call.keyword(name) if name in _PACKED else None
        if value is not None and not value.is_none:
            yield node


def mask_argument(core: AttentionCore, scene: Scene) -> Expression | None:
    node = core.nodes.get("mask")
    return None if node is None else scene.expression(node)


def bias_arguments(core: AttentionCore, scene: Scene, added: Set[str] = frozenset()) -> tuple[Expression, ...]:
    """Arguments that are added to the scores beside the mask."""
    grown = {*added, _BIAS} - _SAFE
    return tuple(
        scene.expression(node) for name, node in core.nodes.items() if name in grown and dotted_name(node) != "None"
    )


def _is_own_attribute(value: Value) -> bool:
    value = same_tensor(value)
    return value.is_none or (value.op is Op.ATTRIBUTE and value.inputs[0].op is Op.SELF)
