"""Walk from a tensor back to what it was projected from, over steps that keep its contents: views, casts, rotary embeddings,
the cache, norms, dropout, scales."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from adapter_codegen.plan.flow.kinds import Kind, Kinds
from adapter_codegen.plan.flow.values import How, Op, Value, same_tensor

VIEWS = frozenset(
    [
        "view",
        "reshape",
        "transpose",
        "permute",
        "contiguous",
        "split",
        "chunk",
        "unbind",
        "unflatten",
        "flatten",
        "unsqueeze",
        "squeeze",
        "expand",
        "swapaxes",
        "swapdims",
        "tensor_split",
        "view_as",
        "reshape_as",
        "expand_as",
        "broadcast_to",
        "movedim",
        "repeat_interleave",
        "split_with_sizes",
        "narrow",
    ]
)
CASTS = frozenset(
    ["to", "float", "half", "type", "type_as", "clone", "detach", "bfloat16", "cpu", "cuda", "requires_grad_"]
)
DROPOUTS = frozenset({"dropout", "alpha_dropout"})
_CUTS = frozenset({"split", "chunk", "unbind", "tensor_split", "split_with_sizes"})
_KEEPING = (
    frozenset(
        [
            "pad",
            "unfold",
            "normalize",
            "layer_norm",
            "rms_norm",
            "clamp",
            "mul",
            "div",
            "where",
            "dropout",
            "nan_to_num",
        ]
    )
    | VIEWS
    | CASTS
)
_NUMBERS = frozenset({"scaling", "dropout", "softcap"})  # by the convention of attention functions
JOINING = frozenset({"cat", "concat", "concatenate"})
GATHERING = JOINING | {"stack"}


def last_name(value: Value) -> str:
    """``softmax`` of ``nn.functional.softmax``."""
    return value.name.rpartition(".")[2]


def called(value: Value, *names: str) -> bool:
    """Whether `value` is the result of a torch function or a tensor's method of one of these names."""
    return value.op in (Op.METHOD, Op.FUNCTION) and last_name(value) in names


def operand(value: Value, index: int = 0, keyword: str = "input") -> Value | None:
    """The tensor that a function or method works on."""
    if index < len(value.inputs):
        return value.inputs[index]
    return value.keyword(keyword)


def first_argument(call: Value) -> Value | None:
    """The stream at a call: the first argument, which upstream also passes by keyword."""
    named = [value for key, value in call.keywords if key != "**"]
    return next(iter((*call.inputs, *named)), None)


def is_cut(value: Value) -> bool:
    """A call that gives several parts of one tensor."""
    return called(value, *_CUTS)


def is_of_nothing(linear: Value) -> bool:
    """A projection of an argument that nobody gave: the branch for cross-attention in a self-attention."""
    return bool(linear.inputs) and same_tensor(linear.inputs[0]).is_none


def is_scalar(value: Value) -> bool:
    """A number, an attribute of the module, or arithmetic of these: no activation."""
    if value.op in (Op.CONSTANT, Op.GLOBAL):
        return True
    if value.op is Op.ATTRIBUTE:
        base = value.inputs[0]
        if base.op in (Op.SELF, Op.MODULE, Op.GLOBAL) or value.is_metadata:
            return True
        return is_scalar(base) or (base.op is Op.PARAMETER and base.name == "module" and not base.frame.class_name)
    if value.op in (Op.PARAMETER, Op.HELPER, Op.SUBMODULE, Op.FUNCTION) and value.through is not None:
        return is_scalar(value.through)
    if value.op is Op.PARAMETER:
        return _is_annotated_number(value)
    if value.op is Op.METHOD and last_name(value) in ("size", "dim", "numel"):
        return True
    if value.op in (Op.BINARY, Op.UNARY, Op.JOIN, Op.FUNCTION, Op.METHOD, Op.ITEM, Op.OTHER):
        return bool(value.inputs) and all(map(is_scalar, value.inputs))
    return False


def is_number(value: Value) -> bool:
    """A number for certain: an attribute of the module may be a tensor."""
    return is_scalar(value) and not _has_attribute(value)


def tensor_operands(value: Value) -> tuple[Value, ...]:
    """Of an operation: the operands that are no numbers."""
    return tuple(operand for operand in value.inputs if not is_scalar(operand))


def worked_on(value: Value) -> tuple[Value, ...]:
    """Of a call: the tensor that it works on. Of ``torch.where(condition, x, y)`` that is `x`."""
    is_where = value.op is Op.FUNCTION and last_name(value) == "where"
    return value.inputs[1:2] if is_where else value.inputs[:1]


