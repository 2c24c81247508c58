"""A core in a helper, seen from the call of the helper: ``self._attn(query, key, value, mask)``."""

from __future__ import annotations

from dataclasses import replace

import libcst as cst

from adapter_codegen.plan.attention.cores import Meeting
from adapter_codegen.plan.flow.values import Flow, Op, Value, same_tensor
from adapter_codegen.plan.flow.walks import CASTS, VIEWS


def lifted(meeting: Meeting, flow: Flow) -> Meeting | None:
    """The same core with the call of its function in its place.

    None where query, key, value or anything added to the scores is not handed in as an argument of that call.
    """
    frame = meeting.call.frame
    call = flow.calls.get(frame)
    if call is None or not isinstance(call.node, cst.Call) or meeting.troubles:
        return None
    written = _argument_nodes(call.node, frame_parameters(meeting, flow))
    nodes: dict[str, cst.BaseExpression] = {}
    values: dict[str, Value] = {}
    wanted = {"query": meeting.query, "key": meeting.key, "value": meeting.value}
    if meeting.mask is not None:
        wanted["mask"] = meeting.mask
    for name, value in wanted.items():
        parameter = _as_parameter(value, meeting)
        if parameter is None or parameter.name not in written or parameter.through is None:
            return None
        nodes[name], values[name] = written[parameter.name], parameter.through
    terms = []
    for value, _ in meeting.terms:
        parameter = _as_parameter(value, meeting)
        if parameter is None or parameter.name not in written or parameter.through is None:
            return None
        terms.append((parameter.through, written[parameter.name]))
    return replace(
        meeting,
        call=call,
        result=call,
        nodes=nodes,
        query=values["query"],
        key=values["key"],
        value=values["value"],
        mask=values.get("mask"),
        terms=tuple(terms),
    )


def frame_parameters(meeting: Meeting, flow: Flow) -> list[str]:
    """Names of the parameters of the function that holds a core, in order, without self."""
    frame = meeting.call.frame
    names = [value.name for value in flow.values if value.frame is frame and value.op is Op.PARAMETER]
    return list(dict.fromkeys(name for name in names if not name.startswith("*")))


def _argument_nodes(call: cst.Call, parameters: list[str]) -> dict[str, cst.BaseExpression]:
    nodes = {argument.keyword.value: argument.value for argument in call.args if argument.keyword is not None}
    plain = [argument.value for argument in call.args if argument.keyword is None and not argument.star]
    if any(argument.star for argument in call.args):
        return {}
    nodes.update(zip(parameters, plain, strict=False))
    return nodes


def _as_parameter(value: Value, meeting: Meeting) -> Value | None:
    """`value` as a parameter of the function that holds the core, through casts and grouping of heads."""
    for _ in range(8):
        if value.op is Op.PARAMETER and value.frame is meeting.call.frame:
            return value
        if value.op is Op.METHOD and value.name in VIEWS | CASTS:
            value = value.inputs[0]
        elif value.op is Op.ITEM and value.index == "" and value.inputs[0].op in (Op.PARAMETER,):
            value = value.inputs[0]  # a slice of the mask
        elif value.op is Op.FUNCTION and value.through is not None and value.inputs:
            value = value.inputs[0]  # repeat_kv
        elif value.through is not None and value.frame is meeting.call.frame:
            value = same_tensor(value)
        else:
            return None
    return None
