"""Which modules an ``__init__`` puts on ``self``.

`Constructor` walks the statements of an ``__init__`` in order and keeps what is known so far: the submodules, and the
local names that hold classes or modules. Branches are walked apart and joined again. It evaluates no conditions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import libcst as cst

from adapter_codegen.parse.facts import Submodule
from adapter_codegen.parse.syntax import assignment, dotted_name, is_none, literal_string, self_attribute, statements

CONTAINERS = frozenset({"ModuleList", "Sequential", "ModuleDict"})
_NOT_MODULES = frozenset({"Parameter", "Buffer", "ParameterList", "ParameterDict"})
_FACTORIES = frozenset({"from_config", "_from_config", "from_pretrained"})
LOAD_BACKBONE = "load_backbone"  # upstream's function that makes the model which the config names as its backbone
_CARRIERS = frozenset({"OrderedDict", "list", "dict", "tuple", "deepcopy", "copy.deepcopy", "copy.copy"})
_GIVE_THEMSELVES = frozenset({"eval", "requires_grad_"})  # methods of modules that are called on what is just built
_MAX_CALLS = 4  # how deep helper functions that build modules are followed


@dataclass(frozen=True)
class Scope:
    """What the module around the class says."""

    classes: Mapping[str, cst.ClassDef]
    functions: Mapping[str, cst.FunctionDef]
    assignments: Mapping[str, cst.BaseExpression]
    imports: Mapping[str, str]

    def origin(self, name: str) -> str:
        first, _, rest = name.partition(".")
        found = self.imports.get(first, first)
        return f"{found}.{rest}" if rest else found


@dataclass(frozen=True)
class Built:
    """What an expression builds. No classes: it may be None and nothing else."""

    classes: tuple[str, ...]
    node: cst.CSTNode
    arguments: tuple[cst.Arg, ...] = ()
    container: str = ""
    optional: bool = False
    is_list: bool = False  # a list of modules that no container holds yet
    places: Places | None = None  # of a list: the classes of each element; None: no list, or not known
    handed: tuple[tuple[str, Built], ...] = ()  # local names among the arguments, each with what it holds

    def joined(self, other: Built | None) -> Built:
        """What is built by either of two."""
        if other is None:
            return self
        first = self if self.classes else other
        classes = tuple(dict.fromkeys((*self.classes, *other.classes)))
        container = self.container or other.container
        optional = self.optional or other.optional
        places = _either(self.places, other.places)
        is_list = self.is_list or other.is_list
        return replace(first, classes=classes, container=container, optional=optional, is_list=is_list, places=places)

    def extended(self, other: Built, places: Places | None) -> Built:
        """A list with more elements, which stand at `places` behind those that it has."""
        known = None if self.places is None or places is None else (*self.places, *places)
        return replace(self.joined(replace(other, optional=False)), is_list=self.is_list, places=known)


Places = tuple[tuple[str, ...], ...]
_Known = tuple[dict[str, Built], dict[str, tuple[str, ...]], dict[str, Built]]


class Constructor:
    """Walks one ``__init__`` (or helper). `submodules` is its result."""

    def __init__(self, scope: Scope, method: Callable[[str], cst.FunctionDef | None], depth: int = 0) -> None:
        self.scope = scope
        self.method = method  # a method of the class by name: helpers that __init__ calls are walked too
        self.depth = depth
        self.submodules: dict[str, Built] = {}
        self.classes: dict[str, tuple[str, ...]] = {}  # local name -> classes that it may stand for
        self.locals: dict[str, Built] = {}  # local name -> modules that it may hold
        self.returned: Built | None = None
        self.loops = 0  # around the statement

    def walk(self, function: cst.FunctionDef) -> None:
        for parameter in (*function.params.params, *function.params.kwonly_params):
            if parameter.default is not None:
                self._learn_class(parameter.name.value, parameter.default)
            if self.depth == 0 and (built := self._annotated(parameter)) is not None:
                self.locals[parameter.name.value] = built
        self._block(function.body)

    def _annotated(self, parameter: cst.Param) -> Built | None:
        """The module that an ``__init__`` is given, where the annotation says of which class: one of this file, or of torch's."""
        name = dotted_name(parameter.annotation.annotation) if parameter.annotation is not None else ""
        is_torch = self.scope.origin(name).startswith("torch.nn.") and self.scope.origin(name) != "torch.nn.Module"
        if name not in self.scope.classes and not (is_torch and self._is_module_class(name)):
            return None
        return Built((name,), parameter, optional=parameter.default is not None)

    # Statements

    def _block(self, body: cst.BaseSuite) -> None:
        for statement in statements(body):
            self._statement(statement)

    def _statement(self, node: cst.CSTNode) -> None:
        assigned = assignment(node)
        if assigned is not None:
            for target in assigned[0]:
                self._assign(target, assigned[1])
        elif isinstance(node, cst.AugAssign):
            built = self.build(node.value)
            self._add_to(node.target, built, built.places if built else None)
        elif isinstance(node, cst.If):
            self._branches(node)
        elif isinstance(node, cst.For | cst.While):
            self.loops += 1
            self._block(node.body)
            self.loops -= 1
        elif isinstance(node, cst.With | cst.Try):
            self._block(node.body)
        elif isinstance(node, cst.Del):
            self.submodules.pop(self_attribute(node.target), None)
        elif isinstance(node, cst.Return) and node.value is not None:
            built = self.build(node.value)
            self.returned = built.joined(self.returned) if built else self.returned
        elif isinstance(node, cst.Expr) and isinstance(node.value, cst.Call):
            self._call(node.value)

    def _assign(self, target: cst.BaseExpression, value: cst.BaseExpression) -> None:
        if isinstance(target, cst.Tuple) and isinstance(value, cst.Tuple):
            for name, part in zip(target.elements, value.elements, strict=False):
                self._assign(name.value, part.value)
            return
        built = self.build(value)
        attribute = self_attribute(target)
        if attribute:
            self._set(attribute, built)
        elif isinstance(target, cst.Subscript):
            self._add_to(target.value, built)
        elif isinstance(target, cst.Name):
            self._learn_class(target.value, value)
            self.locals.pop(target.value, None)
            if built is not None:
                self.locals[target.value] = built

    def _set(self, attribute: str, built: Built | None) -> None:
        self.submodules.pop(attribute, None)  # in any case: a later assignment replaces the earlier one
        if built is not None:
            self.submodules[attribute] = built

    def _add_to(self, target: cst.BaseExpression, built: Built | None, places: Places | None = None) -> None:
        """``target.append(built)`` or ``target += [built]``. How often that runs in a loop is not known."""
        known, key = self.submodules, self_attribute(target)
        if not key and isinstance(target, cst.Name):
            known, key = self.locals, target.value
        if key in known:
            known[key] = known[key].extended(built or Built((), target), None if self.loops else places)

    def _call(self, call: cst.Call) -> None:
        """A call for its effect: setattr, add_module, append, or a helper method."""
        name = dotted_name(call.func)
        values = [argument.value for argument in call.args]
        if name == "setattr" and len(values) == 3 and isinstance(values[0], cst.Name) and values[0].value == "self":
            self._set_named(values[1], values[2])
        elif name in {"self.add_module", "self.register_module"} and len(values) == 2:
            self._set_named(values[0], values[1])
        elif isinstance(call.func, cst.Attribute) and call.func.attr.value in {
            "append",
            "extend",
            "insert",
            "add_module",
        }:
            if values:
                built = self.build(values[-1])
                self._add_to(call.func.value, built, _places_added(call.func.attr.value, built))
        else:
            self._follow(call)

    def _set_named(self, name: cst.BaseExpression, value: cst.BaseExpression) -> None:
        literal = literal_string(name)
        if literal is not None:
            self._set(literal, self.build(value))

    def _branches(self, node: cst.If) -> None:
        before = self._known()
        self._block(node.body)
        taken = self._known()
        self.submodules, self.classes, self.locals = before
        if isinstance(node.orelse, cst.If):
            self._branches(node.orelse)
        elif node.orelse is not None:
            self._block(node.orelse.body)
            if _raises(node.orelse.body):
                self.submodules, self.classes, self.locals = taken
                return
        if _raises(node.body):
            return
        self.submodules = _join(taken[0], self.submodules)
        self.locals = _join(taken[2], self.locals)
        for name, classes in taken[1].items():
            self.classes[name] = tuple(dict.fromkeys((*classes, *self.classes.get(name, ()))))

    def _known(self) -> _Known:
        return dict(self.submodules), dict(self.classes), dict(self.locals)

    # Expressions

    def build(self, node: cst.BaseExpression) -> Built | None:
        """The modules that an expression builds; None for an expression that builds none."""
        if is_none(node):
            return Built((), node, optional=True)
        if isinstance(node, cst.Name):
            return self.locals.get(node.value)
        if isinstance(node, cst.IfExp):
            body, orelse = self.build(node.body), self.build(node.orelse)
            return body.joined(orelse) if body else orelse
        if isinstance(node, cst.List | cst.Tuple | cst.Dict | cst.BaseComp | cst.BinaryOperation):
            return self._all(node, _elements(node))
        if isinstance(node, cst.Subscript):
            return self._activation(node)
        return self._build_call(node) if isinstance(node, cst.Call) else None

    def _all(self, node: cst.CSTNode, parts: Iterable[cst.BaseExpression]) -> Built:
        """A list of whatever the parts build; an empty list counts, since it may be appended to."""
        repeated = isinstance(node, cst.BaseComp | cst.Dict) or _is_product(node)
        result = Built((), node, is_list=True, places=None if repeated else ())
        for part in parts:
            built = self.build(part)
            unknown: Places | None = ((),) if _is_one_module(part, node) else None
            result = result.extended(built or Built((), part), _places_of(built) if built else unknown)
        return result

    def _activation(self, node: cst.Subscript) -> Built | None:
        name = dotted_name(node.value)
        known = self.scope.origin(name).startswith("transformers.activations.")
        return Built((name,), node) if known else None

    def _build_call(self, call: cst.Call) -> Built | None:
        name = dotted_name(call.func)
        values = [argument.value for argument in call.args]
        last = name.rpartition(".")[2]
        if isinstance(call.func, cst.Attribute) and call.func.attr.value in _GIVE_THEMSELVES and not name:
            return self.build(call.func.value)
        if last in CONTAINERS and name not in self.scope.classes:
            listed = self._listed(values)
            held = self._all(call, values) if listed is None else listed
            return replace(held, node=call, container=last, is_list=False)
        if last in _FACTORIES:
            owner = name.rpartition(".")[0]
            return Built((owner if owner in self.scope.classes else name,), call, tuple(call.args))
        if self.scope.origin(name) == "transformers.activations.get_activation":
            return Built(("ACT2FN",), call, tuple(call.args))  # the same table, asked by a function
        if self._loads_backbone(name):
            return Built((LOAD_BACKBONE,), call, tuple(call.args))
        if name in _CARRIERS or self.scope.origin(name).startswith("torch.nn.utils."):
            carried = self.build(values[0]) if len(values) == 1 else self._all(call, values)
            is_named = last in ("OrderedDict", "dict")
            return replace(carried, places=None) if carried is not None and is_named else carried
        classes = self.class_names(call.func)
        if classes:
            return Built(classes, call, tuple(call.args), handed=tuple(self._handed(call)))
        return self._follow(call)

    def _handed(self, call: cst.Call) -> Iterator[tuple[str, Built]]:
        for argument in call.args:
            name = argument.value.value if isinstance(argument.value, cst.Name) else ""
            if name in self.locals and self.locals[name].classes:
                yield name, self.locals[name]

    def _listed(self, values: Sequence[cst.BaseExpression]) -> Built | None:
        """The list that ``self.blocks`` is before ``nn.ModuleList(self.blocks)`` takes its place."""
        built = self.submodules.get(self_attribute(values[0])) if len(values) == 1 else None
        return built if built is not None and built.is_list else None

    def _loads_backbone(self, name: str) -> bool:
        module, _, function = self.scope.origin(name).rpartition(".")
        return function == LOAD_BACKBONE and module.startswith("transformers.")

    def class_names(self, node: cst.BaseExpression) -> tuple[str, ...]:
        """The classes that an expression may stand for: ``X``, ``nn.X``, ``A if c else B``, ``MAP[key]``."""
        if isinstance(node, cst.IfExp):
            return tuple(dict.fromkeys((*self.class_names(node.body), *self.class_names(node.orelse))))
        if isinstance(node, cst.Subscript):
            built = self._activation(node)
            return built.classes if built else self._dict_values(node.value)
        if isinstance(node, cst.Call):
            return self._called_class(node)
        name = dotted_name(node)
        if name in self.classes:
            return self.classes[name]
        return (name,) if self._is_module_class(name) else ()

    def _called_class(self, call: cst.Call) -> tuple[str, ...]:
        """``MAP.get(key, default)`` and ``partial(Class, ...)``."""
        arguments = [argument.value for argument in call.args]
        if isinstance(call.func, cst.Attribute) and call.func.attr.value == "get":
            found = self._dict_values(call.func.value)
            return tuple(dict.fromkeys((*found, *(self.class_names(arguments[1]) if len(arguments) > 1 else ()))))
        if dotted_name(call.func) in {"partial", "functools.partial"} and arguments:
            return self.class_names(arguments[0])
        return ()

    def _dict_values(self, node: cst.BaseExpression) -> tuple[str, ...]:
        table = self.scope.assignments.get(dotted_name(node))
        table = node if isinstance(node, cst.Dict) else table
        if not isinstance(table, cst.Dict):
            return ()
        found = [name for element in table.elements for name in self.class_names(element.value)]
        return tuple(dict.fromkeys(found))

    def _is_module_class(self, name: str) -> bool:
        """Upstream's convention that classes, and only they, begin with a capital, with torch's exceptions."""
        if name in self.scope.classes:  # CLIPMLP is all capitals, and a class
            return True
        last = name.rpartition(".")[2].lstrip("_")
        if not last or not last[0].isupper() or (last.isupper() and len(last) > 4) or last in _NOT_MODULES:
            return False
        origin = self.scope.origin(name)
        return not origin.startswith("torch.") or origin.startswith("torch.nn.")

    def _learn_class(self, name: str, value: cst.BaseExpression) -> None:
        self.classes.pop(name, None)
        classes = self.class_names(value)
        if classes:
            self.classes[name] = classes

    def _follow(self, call: cst.Call) -> Built | None:
        """A helper: what it puts on self is put on self, what it returns is returned."""
        method = self_attribute(call.func)
        function = self.method(method) if method else self.scope.functions.get(dotted_name(call.func))
        if function is None or method == "post_init" or self.depth >= _MAX_CALLS:
            return None
        inner = Constructor(self.scope, self.method, self.depth + 1)
        for parameter, argument in zip(function.params.params[1 if method else 0 :], call.args, strict=False):
            built = self.build(argument.value) if argument.keyword is None else None
            if built is not None:
                inner.locals[parameter.name.value] = built
        inner.walk(function)
        if method:
            self.submodules.update(inner.submodules)
        return inner.returned


