"""Facts about one upstream module: what ``parse`` hands to ``plan``.

Facts carry syntax-tree nodes (a plan does not): recognisers look at the nodes, and `ModuleFacts.location` turns a node
into a `Location`. Facts are what the text says, not what it means; meaning is the plan's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import libcst as cst

from adapter_codegen.model import Location
from adapter_codegen.parse.positions import Positions


@dataclass(frozen=True)
class Submodule:
    """``self.<name> = <construction>`` in a class's ``__init__``."""

    name: str
    classes: tuple[str, ...]  # classes that it may be an instance of; several if chosen by a condition or a dict
    container: (
        str  # "ModuleList", "Sequential", "ModuleDict": its elements have these classes; "" = it is the instance
    )
    conditional: bool  # assigned under an if, or may be None
    arguments: tuple[cst.Arg, ...]  # of the construction (of the first alternative)
    node: cst.CSTNode  # the construction
    places: tuple[tuple[str, ...], ...] = ()  # of a list that is written out: the classes that may stand at each index
    handed: tuple[
        tuple[str, Submodule], ...
    ] = ()  # local names among the arguments -> the module that each stands for

    @property
    def in_list(self) -> bool:
        """Whether `classes` are those of the elements and not of the submodule itself."""
        return bool(self.container)


@dataclass(frozen=True)
class FunctionFacts:
    name: str
    node: cst.FunctionDef
    parameters: tuple[str, ...]  # names without self, in order, those of *args and **kwargs included
    owner: str  # class that defines it (not the one that inherits it)


@dataclass(frozen=True)
class ClassFacts:
    """A class of the module. Bases outside the module are known by name only."""

    name: str
    node: cst.ClassDef
    bases: tuple[str, ...]  # as written: "nn.Module", "LlamaPreTrainedModel"
    lineage: tuple[str, ...]  # itself, then its bases in resolution order as far as the module shows them, as written
    submodules: Mapping[str, Submodule]  # inherited ones of the same module included
    functions: Mapping[str, FunctionFacts]  # inherited ones of the same module included, resolved by MRO
    attributes: Mapping[str, cst.BaseExpression]  # class-level assignments, inherited ones included: base_model_prefix


@dataclass(frozen=True)
class ModuleFacts:
    path: str
    text: str = field(repr=False)
    tree: cst.Module = field(repr=False)
    classes: Mapping[str, ClassFacts]
    functions: Mapping[str, cst.FunctionDef]  # module level
    assignments: Mapping[str, cst.BaseExpression]  # module level: a dict of attention classes
    imports: Mapping[
        str, str
    ]  # local name -> dotted origin: "nn" -> "torch.nn", "Cache" -> "transformers.cache_utils.Cache"

    @cached_property
    def _positions(self) -> Positions:
        return Positions(self.tree, self.text)

    def location(self, node: cst.CSTNode) -> Location:
        """Where a node of `tree` stands. The first question about a top-level statement costs a walk over it."""
        span = self._positions.range(node)
        return Location(self.path, span.start.line, span.start.column, span.end.line, span.end.column)

    def code(self, node: cst.CSTNode) -> str:
        """The source of a node of `tree`, stripped."""
        return self.tree.code_for_node(node).strip()

    def binds(self, name: str) -> bool:
        """Whether the module binds the name at its top level, so that it can be imported from there."""
        return any(name in bound for bound in (self.classes, self.functions, self.imports, self.assignments))

    def origin(self, name: str) -> str:
        """Where a name as written comes from: "nn.Linear" -> "torch.nn.Linear"; names of this module stay as they are."""
        first, _, rest = name.partition(".")
        found = self.imports.get(first, first)
        return f"{found}.{rest}" if rest else found
