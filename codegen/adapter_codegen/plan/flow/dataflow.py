"""Follow definitions and uses through a forward and the forwards that it calls.

`trace` walks over the statements once, keeps what each name is bound to, and enters the forwards of submodules whose class is
in the same file, helper methods and module-level functions. Conditions are not evaluated: both branches run and their
bindings are joined. A loop body runs once, and what it bound is joined with what was bound before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import libcst as cst

from adapter_codegen.parse.facts import FunctionFacts, ModuleFacts, Submodule
from adapter_codegen.parse.syntax import dotted_name
from adapter_codegen.plan.flow.values import Flow, Frame, ModuleKind, Op, Value, same_tensor

MAX_DEPTH = 14
MAX_VALUES = 60_000  # a layer has some 500 to 5,000

REGISTRY = "ALL_ATTENTION_FUNCTIONS"

_OPERATORS: dict[type[cst.CSTNode], str] = {
    cst.Add: "+",
    cst.Subtract: "-",
    cst.Multiply: "*",
    cst.Divide: "/",
    cst.FloorDivide: "//",
    cst.MatrixMultiply: "@",
    cst.Modulo: "%",
    cst.Power: "**",
    cst.BitAnd: "&",
    cst.BitOr: "|",
    cst.AddAssign: "+",
    cst.SubtractAssign: "-",
    cst.MultiplyAssign: "*",
    cst.DivideAssign: "/",
    cst.MatrixMultiplyAssign: "@",
}


class TooLarge(Exception):
    """The graph has outgrown `MAX_VALUES`: the forward is no layer, or calls itself."""


def trace(facts: ModuleFacts, class_name: str, function: str = "forward") -> Flow | None:
    """The graph of a method of a class; None where the class has no such method in this file.

    Raises:
        TooLarge: the graph has more than `MAX_VALUES` values.
    """
    entry = facts.classes[class_name].functions.get(function)
    if entry is None:
        return None
    frame = Frame(class_name, function, entry.owner, "", 0)
    flow = Flow(frame)
    flow.returned = _Tracer(facts, flow, frame, entry.node, (class_name,)).run(Arguments())
    return flow


def trace_function(facts: ModuleFacts, name: str) -> Flow:
    """The graph of a function of the module.

    Raises:
        TooLarge: as for `trace`.
    """
    frame = Frame("", name, "", "", 0)
    flow = Flow(frame)
    flow.returned = _Tracer(facts, flow, frame, facts.functions[name], ()).run(Arguments())
    return flow


def local_class(name: str) -> str:
    """The last part of a class as written: ``nn.Linear`` -> ``Linear``."""
    return name.rpartition(".")[2]


def find_submodule(facts: ModuleFacts, classes: Sequence[str], name: str) -> Submodule | None:
    for candidate in classes:
        known = facts.classes.get(local_class(candidate))
        if known is not None and name in known.submodules:
            return known.submodules[name]
    return None


def _literal_index(node: cst.CSTNode) -> str:
    if isinstance(node, cst.Integer):
        return node.value
    if isinstance(node, cst.UnaryOperation) and isinstance(node.operator, cst.Minus):
        inner = _literal_index(node.expression)
        return f"-{inner}" if inner else ""
    if isinstance(node, cst.SimpleString):
        return node.raw_value
    return ""


@dataclass(frozen=True)
class Arguments:
    """Of one call, evaluated."""

    positional: tuple[Value, ...] = ()
    keywords: tuple[tuple[str, Value], ...] = ()
    double_star: tuple[Value, ...] = ()

    @property
    def named(self) -> tuple[tuple[str, Value], ...]:
        return (*self.keywords, *(("**", value) for value in self.double_star))


def _is_written_out(submodule: Submodule) -> bool:
    """``nn.ModuleList()`` that is appended to, or ``nn.ModuleList([A(), B()])``: the classes are in order."""
    if not submodule.in_list or len(submodule.classes) < 2:
        return False
    return not any(
        isinstance(argument.value, (cst.ListComp, cst.GeneratorExp)) or argument.star
        for argument in submodule.arguments
    )


class _Tracer:
    """Runs one function; calls create further tracers on the same flow."""

    def __init__(
        self,
        facts: ModuleFacts,
        flow: Flow,
        frame: Frame,
        function: cst.FunctionDef,
        module_classes: tuple[str, ...],
        stack: tuple[tuple[str, str, str, str], ...] = (),
    ) -> None:
        self.facts = facts
        self.flow = flow
        self.frame = frame
        self.function = function
        self.module_classes = module_classes
        self.stack = (*stack, (frame.class_name, frame.owner, frame.function, frame.path))
        self.statement: cst.CSTNode | None = None
        self.environment: dict[str, Value] | None = {}
        self.results: list[Value] = []

    # -- values ------------------------------------------------------------------------------------------------------

    def make(
        self,
        op: Op,
        node: cst.CSTNode,
        inputs: Sequence[Value] = (),
        name: str = "",
        keywords: Sequence[tuple[str, Value]] = (),
        through: Value | None = None,
        module: ModuleKind | None = None,
    ) -> Value:
        if len(self.flow.values) >= MAX_VALUES:
            raise TooLarge(f"{self.flow.root.class_name}.{self.flow.root.function}")
        value = Value(op, node, tuple(inputs), self.frame, self.statement, name, tuple(keywords), through, module)
        self.flow.values.append(value)
        return value

    def join(self, node: cst.CSTNode, values: Sequence[Value]) -> Value:
        distinct = list({id(value): value for value in values}.values())
        if len(distinct) == 1:
            return distinct[0]
        module = None
        if all(value.is_module for value in distinct):
            names = [name for value in distinct if value.module for name in value.module.classes]
            module = ModuleKind(tuple(dict.fromkeys(names)))
        name = distinct[0].name if module else ""
        return self.make(Op.JOIN, node, distinct, name, module=module)

    # -- functions ---------------------------------------------------------------------------------------------------

    def run(self, arguments: Arguments) -> Value:
        """Bind the arguments, run the body, and give what it returns."""
        self.bind(arguments)
        self.block(self.function.body)
        if not self.results:
            return self.make(Op.CONSTANT, self.function, name="None")
        return self.join(self.function, self.results)

    def bind(self, arguments: Arguments) -> None:
        assert self.environment is not None
        parameters = self.function.params
        ordered = [*parameters.posonly_params, *parameters.params]
        by_name = dict(arguments.keywords)
        if self.frame.class_name and not _is_static(self.function) and ordered:
            module = ModuleKind(self.module_classes)
            itself = self.make(Op.SELF, ordered[0], name=self.frame.path, module=module)
            self.environment[ordered[0].name.value] = itself
            ordered = ordered[1:]
        rest = list(arguments.positional)
        for parameter in ordered:
            argument = by_name.pop(parameter.name.value, None)
            if argument is None and rest:  # a starred one stays for all that follow
                argument = rest[0] if rest[0].op is Op.STARRED else rest.pop(0)
            self.environment[parameter.name.value] = self.parameter(parameter, argument, arguments)
        for parameter in parameters.kwonly_params:
            name = parameter.name.value
            self.environment[name] = self.parameter(parameter, by_name.pop(name, None), arguments)
        self.bind_rest(parameters, rest, (*by_name.values(), *arguments.double_star))

    def bind_rest(self, parameters: cst.Parameters, positional: Sequence[Value], named: Sequence[Value]) -> None:
        assert self.environment is not None
        star = parameters.star_arg
        if isinstance(star, cst.Param):
            self.environment[star.name.value] = self.make(Op.PARAMETER, star, positional, f"*{star.name.value}")
        if parameters.star_kwarg is not None:
            name = parameters.star_kwarg.name.value
            self.environment[name] = self.make(Op.PARAMETER, parameters.star_kwarg, named, f"**{name}")

    def parameter(self, parameter: cst.Param, argument: Value | None, arguments: Arguments) -> Value:
        name = parameter.name.value
        is_default = argument is None and self.frame.depth > 0 and parameter.default is not None
        if is_default and parameter.default is not None:
            argument = self.expression(parameter.default)
        if argument is None:
            return self.make(Op.PARAMETER, parameter, arguments.double_star, name)
        if argument.op is Op.STARRED:
            return self.make(Op.PARAMETER, parameter, (argument,), name)
        if argument.is_module:
            return argument
        maybe = arguments.double_star if is_default else ()  # what ``**kwargs`` may bring instead of the default
        return self.make(Op.PARAMETER, parameter, (argument, *maybe), name, through=argument)

    # -- statements --------------------------------------------------------------------------------------------------

    def block(self, body: cst.BaseSuite) -> None:
        statements = list(body.body)
        for statement, following in zip(statements, [*statements[1:], None], strict=True):
            if self.environment is None:
                return
            if following is not None:
                self.flow.after[self.frame, statement] = following
            self.statement = statement
            if isinstance(statement, cst.SimpleStatementLine):
                self.flow.before[self.frame, statement] = dict(self.environment)
                for small in statement.body:
                    self.small(small)
            elif isinstance(statement, cst.BaseCompoundStatement):
                self.compound(statement)
            elif isinstance(statement, cst.BaseSmallStatement):  # the one-line suite of ``if x: y = z``
                self.small(statement)

    def small(self, node: cst.BaseSmallStatement) -> None:
        if isinstance(node, cst.Assign):
            value = self.expression(node.value)
            for target in node.targets:
                self.assign(target.target, value)
        elif isinstance(node, cst.AnnAssign) and node.value is not None:
            self.assign(node.target, self.expression(node.value))
        elif isinstance(node, cst.AugAssign):
            name = _OPERATORS.get(type(node.operator), "?")
            self.assign(
                node.target, self.operation(node, self.expression(node.target), self.expression(node.value), name)
            )
        elif isinstance(node, cst.Return):
            self.results.append(
                self.expression(node.value) if node.value is not None else self.make(Op.CONSTANT, node, name="None")
            )
            self.environment = None
        elif isinstance(node, (cst.Raise, cst.Continue, cst.Break)):
            self.environment = self.environment if isinstance(node, (cst.Continue, cst.Break)) else None
        elif isinstance(node, cst.Expr):
            self.in_place(node.value, self.expression(node.value))

    def in_place(self, node: cst.BaseExpression, value: Value) -> None:
        """``x.add_(y)`` as a statement binds `x` again."""
        if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
            name = node.func.attr.value
            if name.endswith("_") and not name.endswith("__"):
                if isinstance(node.func.value, (cst.Name, cst.Subscript)):  # x.add_(y); x[..., :n].copy_(y)
                    self.assign(node.func.value, value)

    def assign(self, target: cst.BaseExpression, value: Value) -> None:
        if self.environment is None:
            return
        if isinstance(target, cst.Name):
            self.environment[target.value] = value
        elif isinstance(target, (cst.Tuple, cst.List)):
            for index, element in enumerate(target.elements):
                starred = isinstance(element, cst.StarredElement)
                self.assign(element.value, self.item(element, value, "" if starred else str(index)))
        elif isinstance(target, cst.Subscript) and isinstance(target.value, cst.Name):
            before = self.environment.get(target.value.value)
            inputs = (value,) if before is None else (before, value)
            self.environment[target.value.value] = self.make(Op.OTHER, target, inputs, "item assignment")

    def compound(self, node: cst.BaseCompoundStatement) -> None:
        assert self.environment is not None
        if isinstance(node, cst.If):
            decided = truth(self.expression(node.test))
            both = [None if decided is False else node.body, None if decided is True else node.orelse]
            self.branches(node, both if decided is None else [both[0] or both[1]])
        elif isinstance(node, cst.For):
            before = dict(self.environment)
            iterated = self.expression(node.iter)
            self.assign(node.target, self.element(node.iter, iterated))
            self.block(node.body)
            self.environment = self.merge(node, [before, self.environment])
        elif isinstance(node, cst.While):
            self.expression(node.test)
            self.branches(node, [node.body, None])
        elif isinstance(node, cst.With):
            for item in node.items:
                self.expression(item.item)
            self.block(node.body)
        elif isinstance(node, cst.Try):
            self.block(node.body)
            self.branches(node, [None, *(handler.body for handler in node.handlers)])
        elif isinstance(node, cst.FunctionDef):
            self.environment[node.name.value] = self.make(Op.OTHER, node, name="nested function")

    def branches(self, node: cst.CSTNode, bodies: Sequence[cst.CSTNode | None]) -> None:
        if self.environment is None:
            return
        ends: list[dict[str, Value] | None] = []
        before = self.environment
        for body in bodies:
            self.environment = dict(before)
            if isinstance(body, cst.If):  # elif
                self.statement = body
                self.compound(body)
            elif isinstance(body, cst.Else):
                self.block(body.body)
            elif isinstance(body, cst.BaseSuite):
                self.block(body)
            ends.append(self.environment)
        self.environment = self.merge(node, ends)

    def merge(self, node: cst.CSTNode, ends: Sequence[dict[str, Value] | None]) -> dict[str, Value] | None:
        live = [end for end in ends if end is not None]
        if not live:
            return None
        merged: dict[str, Value] = {}
        for name in dict.fromkeys(name for end in live for name in end):
            values = [end[name] for end in live if name in end]
            merged[name] = self.join(node, values)
        return merged

    # -- expressions -------------------------------------------------------------------------------------------------

    def expression(self, node: cst.BaseExpression) -> Value:
        handler = _HANDLERS.get(type(node))
        if handler is not None:
            return handler(self, node)
        inputs = [self.expression(child) for child in node.children if isinstance(child, cst.BaseExpression)]
        inputs += [
            self.expression(grandchild)
            for child in node.children
            if not isinstance(child, cst.BaseExpression)
            for grandchild in child.children
            if isinstance(grandchild, cst.BaseExpression)
        ]
        return self.make(Op.OTHER, node, inputs)

    def name_(self, node: cst.Name) -> Value:
        environment = self.environment if self.environment is not None else {}
        bound = environment.get(node.value)
        if bound is not None:
            return bound
        if node.value in ("None", "True", "False"):
            return self.make(Op.CONSTANT, node, name=node.value)
        return self.make(Op.GLOBAL, node, name=node.value)

    def constant(self, node: cst.BaseExpression) -> Value:
        return self.make(Op.CONSTANT, node, name=getattr(node, "value", ""))

    def attribute(self, node: cst.Attribute) -> Value:
        base = self.expression(node.value)
        name = node.attr.value
        if base.is_module and base.module is not None and not base.module.is_list:
            submodule = find_submodule(self.facts, base.module.classes, name)
            if submodule is not None:
                path = f"{base.name}.{name}" if base.name else name
                kind = ModuleKind(submodule.classes, submodule.in_list, _is_written_out(submodule))
                return self.make(Op.MODULE, node, name=path, module=kind)
        return self.make(Op.ATTRIBUTE, node, (base,), name)

    def subscript(self, node: cst.Subscript) -> Value:
        base = self.expression(node.value)
        slices = [element.slice for element in node.slice]
        if base.op is Op.GLOBAL and base.name == REGISTRY:
            return self.make(Op.INTERFACE, node, (base,))
        indices: list[Value] = []
        for part in slices:
            if isinstance(part, cst.Index):
                indices.append(self.expression(part.value))
            elif isinstance(part, cst.Slice):
                ends = [end for end in (part.lower, part.upper, part.step) if end is not None]
                indices.append(self.make(Op.OTHER, part, [self.expression(end) for end in ends], "slice"))
        first = slices[0]
        if base.is_module and base.module is not None and base.module.is_list:
            if not isinstance(first, cst.Index):
                return base
            return self.list_element(node, base, base.module, _literal_index(first.value))
        literal = _literal_index(first.value) if len(slices) == 1 and isinstance(first, cst.Index) else ""
        if literal:
            return self.item(node, base, literal, indices)
        return self.make(Op.ITEM, node, (base, *indices))

    def list_element(self, node: cst.CSTNode, base: Value, known: ModuleKind, index: str) -> Value:
        classes = known.classes
        if known.ordered and index.lstrip("-").isdigit() and -len(classes) <= int(index) < len(classes):
            classes = (classes[int(index)],)
        return self.make(Op.MODULE, node, name=f"{base.name}.{index or '*'}", module=ModuleKind(classes))

    def item(self, node: cst.CSTNode, base: Value, index: str, indices: Sequence[Value] = ()) -> Value:
        found: list[Value] = []
        for one in self.elements_of(base):
            if one.op is not Op.TUPLE or not index.lstrip("-").isdigit():
                found = []
                break
            if any(element.op is Op.STARRED for element in one.inputs):
                found = []
                break
            if -len(one.inputs) <= int(index) < len(one.inputs):
                found.append(one.inputs[int(index)])
        through = self.join(node, found) if found else None
        if through is not None and through.is_module:  # ``for index, layer in enumerate(self.layers)``
            return through
        return self.make(Op.ITEM, node, (base, *indices), index, through=through)

    def elements_of(self, base: Value) -> list[Value]:
        while base.through is not None:
            base = base.through
        if base.op is Op.JOIN:
            return [leaf for one in base.inputs for leaf in self.elements_of(one)]
        return [] if base.is_none else [base]

    def element(self, node: cst.CSTNode, iterated: Value) -> Value:
        """What a loop binds its target to."""
        if iterated.is_module and iterated.module is not None and iterated.module.is_list:
            return self.list_element(node, iterated, iterated.module, "")
        if iterated.op is Op.FUNCTION and iterated.name in ("enumerate", "zip", "reversed") and iterated.inputs:
            parts = [self.element(node, one) for one in iterated.inputs]
            if iterated.name == "reversed":
                return parts[0]
            counter = [self.make(Op.OTHER, node, name="counter")] if iterated.name == "enumerate" else []
            return self.make(Op.TUPLE, node, [*counter, *parts])
        return self.make(Op.ITEM, node, (iterated,))

    def tuple_(self, node: cst.Tuple | cst.List) -> Value:
        return self.make(Op.TUPLE, node, [self.tuple_element(element) for element in node.elements])

    def tuple_element(self, element: cst.BaseElement) -> Value:
        value = self.expression(element.value)
        if isinstance(element, cst.StarredElement):
            return self.make(Op.STARRED, element, (value,))
        return value

    def binary(self, node: cst.BinaryOperation) -> Value:
        name = _OPERATORS.get(type(node.operator), "?")
        return self.operation(node, self.expression(node.left), self.expression(node.right), name)

    def operation(self, node: cst.CSTNode, left: Value, right: Value, name: str) -> Value:
        """``left + right``: of tuples, a longer tuple."""
        if name == "+" and left.op is Op.TUPLE:
            rest = right.inputs if right.op is Op.TUPLE else (self.make(Op.STARRED, node, (right,)),)
            return self.make(Op.TUPLE, node, (*left.inputs, *rest))
        return self.make(Op.BINARY, node, (left, right), name)

    def boolean(self, node: cst.BooleanOperation) -> Value:
        left, right = self.expression(node.left), self.expression(node.right)
        decided = truth(left)
        if decided is not None:
            return right if decided is isinstance(node.operator, cst.And) else left
        return self.join(node, (left, right))

    def comparison(self, node: cst.Comparison) -> Value:
        """``x is None`` is decided where nothing was handed in for `x`."""
        left = self.expression(node.left)
        values = [self.expression(target.comparator) for target in node.comparisons]
        operator = node.comparisons[0].operator
        if (
            len(values) == 1
            and values[0].is_none
            and isinstance(operator, (cst.Is, cst.IsNot))
            and _known(left).is_none
        ):
            return self.make(Op.CONSTANT, node, name=str(isinstance(operator, cst.Is)))
        return self.make(Op.OTHER, node, (left, *values), "comparison")

    def conditional(self, node: cst.IfExp) -> Value:
        decided = truth(self.expression(node.test))
        if decided is not None:
            return self.expression(node.body if decided else node.orelse)
        return self.join(node, (self.expression(node.body), self.expression(node.orelse)))

    def unary(self, node: cst.UnaryOperation) -> Value:
        inner = self.expression(node.expression)
        decided = truth(inner) if isinstance(node.operator, cst.Not) else None
        if decided is not None:
            return self.make(Op.CONSTANT, node, name=str(not decided))
        return self.make(Op.UNARY, node, (inner,), type(node.operator).__name__)

    def walrus(self, node: cst.NamedExpr) -> Value:
        value = self.expression(node.value)
        self.assign(node.target, value)
        return value

    def comprehension(self, node: cst.ListComp | cst.GeneratorExp | cst.SetComp) -> Value:
        if self.environment is None:
            return self.make(Op.OTHER, node)
        outer = dict(self.environment)
        clause: cst.CompFor | None = node.for_in
        while clause is not None:
            self.assign(clause.target, self.element(clause.iter, self.expression(clause.iter)))
            clause = clause.inner_for_in
        element = self.expression(node.elt)
        self.environment = outer
        return self.make(Op.OTHER, node, (element,), "comprehension")

    def opaque(self, node: cst.BaseExpression) -> Value:
        return self.make(Op.OTHER, node)

    # -- calls -------------------------------------------------------------------------------------------------------

    def call(self, node: cst.Call) -> Value:
        arguments = self.arguments(node)
        function = node.func
        if isinstance(function, cst.Attribute):
            if _is_super(function.value):
                return self.super_call(node, function.attr.value, arguments)
            base = self.expression(function.value)
            if base.op is Op.GLOBAL and base.name == REGISTRY:
                return self.make(Op.INTERFACE, node, (base, *arguments.positional))
            if not base.is_module:
                return self.attribute_call(node, function, base, arguments)
            if find_submodule(self.facts, base.module.classes if base.module else (), function.attr.value) is None:
                return self.bound_call(node, base, function.attr.value, arguments)
        callee = self.expression(function)
        if callee.is_module:
            return self.module_call(node, callee, "forward", arguments)
        if callee.op is Op.GLOBAL:
            return self.function_call(node, callee.name, arguments)
        return self.make(Op.CALL, node, (callee, *arguments.positional), keywords=arguments.named)

    def arguments(self, node: cst.Call) -> Arguments:
        positional: list[Value] = []
        keywords: list[tuple[str, Value]] = []
        double_star: list[Value] = []
        for argument in node.args:
            value = self.expression(argument.value)
            if argument.star == "**":
                double_star.append(value)
            elif argument.star == "*":
                flat = same_tensor(value)
                known = flat.op is Op.TUPLE and not any(one.op is Op.STARRED for one in flat.inputs)
                positional.extend(flat.inputs if known else (self.make(Op.STARRED, argument, (value,)),))
            elif argument.keyword is not None:
                keywords.append((argument.keyword.value, value))
            else:
                positional.append(value)
        return Arguments(tuple(positional), tuple(keywords), tuple(double_star))

    def attribute_call(self, node: cst.Call, function: cst.Attribute, base: Value, arguments: Arguments) -> Value:
        """``tensor.method(...)`` or ``namespace.function(...)``."""
        if _is_namespace(base):
            return self.make(Op.FUNCTION, node, arguments.positional, dotted_name(function), arguments.named)
        return self.make(Op.METHOD, node, (base, *arguments.positional), function.attr.value, arguments.named)

    def bound_call(self, node: cst.Call, base: Value, name: str, arguments: Arguments) -> Value:
        """``self.method(...)`` or ``self.child.method(...)``."""
        assert base.module is not None
        if base.module.is_list and name in ("items", "values", "keys"):
            return base
        if any(name in self.functions(one) for one in base.module.classes):
            return self.module_call(node, base, name, arguments)
        return self.make(Op.METHOD, node, (base, *arguments.positional), name, arguments.named)

    def functions(self, class_name: str) -> Mapping[str, FunctionFacts]:
        known = self.facts.classes.get(local_class(class_name))
        return {} if known is None else known.functions

    def module_call(self, node: cst.Call, callee: Value, function: str, arguments: Arguments) -> Value:
        assert callee.module is not None
        results: list[Value] = []
        frames: list[Frame] = []
        if callee.module.is_list:
            results = self.sequence(node, callee, callee.module, arguments)
        for class_name in () if callee.module.is_list else callee.module.classes:
            entry = self.functions(class_name).get(function)
            if entry is not None:
                frames.append(Frame(local_class(class_name), function, entry.owner, callee.name, self.frame.depth + 1))
                results += self.enter(entry.node, frames[-1], callee.module.classes, arguments)
        through = self.join(node, results) if results else None
        is_helper = callee.op is Op.SELF
        name = function if is_helper else callee.name
        op = Op.HELPER if is_helper else Op.SUBMODULE
        module = None if is_helper else callee.module
        value = self.make(op, node, arguments.positional, name, arguments.named, through, module)
        self.flow.calls.update(dict.fromkeys(frames, value))
        return value

    def sequence(self, node: cst.Call, callee: Value, kind: ModuleKind, arguments: Arguments) -> list[Value]:
        """The call of an nn.Sequential: its elements one after the other."""
        steps = [(str(index), (name,)) for index, name in enumerate(kind.classes)]
        value: Value | None = None
        for index, classes in steps if kind.ordered else [("*", kind.classes)]:
            element = self.make(Op.MODULE, node, name=f"{callee.name}.{index}", module=ModuleKind(classes))
            value = self.module_call(node, element, "forward", arguments)
            arguments = Arguments((value,))
        return [] if value is None else [value]

    def enter(
        self, function: cst.FunctionDef, frame: Frame, classes: tuple[str, ...], arguments: Arguments
    ) -> list[Value]:
        """What a function of the file returns; empty where it is running already."""
        key = (frame.class_name, frame.owner, frame.function, frame.path)
        if key in self.stack or frame.depth > MAX_DEPTH:
            return []
        return [_Tracer(self.facts, self.flow, frame, function, classes, self.stack).run(arguments)]

    def function_call(self, node: cst.Call, name: str, arguments: Arguments) -> Value:
        if name not in self.facts.functions:
            return self.handed_on(node, name, arguments)
        frame = Frame("", name, "", "", self.frame.depth + 1)
        results = self.enter(self.facts.functions[name], frame, (), arguments)
        through = results[0] if results else None
        value = self.make(Op.FUNCTION, node, arguments.positional, name, arguments.named, through)
        self.flow.calls[frame] = value
        return value

    def handed_on(self, node: cst.Call, name: str, arguments: Arguments) -> Value:
        """A function from elsewhere. Given one of our methods, it calls that with the last of its own arguments."""
        first = arguments.positional[0] if arguments.positional else None
        if first is not None and first.op is Op.ATTRIBUTE and first.inputs[0].is_module:
            base = first.inputs[0]
            entry = self.functions(base.module.classes[0]).get(first.name) if base.module else None
            count = 0 if entry is None else len(entry.parameters)
            if 0 < count < len(arguments.positional):
                called = self.bound_call(node, base, first.name, Arguments(arguments.positional[-count:]))
                return self.make(Op.HELPER, node, arguments.positional, name, arguments.named, called)
        return self.make(Op.FUNCTION, node, arguments.positional, name, arguments.named)

    def super_call(self, node: cst.Call, name: str, arguments: Arguments) -> Value:
        results: list[Value] = []
        owner = self.facts.classes.get(self.frame.owner)
        for base in () if owner is None else owner.lineage[1:]:
            entry = self.functions(base).get(name)
            if entry is not None:
                frame = Frame(self.frame.class_name, name, entry.owner, self.frame.path, self.frame.depth + 1)
                results = self.enter(entry.node, frame, self.module_classes, arguments)
                break
        through = results[0] if results else None
        return self.make(Op.HELPER, node, arguments.positional, f"super().{name}", arguments.named, through)


def truth(value: Value) -> bool | None:
    """Whether a condition holds, where the text decides it."""
    known = _known(value)
    if known.op is not Op.CONSTANT or known.name not in ("True", "False", "None"):
        return None
    return known.name == "True"


def _known(value: Value) -> Value:
    """`value` behind parameters that got one argument for certain."""
    while value.op is Op.PARAMETER and value.through is not None and len(value.inputs) == 1:
        value = value.through
    return value


def _is_static(function: cst.FunctionDef) -> bool:
    return any(dotted_name(decorator.decorator) == "staticmethod" for decorator in function.decorators)


def _is_super(node: cst.BaseExpression) -> bool:
    return isinstance(node, cst.Call) and isinstance(node.func, cst.Name) and node.func.value == "super"


def _is_namespace(base: Value) -> bool:
    """``nn.functional`` in ``nn.functional.softmax(x)``: no value of this forward stands behind it."""
    while base.op is Op.ATTRIBUTE:
        base = base.inputs[0]
    return base.op is Op.GLOBAL


_HANDLERS: Mapping[type[cst.CSTNode], Callable[[_Tracer, Any], Value]] = {
    cst.Name: _Tracer.name_,
    cst.Integer: _Tracer.constant,
    cst.Float: _Tracer.constant,
    cst.SimpleString: _Tracer.constant,
    cst.FormattedString: _Tracer.opaque,
    cst.ConcatenatedString: _Tracer.opaque,
    cst.Ellipsis: _Tracer.constant,
    cst.Attribute: _Tracer.attribute,
    cst.Subscript: _Tracer.subscript,
    cst.Tuple: _Tracer.tuple_,
    cst.List: _Tracer.tuple_,
    cst.BinaryOperation: _Tracer.binary,
    cst.BooleanOperation: _Tracer.boolean,
    cst.IfExp: _Tracer.conditional,
    cst.UnaryOperation: _Tracer.unary,
    cst.Comparison: _Tracer.comparison,
    cst.NamedExpr: _Tracer.walrus,
    cst.ListComp: _Tracer.comprehension,
    cst.GeneratorExp: _Tracer.comprehension,
    cst.SetComp: _Tracer.comprehension,
    cst.DictComp: _Tracer.opaque,
    cst.Lambda: _Tracer.opaque,
    cst.Call: _Tracer.call,
}
