"""What names are bound to: parameters to arguments, targets of assignments and loops to values."""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst

from adapter_codegen.parse.syntax import dotted_name
from adapter_codegen.plan.flow.activation import Activation, Arguments
from adapter_codegen.plan.flow.values import How, ModuleKind, Op, Value


def bind_parameters(run: Activation, arguments: Arguments) -> None:
    """Bind the parameters of the function to the arguments of its call; to nothing, where they are not given."""
    assert run.environment is not None
    parameters = run.function.params
    ordered = [*parameters.posonly_params, *parameters.params]
    by_name = dict(arguments.keywords)
    if run.frame.class_name and not _is_static(run.function) and ordered:
        module = ModuleKind(run.module_classes)
        itself = run.make(Op.SELF, ordered[0], path=run.frame.path, module=module)
        run.environment[ordered[0].name.value] = itself
        ordered = ordered[1:]
    rest = list(arguments.positional)
    for parameter in ordered:
        argument = by_name.pop(parameter.name.value, None)
        if argument is None and rest:  # a starred one stays for all that follow
            argument = rest[0] if rest[0].op is Op.STARRED else rest.pop(0)
        run.environment[parameter.name.value] = _parameter(run, parameter, argument, arguments)
    for parameter in parameters.kwonly_params:
        name = parameter.name.value
        run.environment[name] = _parameter(run, parameter, by_name.pop(name, None), arguments)
    _bind_rest(run, parameters, rest, (*by_name.values(), *arguments.double_star))


def _bind_rest(
    run: Activation, parameters: cst.Parameters, positional: Sequence[Value], named: Sequence[Value]
) -> None:
    """``*args`` and ``**kwargs``."""
    assert run.environment is not None
    star = parameters.star_arg
    if isinstance(star, cst.Param):
        run.environment[star.name.value] = run.make(Op.PARAMETER, star, positional, name=f"*{star.name.value}")
    if parameters.star_kwarg is not None:
        name = parameters.star_kwarg.name.value
        run.environment[name] = run.make(Op.PARAMETER, parameters.star_kwarg, named, name=f"**{name}")


def _parameter(run: Activation, parameter: cst.Param, argument: Value | None, arguments: Arguments) -> Value:
    name = parameter.name.value
    is_default = argument is None and run.frame.depth > 0 and parameter.default is not None
    if is_default and parameter.default is not None:
        argument = run.evaluate(parameter.default)
    if argument is None:
        return run.make(Op.PARAMETER, parameter, arguments.double_star, name=name)
    if argument.op is Op.STARRED:
        return run.make(Op.PARAMETER, parameter, (argument,), name=name)
    if argument.is_module:
        return argument
    maybe = arguments.double_star if is_default else ()  # what ``**kwargs`` may bring instead of the default
    return run.make(Op.PARAMETER, parameter, (argument, *maybe), name=name, through=argument)


def _is_static(function: cst.FunctionDef) -> bool:
    return any(dotted_name(decorator.decorator) == "staticmethod" for decorator in function.decorators)


def assign(run: Activation, target: cst.BaseExpression, value: Value) -> None:
    """``target = value``. What is no name, tuple of names or item of a name is left alone."""
    if run.environment is None:
        return
    if isinstance(target, cst.Name):
        run.environment[target.value] = value
    elif isinstance(target, (cst.Tuple, cst.List)):
        for index, element in enumerate(target.elements):
            starred = isinstance(element, cst.StarredElement)
            assign(run, element.value, item(run, element, value, "" if starred else str(index)))
    elif isinstance(target, cst.Subscript) and isinstance(target.value, cst.Name):
        before = run.environment.get(target.value.value)
        inputs = (value,) if before is None else (before, value)
        run.environment[target.value.value] = run.other(target, inputs, How.ITEM_ASSIGNMENT)


def item(run: Activation, node: cst.CSTNode, base: Value, index: str, indices: Sequence[Value] = ()) -> Value:
    """``base[index]``; the element itself is known where `base` is a tuple, whatever its alternatives."""
    found = _elements_at(base, index)
    through = run.join(node, found) if found else None
    if through is not None and through.is_module:  # ``for index, layer in enumerate(self.layers)``
        return through
    return run.make(Op.ITEM, node, (base, *indices), index=index, through=through)


def _elements_at(base: Value, index: str) -> list[Value]:
    """The elements at a place of all tuples that `base` may be; empty where it may be something else."""
    found: list[Value] = []
    for alternative in _alternatives(base):
        repeated = _repeated(alternative)
        if repeated is not None and index.isdigit():
            found.append(repeated)
            continue
        if index.isdigit() and int(index) < _count_of_first(alternative):
            first = _elements_at(alternative.inputs[0], index)
            if not first:
                return []
            found += first
            continue
        if alternative.op is not Op.TUPLE or not index.lstrip("-").isdigit():
            return []
        place, parts = int(index), alternative.inputs
        if _star_on_the_way(parts, place):
            return []
        if -len(parts) <= place < len(parts):
            found.append(parts[place])
    return found


def _count_of_first(value: Value) -> int:
    """2 of ``outputs[:2]``; 0 for all else."""
    part = value.node.slice[0].slice if isinstance(value.node, cst.Subscript) and value.op is Op.ITEM else None
    if not isinstance(part, cst.Slice) or part.lower is not None or part.step is not None:
        return 0
    return int(part.upper.value) if isinstance(part.upper, cst.Integer) else 0


def _repeated(value: Value) -> Value | None:
    """`x` of ``(x,) * 4``: each element is it."""
    parts = value.inputs[0].inputs if value.op is Op.BINARY and value.operator == "*" else ()
    is_one = len(parts) == 1 and value.inputs[0].op is Op.TUPLE and parts[0].op is not Op.STARRED
    return parts[0] if is_one else None


def _star_on_the_way(parts: Sequence[Value], index: int) -> bool:
    """Whether a part of unknown length stands between the end from which `index` counts and the element: ``(x, *rest)[0]``
    is `x`, ``(*rest, x)[0]`` may be anything."""
    counted = parts[: index + 1] if index >= 0 else parts[index:]
    reaches = len(counted) == (index + 1 if index >= 0 else -index)
    return any(part.op is Op.STARRED for part in (counted if reaches else parts))


def _alternatives(base: Value) -> list[Value]:
    while base.through is not None:
        base = base.through
    if base.op is Op.JOIN:
        return [leaf for alternative in base.inputs for leaf in _alternatives(alternative)]
    return [] if base.is_none else [base]


def element(run: Activation, node: cst.CSTNode, iterated: Value) -> Value:
    """What a loop binds its target to."""
    if iterated.is_module and iterated.module is not None and iterated.module.is_list:
        return list_element(run, node, iterated, iterated.module, "")
    if iterated.op is Op.FUNCTION and iterated.name in ("enumerate", "zip", "reversed") and iterated.inputs:
        parts = [element(run, node, argument) for argument in iterated.inputs]
        if iterated.name == "reversed":
            return parts[0]
        counter = [run.other(node, how=How.COUNTER)] if iterated.name == "enumerate" else []
        return run.make(Op.TUPLE, node, [*counter, *parts])
    return run.make(Op.ITEM, node, (iterated,))


def list_element(run: Activation, node: cst.CSTNode, base: Value, known: ModuleKind, index: str) -> Value:
    """An element of a list of modules: `index` where the text states it, else any of them."""
    classes, places = known.classes, known.places
    if index.lstrip("-").isdigit() and -len(places) <= int(index) < len(places):
        classes = places[int(index)]
    return run.make(Op.MODULE, node, path=f"{base.path}.{index or '*'}", module=ModuleKind(classes))
