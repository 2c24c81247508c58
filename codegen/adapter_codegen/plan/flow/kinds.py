"""What a submodule does, from its class: the line of torch.nn, or the text of its forward where the file defines it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum

import libcst as cst

from adapter_codegen.parse.facts import ClassFacts, FunctionFacts, ModuleFacts
from adapter_codegen.parse.syntax import descendants, dotted_name, is_docstring
from adapter_codegen.plan.flow.modules import called_function, local_class


class Kind(str, Enum):
    LINEAR = "linear"  # y = x W + b over the last dimension: what LoRA can stand beside
    NORM = "norm"
    DROPOUT = "dropout"  # of elements or of whole branches; nothing else happens to the tensor
    SCALE = "scale"  # times a learned vector or a number
    IDENTITY = "identity"
    ACTIVATION = "activation"
    CONVOLUTION = "convolution"
    EMBEDDING = "embedding"
    TORCH_ATTENTION = "nn.MultiheadAttention"
    WORK = "work"  # anything else


_BY_CLASS = {
    "Linear": Kind.LINEAR,
    "Conv1D": Kind.LINEAR,
    "NonDynamicallyQuantizableLinear": Kind.LINEAR,
    "LayerNorm": Kind.NORM,
    "RMSNorm": Kind.NORM,
    "GroupNorm": Kind.NORM,
    "FusedRMSNorm": Kind.NORM,
    "BatchNorm1d": Kind.NORM,
    "BatchNorm2d": Kind.NORM,
    "Dropout": Kind.DROPOUT,
    "Dropout1d": Kind.DROPOUT,
    "Dropout2d": Kind.DROPOUT,
    "DropPath": Kind.DROPOUT,
    "Identity": Kind.IDENTITY,
    "Conv1d": Kind.CONVOLUTION,
    "Conv2d": Kind.CONVOLUTION,
    "Conv3d": Kind.CONVOLUTION,
    "ConvTranspose1d": Kind.CONVOLUTION,
    "ConvTranspose2d": Kind.CONVOLUTION,
    "Embedding": Kind.EMBEDDING,
    "MultiheadAttention": Kind.TORCH_ATTENTION,
    "ACT2FN": Kind.ACTIVATION,
    "ACT2CLS": Kind.ACTIVATION,
}
_ACTIVATIONS = {
    "GELU",
    "ReLU",
    "SiLU",
    "Tanh",
    "Sigmoid",
    "QuickGELU",
    "GLU",
    "LeakyReLU",
    "Softmax",
    "Softplus",
    "ReLU6",
}
_NORM_CALLS = {"rsqrt", "layer_norm", "rms_norm", "group_norm", "normalize"}
_RANDOM_CALLS = {"bernoulli", "bernoulli_", "rand", "dropout", "drop_path"}


class Kinds:
    """Answers for one file, remembered."""

    def __init__(self, facts: ModuleFacts) -> None:
        self._facts = facts
        self._known: dict[str, Kind] = {}

    def of(self, classes: Iterable[str]) -> Kind:
        """The kind of a submodule that may have any of `classes`; `WORK` where they disagree."""
        kinds = {self.of_class(name) for name in classes}
        if len(kinds) > 1:
            kinds.discard(Kind.IDENTITY)  # ``DropPath(p) if p > 0 else nn.Identity()``
        if kinds == {Kind.NORM, Kind.SCALE}:  # a norm, or only what stands behind its division
            return Kind.NORM
        return kinds.pop() if len(kinds) == 1 else Kind.WORK

    def of_class(self, name: str) -> Kind:
        if name not in self._known:
            self._known[name] = Kind.WORK  # while a class that holds itself is being looked at
            self._known[name] = self._find(name)
        return self._known[name]

    def _find(self, name: str) -> Kind:
        known = self._facts.classes.get(local_class(name))
        if known is None:
            last = local_class(name)
            return _BY_CLASS.get(last, Kind.ACTIVATION if last in _ACTIVATIONS else Kind.WORK)
        outside = [self._find(base) for base in known.lineage[1:] if local_class(base) not in self._facts.classes]
        inherited = next((kind for kind in outside if kind is not Kind.WORK), Kind.WORK)
        if inherited is not Kind.WORK:
            return inherited
        return self._from_forward(known)

    def _from_forward(self, known: ClassFacts) -> Kind:
        forward = known.functions.get("forward")
        inner = {self.of(submodule.classes) for submodule in known.submodules.values()}
        if forward is None or inner - {Kind.NORM, Kind.DROPOUT, Kind.IDENTITY}:
            return Kind.WORK
        calls = self._calls(forward.node)
        helpers = [known.functions[name] for name in calls if name in known.functions and name != "forward"]
        calls = calls.union(
            *(self._calls(helper.node) for helper in helpers)
        )  # ``return self._norm(x) * self.weight``
        if calls & _NORM_CALLS and len(forward.parameters) <= 2:
            return Kind.NORM
        if _divides_by_deviation(forward) and not known.submodules:
            return Kind.NORM
        if calls & _RANDOM_CALLS and len(forward.parameters) == 1:
            return Kind.DROPOUT
        return Kind.SCALE if _only_scales(forward.node) and not known.submodules else Kind.WORK

    def _calls(self, node: cst.CSTNode, depth: int = 2) -> set[str]:
        found = {_name(call) for call in _called(node)}
        functions = (called_function(self._facts, call) for call in _called(node))
        inner = [function for function in functions if function is not None and depth]
        return found.union(*(self._calls(function, depth - 1) for function in inner))


def _called(node: cst.CSTNode) -> Iterator[cst.Call]:
    return (inner for inner in descendants(node) if isinstance(inner, cst.Call))


def _name(call: cst.Call) -> str:
    return call.func.attr.value if isinstance(call.func, cst.Attribute) else dotted_name(call.func)


def _divides_by_deviation(forward: FunctionFacts) -> bool:
    """A norm that is written out: a mean that keeps its dimension, and a division by a square root."""
    visitor = _Arithmetic()
    forward.node.visit(visitor)
    return len(forward.parameters) == 1 and visitor.keeps_mean and visitor.divides_by_root


class _Arithmetic(cst.CSTVisitor):
    def __init__(self) -> None:
        self.keeps_mean = False
        self.divides_by_root = False

    def visit_Call(self, node: cst.Call) -> None:
        keywords = {argument.keyword.value for argument in node.args if argument.keyword is not None}
        self.keeps_mean |= "keepdim" in keywords and dotted_name(node.func).rpartition(".")[2] == "mean"

    def visit_BinaryOperation(self, node: cst.BinaryOperation) -> None:
        if isinstance(node.operator, cst.Divide) and isinstance(node.right, cst.Call):
            self.divides_by_root |= dotted_name(node.right.func).rpartition(".")[2] == "sqrt"


def _only_scales(function: cst.FunctionDef) -> bool:
    """``return x * self.weight`` or ``return x.mul(self.weight)``, perhaps with a bias, and nothing before it."""
    body = [line for line in function.body.body if not is_docstring(line)]
    if len(body) != 1 or not isinstance(body[0], cst.SimpleStatementLine):
        return False
    statement = body[0].body[0]
    if not isinstance(statement, cst.Return) or statement.value is None:
        return False
    value = statement.value
    if isinstance(value, cst.BinaryOperation) and isinstance(value.operator, cst.Add):
        value = value.left if dotted_name(value.right).startswith("self.") else value
    if isinstance(value, cst.BinaryOperation) and isinstance(value.operator, cst.Multiply):
        return any(dotted_name(side).startswith("self.") for side in (value.left, value.right))
    return isinstance(value, cst.Call) and dotted_name(value.func).rpartition(".")[2] == "mul"
