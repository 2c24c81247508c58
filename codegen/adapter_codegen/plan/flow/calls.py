"""Calls: of submodules, helper methods, functions of the file, ``super()``, methods of tensors, and everything else."""

from __future__ import annotations

from collections.abc import Mapping

import libcst as cst

from adapter_codegen.parse.facts import FunctionFacts
from adapter_codegen.parse.syntax import dotted_name
from adapter_codegen.plan.flow.activation import Activation, Arguments
from adapter_codegen.plan.flow.modules import applied, find_submodule, held_function, local_class
from adapter_codegen.plan.flow.values import Frame, ModuleKind, Op, Value, same_tensor

CHECKPOINT = "torch.utils.checkpoint.checkpoint"
REGISTRY = "ALL_ATTENTION_FUNCTIONS"


def call(run: Activation, node: cst.Call) -> Value:
    arguments = _arguments(run, node)
    if isinstance(node.func, cst.Attribute):
        found = _attribute_call(run, node, node.func, arguments)
        if found is not None:
            return found
    callee = run.evaluate(node.func)
    if callee.is_module:
        return _module_call(run, node, callee, "forward", arguments)
    if callee.op is Op.GLOBAL and callee.name == "getattr" and arguments.positional:
        base = same_tensor(arguments.positional[0])
        if base.op is Op.GLOBAL and base.name == REGISTRY:
            return run.make(Op.INTERFACE, node, (base, *arguments.positional[1:]))
    if callee.op is Op.GLOBAL:
        return _function_call(run, node, callee.name, arguments)
    return run.make(Op.CALL, node, (callee, *arguments.positional), keywords=arguments.named)


def _arguments(run: Activation, node: cst.Call) -> Arguments:
    positional: list[Value] = []
    keywords: list[tuple[str, Value]] = []
    double_star: list[Value] = []
    for argument in node.args:
        value = run.evaluate(argument.value)
        if argument.star == "**":
            double_star.append(value)
        elif argument.star == "*":
            flat = same_tensor(value)
            known = flat.op is Op.TUPLE and not any(element.op is Op.STARRED for element in flat.inputs)
            positional.extend(flat.inputs if known else (run.make(Op.STARRED, argument, (value,)),))
        elif argument.keyword is not None:
            keywords.append((argument.keyword.value, value))
        else:
            positional.append(value)
    return Arguments(tuple(positional), tuple(keywords), tuple(double_star))


# What stands before the dot -------------------------------------------------------------------------------------------


def _attribute_call(run: Activation, node: cst.Call, function: cst.Attribute, arguments: Arguments) -> Value | None:
    """``base.name(...)``; None where `base` is a module that holds a submodule of that name, which is then called."""
    if _is_super(function.value):
        return _super_call(run, node, function.attr.value, arguments)
    base = run.evaluate(function.value)
    if base.op is Op.GLOBAL and base.name == REGISTRY:
        return run.make(Op.INTERFACE, node, (base, *arguments.positional))
    if not base.is_module:
        return _method_call(run, node, function, base, arguments)
    if find_submodule(run.facts, base.module.classes if base.module else (), function.attr.value) is None:
        return _bound_call(run, node, base, function.attr.value, arguments)
    return None


def _method_call(run: Activation, node: cst.Call, function: cst.Attribute, base: Value, arguments: Arguments) -> Value:
    """``tensor.method(...)`` or ``namespace.function(...)``."""
    if _is_namespace(base):
        name = dotted_name(function)
        if (forward := applied(run.facts, name)) is not None:
            return _applied_call(run, node, name, forward, arguments)
        if _is_checkpoint(name, arguments):
            return _checkpointed(run, node, arguments)
        return run.make(Op.FUNCTION, node, arguments.positional, name=name, keywords=arguments.named)
    inputs = (base, *arguments.positional)
    return run.make(Op.METHOD, node, inputs, name=function.attr.value, keywords=arguments.named)


def _bound_call(run: Activation, node: cst.Call, base: Value, name: str, arguments: Arguments) -> Value:
    """``self.method(...)``, ``self.child.method(...)``, or a function of the file that a module holds."""
    assert base.module is not None
    if base.module.is_list and name in ("items", "values", "keys"):
        return base
    if any(name in _functions(run, class_name) for class_name in base.module.classes):
        return _module_call(run, node, base, name, arguments)
    if function := held_function(run.facts, base.module.classes, name):
        return _function_call(run, node, function, arguments)
    return run.make(Op.METHOD, node, (base, *arguments.positional), name=name, keywords=arguments.named)


def _super_call(run: Activation, node: cst.Call, name: str, arguments: Arguments) -> Value:
    results: list[Value] = []
    owner = run.facts.classes.get(run.frame.owner)
    for base in () if owner is None else owner.lineage[1:]:
        entry = _functions(run, base).get(name)
        if entry is not None:
            frame = Frame(run.frame.class_name, name, entry.owner, run.frame.path, run.frame.depth + 1)
            results = run.enter(entry.node, frame, run.module_classes, arguments)
            break
    through = results[0] if results else None
    return run.make(Op.HELPER, node, arguments.positional, name=name, keywords=arguments.named, through=through)