def as_submodules(built: Mapping[str, Built]) -> dict[str, Submodule]:
    return {name: _as_submodule(name, value) for name, value in built.items() if value.classes}


def _as_submodule(name: str, built: Built) -> Submodule:
    handed = tuple((local, _as_submodule(local, value)) for local, value in built.handed)
    places = _submodule_places(built)
    return Submodule(name, built.classes, built.container, built.optional, built.arguments, built.node, places, handed)


def _submodule_places(built: Built) -> Places:
    return built.places or () if built.container in ("ModuleList", "Sequential") else ()


def _places_of(built: Built) -> Places | None:
    """The places that an element of a list display takes: its own, or those of a list in it."""
    if built.container or not built.classes:  # a list of its own, or no module that is known
        return None if built.container else built.places
    return built.places if built.is_list else (built.classes,)


def _is_one_module(part: cst.BaseExpression, node: cst.CSTNode) -> bool:
    """Whether a part of a list display, or of an nn.Sequential's arguments, is one module, whatever it builds."""
    if isinstance(node, cst.Call):
        is_list = dotted_name(node.func).endswith("ModuleList")
        return not is_list and any(argument.value is part and not argument.star for argument in node.args)
    elements = node.elements if isinstance(node, cst.List | cst.Tuple) else ()
    return any(element.value is part and isinstance(element, cst.Element) for element in elements)