def _has_attribute(value: Value) -> bool:
    if value.op is Op.ATTRIBUTE:
        return not value.is_metadata
    return any(map(_has_attribute, value.origins()))


def _is_annotated_number(value: Value) -> bool:
    """``scaling: float | None``."""
    annotation = value.node.annotation if isinstance(value.node, cst.Param) else None
    if annotation is None:
        return value.name in _NUMBERS and not value.frame.class_name
    names = _Names()
    annotation.visit(names)
    return bool(names.found) and names.found <= {"float", "int", "bool", "None", "Optional", "Union"}


class _Names(cst.CSTVisitor):
    def __init__(self) -> None:
        self.found: set[str] = set()

    def visit_Name(self, node: cst.Name) -> None:
        self.found.add(node.value)


def one_step_back(value: Value, kinds: Kinds) -> tuple[Value, ...]:
    """Where the contents of `value` come from; empty where it is computed anew."""
    if value.op is Op.ITEM:
        return _item(value)
    if value.op is Op.FUNCTION and value.through is not None:  # of this file: a rotary embedding, repeat_kv
        return _first(value)
    if value.through is not None and not (value.op is Op.SUBMODULE and _is_step(value, kinds)):
        return (value.through,)
    if value.op is Op.JOIN:
        return value.choices
    if value.op is Op.SUBMODULE:
        return _first(value) if _is_step(value, kinds) else ()
    if value.op is Op.METHOD and value.name == "copy_":
        return value.inputs[1:2]
    if value.op is Op.METHOD:
        return value.inputs[:1] if last_name(value) in _KEEPING or value.name.endswith("_") else ()
    if value.op is Op.FUNCTION:
        if last_name(value) in GATHERING and value.inputs:
            gathered = same_tensor(value.inputs[0])
            is_written = gathered.op is Op.TUPLE or gathered.how is How.FILTERED
            return gathered.inputs if is_written else value.inputs[:1]
        return _first(value) if last_name(value) in _KEEPING else ()
    if value.op is Op.BINARY and value.operator in "+-*/":
        return tensor_operands(value)
    if value.how is How.ITEM_ASSIGNMENT:
        return value.inputs
    return ()


def _is_step(value: Value, kinds: Kinds) -> bool:
    steps = (Kind.NORM, Kind.DROPOUT, Kind.SCALE, Kind.IDENTITY)
    return value.module is not None and kinds.of(value.module.classes) in steps


def _first(value: Value) -> tuple[Value, ...]:
    return value.inputs[:1] or tuple(one for name, one in value.keywords[:1] if name != "**")


def _item(value: Value) -> tuple[Value, ...]:
    """An element: of parts of a tensor, of what a rotary function or the cache gave back, or a slice."""
    base = value.inputs[0]
    seen = base
    while seen.op is Op.PARAMETER and seen.through is not None:
        seen = seen.through
    index = int(value.index) if value.index.isdigit() else None
    hands_back = seen.op is Op.FUNCTION or (seen.op is Op.METHOD and seen.name == "update")
    if hands_back and index is not None and not is_cut(seen):
        arguments = seen.inputs[1:] if seen.op is Op.METHOD else seen.inputs
        named = tuple(one for name, one in seen.keywords if name != "**")
        if index < len((*arguments, *named)):
            return ((*arguments, *named)[index],)
    if value.through is not None:
        return (value.through,)
    return (base,)


def sources(value: Value, kinds: Kinds, wanted: frozenset[Kind]) -> Iterator[Value]:
    """Calls of submodules of the `wanted` kinds that the contents of `value` come from, nearest first."""
    todo, seen = [value], set()
    while todo:
        value = todo.pop(0)
        if id(value) in seen:
            continue
        seen.add(id(value))
        if value.op is Op.SUBMODULE and value.module is not None and kinds.of(value.module.classes) in wanted:
            yield value
        else:
            todo.extend(one_step_back(value, kinds))


def track(value: Value, kinds: Kinds) -> Iterator[Value]:
    """`value` and all values that it has its contents from, nearest first."""
    todo, seen = [value], set()
    while todo:
        value = todo.pop(0)
        if id(value) not in seen:
            seen.add(id(value))
            yield value
            todo.extend(one_step_back(value, kinds))


def field_of_output(value: Value) -> Value | None:
    """``output[0]`` or ``output.last_hidden_state``, where the output is built in sight."""
    output = same_tensor(value.inputs[0])
    if output.op is not Op.FUNCTION:
        return None
    if value.op is Op.ATTRIBUTE:
        return output.keyword(value.name)
    fields = [*output.inputs, *(argument for _, argument in output.keywords)]
    return fields[int(value.index)] if value.index.isdigit() and int(value.index) < len(fields) else None