def _functions(run: Activation, class_name: str) -> Mapping[str, FunctionFacts]:
    known = run.facts.classes.get(local_class(class_name))
    return {} if known is None else known.functions


def _is_super(node: cst.BaseExpression) -> bool:
    return isinstance(node, cst.Call) and isinstance(node.func, cst.Name) and node.func.value == "super"


def _is_namespace(base: Value) -> bool:
    """``nn.functional`` in ``nn.functional.softmax(x)``: no value of this forward stands behind it."""
    while base.op is Op.ATTRIBUTE:
        base = base.inputs[0]
    return base.op is Op.GLOBAL


# What is entered ------------------------------------------------------------------------------------------------------


def _module_call(run: Activation, node: cst.Call, callee: Value, function: str, arguments: Arguments) -> Value:
    """A method of a module: its own forward, or a helper. All classes that the module may have are entered."""
    assert callee.module is not None
    results: list[Value] = []
    frames: list[Frame] = []
    if callee.module.is_list:
        results = _sequence(run, node, callee, callee.module, arguments)
    for class_name in () if callee.module.is_list else callee.module.classes:
        entry = _functions(run, class_name).get(function)
        if entry is not None:
            frames.append(Frame(local_class(class_name), function, entry.owner, callee.path, run.frame.depth + 1))
            results += run.enter(entry.node, frames[-1], callee.module.classes, arguments)
    through = run.join(node, results) if results else None
    given, named = arguments.positional, arguments.named
    if callee.op is Op.SELF:
        value = run.make(Op.HELPER, node, given, name=function, keywords=named, through=through)
    else:
        known = callee.module
        value = run.make(Op.SUBMODULE, node, given, path=callee.path, keywords=named, through=through, module=known)
    run.flow.calls.update(dict.fromkeys(frames, value))
    return value


def _sequence(run: Activation, node: cst.Call, callee: Value, kind: ModuleKind, arguments: Arguments) -> list[Value]:
    """The call of an nn.Sequential: its elements one after the other."""
    steps = [(str(index), classes) for index, classes in enumerate(kind.places)]
    value: Value | None = None
    for index, classes in steps or [("*", kind.classes)]:
        element = run.make(Op.MODULE, node, path=f"{callee.path}.{index}", module=ModuleKind(classes))
        value = _module_call(run, node, element, "forward", arguments)
        arguments = Arguments((value,))
    return [] if value is None else [value]


def _function_call(run: Activation, node: cst.Call, name: str, arguments: Arguments) -> Value:
    if name not in run.facts.functions:
        return _handed_on(run, node, name, arguments)
    frame = Frame("", name, "", "", run.frame.depth + 1)
    results = run.enter(run.facts.functions[name], frame, (), arguments)
    through = results[0] if results else None
    value = run.make(Op.FUNCTION, node, arguments.positional, name=name, keywords=arguments.named, through=through)
    run.flow.calls[frame] = value
    return value


def _applied_call(run: Activation, node: cst.Call, name: str, forward: FunctionFacts, arguments: Arguments) -> Value:
    """``XSoftmax.apply(...)``, whose forward is given a context ahead of the arguments."""
    frame = Frame(name.removesuffix(".apply"), "forward", forward.owner, run.frame.path, run.frame.depth + 1)
    given = Arguments((run.other(node), *arguments.positional), arguments.keywords, arguments.double_star)
    results = run.enter(forward.node, frame, (), given)
    through = results[0] if results else None
    value = run.make(Op.FUNCTION, node, arguments.positional, name=name, keywords=arguments.named, through=through)
    run.flow.calls[frame] = value
    return value


def _is_checkpoint(name: str, arguments: Arguments) -> bool:
    return name == CHECKPOINT and bool(arguments.positional) and arguments.positional[0].is_module


def _checkpointed(run: Activation, node: cst.Call, arguments: Arguments) -> Value:
    """``torch.utils.checkpoint.checkpoint(self.layer, x)``: the module runs."""
    module, *rest = arguments.positional
    return _module_call(
        run, node, module, "forward", Arguments(tuple(rest), arguments.keywords, arguments.double_star)
    )


def _handed_on(run: Activation, node: cst.Call, name: str, arguments: Arguments) -> Value:
    """A function from elsewhere. Given one of our methods, it calls that with the last of its own arguments."""
    given, named = arguments.positional, arguments.named
    first = given[0] if given else None
    if first is not None and first.op is Op.ATTRIBUTE and first.inputs[0].is_module:
        base = first.inputs[0]
        entry = _functions(run, base.module.classes[0]).get(first.name) if base.module else None
        count = 0 if entry is None else len(entry.parameters)
        if 0 < count < len(given):
            called = _bound_call(run, node, base, first.name, Arguments(given[-count:]))
            return run.make(Op.HELPER, node, given, name=first.name, keywords=named, through=called)
    return run.make(Op.FUNCTION, node, given, name=name, keywords=named)
