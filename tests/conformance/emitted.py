"""The text of generated modules, and the calls of adapters in it."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import adapter_models  # noqa: F401  registers what was generated
from adapter_runtime.contract.registry import registered

_SITE_CALLS = ("prepend_prefix", "bottleneck_layer_forward")


def modeling_module(model_type: str) -> str:
    """The generated module of a model type: that of the package which holds its classes, in the library or beside it."""
    package, _, _ = registered().adapter_models[model_type].rpartition(".adapter_model.")
    return f"{package}.modeling_{package.rpartition('.')[2]}"


def source_of(module: str) -> str:
    """Its text. Some models have mixins alone, as no forward of theirs was edited: then it is empty."""
    spec = importlib.util.find_spec(module)
    return Path(spec.origin).read_text(encoding="utf-8") if spec is not None and spec.origin is not None else ""


def is_site(node: ast.AST) -> bool:
    """Whether it is the call of a method that places adapters."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    name = node.func.attr
    return name in _SITE_CALLS or name.rstrip("0123456789_").endswith("_adapters")
