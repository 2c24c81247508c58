"""How a model inside a model is made, as the assignment says: by which class, and from which config."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import libcst as cst

from adapter_codegen.model import Making
from adapter_codegen.parse.construction import LOAD_BACKBONE
from adapter_codegen.parse.facts import ClassFacts, ModuleFacts, Submodule
from adapter_codegen.parse.syntax import assignment, descendants, dotted_name, self_attribute
from adapter_codegen.plan.parts.models import has_other_config, is_model

_AUTO = re.compile(
    r"Auto(Model(For\w+)?|Backbone)"
)  # as upstream calls its auto classes, which some functions import themselves
_ELSEWHERE = "transformers.models."
_FACTORIES = ("from_config", "_from_config", "from_pretrained")
_BACKBONE_CONFIG = "backbone_config"  # what upstream's function for backbones reads of a config


def making_of(facts: ModuleFacts, root: ClassFacts, submodule: Submodule, name: str) -> tuple[Making, str] | None:
    """How `submodule` is made where it is of the class `name`, and the class; None where it is no model of its own.

    Args:
        root: the class of the model around it.
    """
    if name == LOAD_BACKBONE:
        return Making.BACKBONE, ""
    owner, _, last = name.rpartition(".")
    owner = owner if last in _FACTORIES else name
    origin = facts.origin(owner)
    if owner not in facts.classes and _AUTO.fullmatch(origin.rpartition(".")[2]):
        return (Making.BACKBONE if origin.endswith("Backbone") else Making.AUTO), ""
    if owner in facts.classes:
        inner = facts.classes[owner]
        return (Making.OWN, owner) if is_model(facts, owner) and has_other_config(facts, inner, root) else None
    return (Making.IMPORTED, origin) if origin.startswith(_ELSEWHERE) else None


def auto_class(name: str) -> str:
    """``AutoModel`` of ``AutoModel.from_config``."""
    return "AutoBackbone" if name == LOAD_BACKBONE else name.split(".")[-2] if "." in name else name


def is_handed_in(known: ClassFacts, attribute: str) -> bool:
    """Whether ``__init__`` puts one of its own parameters there."""
    return attribute in _kept_parameters(known)


def _kept_parameters(known: ClassFacts) -> dict[str, str]:
    """Attribute -> the parameter of ``__init__`` that is put there, where that is the first thing that is."""
    init = known.functions.get("__init__")
    first: dict[str, str] = {}
    for node in descendants(init.node.body) if init is not None else ():
        targets, value = assignment(node) or ((), None)
        for attribute in filter(None, map(self_attribute, targets)):
            first.setdefault(attribute, value.value if isinstance(value, cst.Name) else "")
    return {name: value for name, value in first.items() if init is not None and value in init.parameters}


def handed_on(inner: ClassFacts, submodule: Submodule) -> Iterator[Submodule]:
    """The modules that an ``__init__`` is handed and keeps, under the names that it gives them.

    Args:
        inner: its class.
        submodule: what is built of that class.
    """
    given = {name: one.value for name, one in _given(inner, submodule.arguments).items()}
    modules = dict(submodule.handed)
    for attribute, parameter in _kept_parameters(inner).items():
        argument = given.get(parameter)
        if isinstance(argument, cst.Name) and argument.value in modules and attribute not in inner.submodules:
            yield replace(modules[argument.value], name=attribute)


def _given(inner: ClassFacts, arguments: tuple[cst.Arg, ...]) -> dict[str, cst.Arg]:
    """The arguments of an ``__init__`` by the names of its parameters."""
    init = inner.functions.get("__init__")
    names = init.parameters if init is not None else ()
    given = dict(zip(names, (one for one in arguments if one.keyword is None), strict=False))
    return given | {one.keyword.value: one for one in arguments if one.keyword is not None}


@dataclass(frozen=True)
class Configs:
    """Which names in an ``__init__`` stand for which config, by the path of it from the config of the whole model."""

    of: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of_root(known: ClassFacts) -> Configs:
        init = known.functions.get("__init__")
        given = {name: "" for name in init.parameters if name.endswith("config")} if init else {}
        return Configs(given).with_locals(known)

    def within(self, inner: ClassFacts, arguments: tuple[cst.Arg, ...]) -> Configs:
        """In the ``__init__`` of a class that is built with these arguments."""
        if "__init__" not in inner.functions:
            return Configs()
        paths = {name: self.path(argument.value) for name, argument in _given(inner, arguments).items()}
        return Configs({name: path for name, path in paths.items() if path is not None}).with_locals(inner)

    def with_locals(self, known: ClassFacts) -> Configs:
        """With the local names that are set to one of them."""
        init = known.functions.get("__init__")
        found = dict(self.of)
        for node in descendants(init.node.body) if init else ():
            targets, value = assignment(node) or ((), None)
            path = Configs(found).path(value) if value is not None else None
            for name in filter(None, map(dotted_name, targets)):
                if path is not None and found.get(name, path) == path:
                    found[name] = path
                elif (
                    path is not None or name not in self.of
                ):  # another config than before; what was given may be made here
                    found.pop(name, None)
        return Configs(found)

    def path(self, node: cst.BaseExpression) -> str | None:
        """The path of the config that an expression stands for; None where it is not followed."""
        name = dotted_name(node)
        if name.startswith("self.config") and name not in self.of:
            name = name.removeprefix("self.")
        first, rest = next(
            ((known, name[len(known) :]) for known in self._longest() if _begins(name, known)), ("", "")
        )
        if not first:
            return None
        return ".".join(filter(None, (self.of[first], rest.removeprefix("."))))

    def _longest(self) -> list[str]:
        return sorted(self.of, key=len, reverse=True)

    def made_from(self, name: str, arguments: tuple[cst.Arg, ...]) -> str | None:
        """The config that a model is made from, by the arguments of what makes it."""
        named = [one for one in arguments if one.keyword is not None and one.keyword.value == "config"]
        first = [one for one in arguments if one.keyword is None][:1]
        path = next((self.path(one.value) for one in (*named, *first)), None)
        if name == LOAD_BACKBONE and path is not None:
            return ".".join(filter(None, (path, _BACKBONE_CONFIG)))
        return path


def _begins(name: str, known: str) -> bool:
    return f"{name}.".startswith(f"{known}.")