def _places_added(method: str, built: Built | None) -> Places | None:
    """The places behind a list that a call of one of its methods adds."""
    if method == "append" and built is not None and built.classes and not built.container:
        return (built.classes,)
    return built.places if method == "extend" and built is not None else None


def _either(one: Places | None, other: Places | None) -> Places | None:
    """The places of a list that is one of two: element by element, or of the longer one, where it begins as the other."""
    if one is None or other is None:
        return None
    if len(one) == len(other):
        pairs = zip(one, other, strict=True)
        return tuple(tuple(dict.fromkeys((*left, *right))) for left, right in pairs)
    longer, shorter = (one, other) if len(one) > len(other) else (other, one)
    return longer if longer[: len(shorter)] == shorter else None


def _is_product(node: cst.CSTNode) -> bool:
    """``[layer] * 3``: how many there are is not known."""
    return isinstance(node, cst.BinaryOperation) and not isinstance(node.operator, cst.Add)


def _elements(node: cst.BaseExpression) -> list[cst.BaseExpression]:
    if isinstance(node, cst.List | cst.Tuple | cst.Dict):
        return [element.value for element in node.elements]
    if isinstance(node, cst.ListComp | cst.GeneratorExp | cst.SetComp):
        return [node.elt]
    if isinstance(node, cst.DictComp):
        return [node.value]
    if isinstance(node, cst.BinaryOperation):
        return [node.left, node.right]
    return []


def _join(one: Mapping[str, Built], other: Mapping[str, Built]) -> dict[str, Built]:
    """What is known after either of two branches."""
    joined: dict[str, Built] = {}
    for name in dict.fromkeys((*other, *one)):
        a, b = one.get(name), other.get(name)
        if a is not None and b is not None:
            joined[name] = a if a is b else a.joined(b)
        else:
            present = a if a is not None else b
            assert present is not None
            joined[name] = replace(present, optional=True)
    return joined


def _raises(body: cst.BaseSuite) -> bool:
    return any(isinstance(statement, cst.Raise) for statement in statements(body))
