"""A core in a helper, seen from the call of the helper: ``self._attn(query, key, value, mask)``."""

from __future__ import annotations

from dataclasses import replace

import libcst as cst

from adapter_codegen.plan.attention.core import AttentionCore, Term
from adapter_codegen.plan.flow.values import Flow, Op, Value, same_tensor
from adapter_codegen.plan.flow.walks import CASTS, VIEWS


def lifted(core: AttentionCore, flow: Flow) -> AttentionCore | None:
    """The core with the call of its function in its place: the site of an edit is then where that call stands.

    None where query, key, value or anything added to the scores is not handed in as an argument of that call.
    """
    call = flow.calls.get(core.call.frame)
    if call is None or not isinstance(call.node, cst.Call) or core.troubles:
        return None
    written = _argument_nodes(call.node, _parameters(core, flow))
    wanted = {"query": core.query, "key": core.key, "value": core.value}
    if core.mask is not None:
        wanted["mask"] = core.mask
    handed_in = {name: _handed_in(value, core, written) for name, value in wanted.items()}
    found = {name: argument for name, argument in handed_in.items() if argument is not None}
    terms = [_handed_in(term.value, core, written) for term in core.terms if not term.hides]
    added = [Term(*term, call.frame) for term in terms if term is not None]
    if len(found) != len(wanted) or len(added) != len(core.terms):
        return None
    values = {name: value for name, (value, _) in found.items()}
    return replace(
        core,
        call=call,
        result=call,
        nodes={name: node for name, (_, node) in found.items()},
        query=values["query"],
        key=values["key"],
        value=values["value"],
        mask=values.get("mask"),
        terms=tuple(added),
    )


def _handed_in(
    value: Value, core: AttentionCore, written: dict[str, cst.BaseExpression]
) -> tuple[Value, cst.BaseExpression] | None:
    """The argument of the call that `value` is inside of the function, and its expression."""
    parameter = _as_parameter(value, core)
    if parameter is None or parameter.name not in written or parameter.through is None:
        return None
    return parameter.through, written[parameter.name]


def _parameters(core: AttentionCore, flow: Flow) -> list[str]:
    """Names of the parameters of the function that holds a core, in order, without self."""
    frame = core.call.frame
    names = [value.name for value in flow.values if value.frame is frame and value.op is Op.PARAMETER]
    return list(dict.fromkeys(name for name in names if not name.startswith("*")))


def _argument_nodes(call: cst.Call, parameters: list[str]) -> dict[str, cst.BaseExpression]:
    nodes = {argument.keyword.value: argument.value for argument in call.args if argument.keyword is not None}
    plain = [argument.value for argument in call.args if argument.keyword is None and not argument.star]
    if any(argument.star for argument in call.args):
        return {}
    nodes.update(zip(parameters, plain, strict=False))
    return nodes


def _as_parameter(value: Value, core: AttentionCore) -> Value | None:
    """`value` as a parameter of the function that holds the core, through casts and grouping of heads."""
    for _ in range(8):
        if value.op is Op.PARAMETER and value.frame is core.call.frame:
            return value
        if value.op is Op.METHOD and value.name in VIEWS | CASTS:
            value = value.inputs[0]
        elif value.op is Op.ITEM and value.index == "" and value.inputs[0].op is Op.PARAMETER:
            value = value.inputs[0]  # a slice of the mask
        elif value.op is Op.FUNCTION and value.through is not None and value.inputs:
            value = value.inputs[0]  # repeat_kv
        elif value.through is not None and value.frame is core.call.frame:
            value = same_tensor(value)
        else:
            return None
    return None
