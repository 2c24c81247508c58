"""Local names of a module -> dotted origins, with upstream's relative imports resolved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import libcst as cst

from adapter_codegen.parse.syntax import dotted_name


def imported_names(nodes: Iterable[cst.CSTNode], path: str) -> dict[str, str]:
    """Origins of the names that the import statements among `nodes` bind.

    ``from ...cache_utils import Cache`` in "models/llama/modeling_llama.py" gives Cache: transformers.cache_utils.Cache.
    """
    package = ["transformers", *path.split("/")[:-1]]
    found: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, cst.Import):
            found.update(_plain(node))
        elif isinstance(node, cst.ImportFrom):
            found.update(_from(node, package))
    return found


def _plain(node: cst.Import) -> Iterator[tuple[str, str]]:
    for alias in node.names:
        name = dotted_name(alias.name)
        if alias.asname is not None:
            yield dotted_name(alias.asname.name), name
        else:  # "import torch.nn" binds torch
            first = name.partition(".")[0]
            yield first, first


def _from(node: cst.ImportFrom, package: list[str]) -> Iterator[tuple[str, str]]:
    if isinstance(node.names, cst.ImportStar):
        return
    level = len(node.relative)
    parents = package[: len(package) - level + 1] if level else []
    module = ".".join([*parents, *([dotted_name(node.module)] if node.module else [])])
    for alias in node.names:
        name = dotted_name(alias.name)
        yield (dotted_name(alias.asname.name) if alias.asname else name), f"{module}.{name}"


def import_statement(name: str, origin: str) -> str:
    """``import torch``, ``from torch import nn``, ``import torch.nn.functional as F``."""
    module, _, last = origin.rpartition(".")
    if name == origin:
        return f"import {origin}"
    if not module:
        return f"import {origin} as {name}"
    return f"from {module} import {last}" if last == name else f"from {module} import {last} as {name}"
