"""Facts about one upstream module: what ``parse`` hands to ``plan``.

Facts carry syntax-tree nodes (a plan does not): recognisers look at the nodes, and `ModuleFacts.location` turns a node
into a `Location`. Facts are what the text says, not what it means; meaning is the plan's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider

from adapter_codegen.model import Location


@dataclass(frozen=True)
class Submodule:
    """``self.<name> = <construction>`` in a class's ``__init__``."""

    name: str
    classes: tuple[str, ...]  # classes that it may be an instance of; several if chosen by a condition or a dict
    in_list: bool  # the elements of an nn.ModuleList / nn.Sequential / nn.ModuleDict have these classes
    conditional: bool  # assigned under an if, or may be None
    arguments: tuple[cst.Arg, ...]  # of the construction (of the first alternative)
    node: cst.CSTNode  # the construction


@dataclass(frozen=True)
class FunctionFacts:
    name: str
    node: cst.FunctionDef
    parameters: tuple[str, ...]  # names without self
    owner: str  # class that defines it (not the one that inherits it)


@dataclass(frozen=True)
class ClassFacts:
    """A class of the module. Bases outside the module are known by name only."""

    name: str
    node: cst.ClassDef
    bases: tuple[str, ...]  # as written: "nn.Module", "LlamaPreTrainedModel"
    submodules: Mapping[str, Submodule]  # inherited ones of the same module included
    functions: Mapping[str, FunctionFacts]  # inherited ones of the same module included, resolved by MRO
    attributes: Mapping[str, cst.BaseExpression]  # class-level assignments: base_model_prefix, _tied_weights_keys


@dataclass(frozen=True)
class ModuleFacts:
    path: str
    text: str = field(repr=False)
    tree: cst.Module = field(repr=False)
    classes: Mapping[str, ClassFacts]
    functions: Mapping[str, cst.FunctionDef]  # module level
    imports: Mapping[str, str]  # local name -> dotted origin: "nn" -> "torch.nn", "Cache" -> "transformers.cache_utils.Cache"

    @cached_property
    def _positions(self) -> Mapping[cst.CSTNode, object]:
        return MetadataWrapper(self.tree, unsafe_skip_copy=True).resolve(PositionProvider)

    def location(self, node: cst.CSTNode) -> Location:
        """Where a node of `tree` stands."""
        span = self._positions[node]
        return Location(self.path, span.start.line, span.start.column, span.end.line, span.end.column)  # type: ignore[attr-defined]

    def code(self, node: cst.CSTNode) -> str:
        """The source of a node of `tree`, stripped."""
        return self.tree.code_for_node(node).strip()
