"""Of which config the modules of a head read: that of the whole model, or one in it, with which what holds them is made.

self.head = PredictionHead(config.text_config)       in the class with the head
self.dense = nn.Linear(config.hidden_size, ...)      in `PredictionHead`: ``config.text_config.hidden_size`` of the model
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import libcst as cst

from adapter_codegen.parse.facts import ClassFacts, ModuleFacts, Submodule
from adapter_codegen.parse.syntax import dotted_name
from adapter_codegen.plan.flow.modules import local_class
from adapter_codegen.plan.heads.logits.configs.given import given_to
from adapter_codegen.plan.heads.logits.factors import config_field

_CONFIG = "config"


def as_of_whole(facts: ModuleFacts, head: ClassFacts, path: str, submodule: Submodule) -> Submodule:
    """The submodule at a path below a class with a head, with ``config`` in its construction that of the whole model."""
    path_of_config = config_path(facts, head, path)
    if not path_of_config:
        return submodule
    inside = cst.parse_expression(f"config.{path_of_config}")
    arguments = [argument.visit(_Inside(inside)) for argument in submodule.arguments]
    node = submodule.node.visit(_Inside(inside))
    assert isinstance(node, cst.CSTNode)
    return replace(submodule, arguments=tuple(one for one in arguments if isinstance(one, cst.Arg)), node=node)


def config_path(facts: ModuleFacts, head: ClassFacts, path: str) -> str:
    """Where the config that a module at a path below a class reads lies in that of the class; "" where it is the same."""
    return ".".join(name for owner in _owners(facts, head, path) if (name := _config_of(owner)))


def as_given(facts: ModuleFacts, head: ClassFacts, path: str, submodule: Submodule) -> Submodule:
    """The submodule at a path below a class, with what the module that makes it was given in place of the names of its parameters.

    ``LMHead(size, words)`` with ``def __init__(self, size, words, bias=False)`` and ``nn.Linear(size, words, bias=bias)``. Of a config,
    `as_of_whole` tells; where the outer module stands deeper, names stay as they are.
    """
    first, _, rest = path.partition(".")
    owner = head.submodules.get(first)
    if owner is None or not rest or "." in rest:
        return submodule
    given = {name: value for name, value in given_to(facts, owner).items() if name != _CONFIG}
    arguments = [
        (
            argument.with_changes(value=given[argument.value.value])
            if isinstance(argument.value, cst.Name) and argument.value.value in given
            else argument
        )
        for argument in submodule.arguments
    ]
    return replace(submodule, arguments=tuple(arguments))


def _owners(facts: ModuleFacts, known: ClassFacts, path: str) -> Iterator[Submodule]:
    """The modules between a class and one at a path below it, the outer ones first."""
    first, _, rest = path.partition(".")
    submodule = known.submodules.get(first)
    if submodule is None or not rest:
        return
    yield submodule
    inner = [facts.classes[name] for name in map(local_class, submodule.classes) if name in facts.classes]
    if inner:
        yield from _owners(facts, inner[0], rest)


def _config_of(owner: Submodule) -> str:
    """The path, in the config of what holds it, of the config that a module is made with; "" where that is the same."""
    first = next(iter(owner.arguments), None)
    path = config_field(dotted_name(first.value)) if first is not None else ""
    return path if path.rpartition(".")[2].endswith("config") else ""


class _Inside(cst.CSTTransformer):
    """``config`` becomes a config in it."""

    def __init__(self, inside: cst.BaseExpression) -> None:
        super().__init__()
        self.inside = inside

    def leave_Attribute(self, original_node: cst.Attribute, updated_node: cst.Attribute) -> cst.BaseExpression:
        value = original_node.value
        is_config = isinstance(value, cst.Name) and value.value == "config"
        return updated_node.with_changes(value=self.inside) if is_config else updated_node
