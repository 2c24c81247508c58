"""What little the plan of one file asks about another: its classes, what their forwards take, and the fields of its configs.

Python's own parser is asked, which is many times faster than the one that keeps the layout: a composite looks into several files.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from adapter_codegen.upstream import Release

_SUB_CONFIGS = ("sub_configs_defaults", "sub_configs")  # of configs, the second in earlier releases
_LISTS = frozenset({"ModuleList", "Sequential", "ModuleDict"})


@dataclass(frozen=True)
class Glance:
    """The classes of a file by name."""

    classes: Mapping[str, ast.ClassDef]
    has_lists: bool  # whether any module of the file may be a list of others

    def lineage(self, name: str) -> Iterator[str]:
        """A class and its bases as far as the file shows them, by their last names, depth first."""
        yield name
        for base in self.classes[name].bases if name in self.classes else ():
            parent = _last(base)
            if parent and parent != name:
                yield from self.lineage(parent)

    def is_model(self, name: str) -> bool:
        return any(base.endswith("PreTrainedModel") for base in self.lineage(name))

    def forward(self, name: str) -> tuple[str, ...]:
        """The parameters of the forward of a class, its own or an inherited one, without ``self``."""
        for known in self.lineage(name):
            for node in self.classes[known].body if known in self.classes else ():
                if isinstance(node, ast.FunctionDef) and node.name == "forward":
                    arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
                    return tuple(argument.arg for argument in arguments if argument.arg != "self")
        return ()

    def sub_configs(self, name: str) -> dict[str, str]:
        """Field -> class of the configs inside of a config, of those that are always of one class."""
        table = self._table(name)
        return {} if table is None else dict(_classes_of_configs(table))

    def default_types(self, name: str) -> dict[str, str]:
        """Field -> model type of the configs inside of a config, where it says which is made if none is given."""
        table = self._table(name)
        return {} if table is None else dict(_types_of_configs(table))

    def sub_config_names(self, name: str) -> frozenset[str]:
        """The fields of a config that are configs, of whichever class."""
        table = self._table(name)
        keys = [key.value for key in table.keys if isinstance(key, ast.Constant)] if table is not None else []
        return frozenset(key for key in keys if isinstance(key, str))

    def _table(self, name: str) -> ast.Dict | None:
        for known in self.lineage(name):
            for node in self.classes[known].body if known in self.classes else ():
                if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict) and _target(node) in _SUB_CONFIGS:
                    return node.value
        return None

    def names(self, name: str) -> frozenset[str]:
        """What the body of a class names: its fields, annotated or not, and its functions."""
        body = self.classes[name].body if name in self.classes else ()
        functions = {node.name for node in body if isinstance(node, ast.FunctionDef)}
        fields = {_last(node.target) for node in body if isinstance(node, ast.AnnAssign)}
        return frozenset(functions | fields | {_target(node) for node in body if isinstance(node, ast.Assign)})


def _classes_of_configs(table: ast.Dict) -> Iterator[tuple[str, str]]:
    """Of ``{"text_config": X, "vision_config": SubConfigSpec(config_class=Y, ...)}``; `AutoConfig` stands for any class."""
    for key, value in zip(table.keys, table.values, strict=True):
        stated = (
            [one.value for one in value.keywords if one.arg == "config_class"]
            if isinstance(value, ast.Call)
            else [value]
        )
        name = _last(stated[0]) if stated else ""
        if isinstance(key, ast.Constant) and isinstance(key.value, str) and name not in ("", "AutoConfig"):
            yield key.value, name


def _types_of_configs(table: ast.Dict) -> Iterator[tuple[str, str]]:
    """Of ``{"text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"), ...}``."""
    for key, value in zip(table.keys, table.values, strict=True):
        keywords = value.keywords if isinstance(value, ast.Call) else []
        stated = next((one.value for one in keywords if one.arg == "model_type"), None)
        if isinstance(key, ast.Constant) and isinstance(stated, ast.Constant) and isinstance(stated.value, str):
            yield str(key.value), stated.value


@lru_cache(maxsize=64)
def glance(release: Release, path: str) -> Glance:
    """Look at the file at `path`. Raises what `Release.read` raises, and SyntaxError."""
    tree = ast.parse(release.read(path))
    classes = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    return Glance(classes, any(_last(node) in _LISTS for node in ast.walk(tree) if isinstance(node, ast.expr)))


def _last(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _target(node: ast.Assign) -> str:
    return _last(node.targets[0])
