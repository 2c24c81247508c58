"""The arrows between the packages, read from their source text.

    adapter_models  ->  adapter_runtime  ->  transformers, torch
    adapter_codegen ->  adapter_templates

The tool reads upstream as text: it never imports torch or transformers. Nothing that runs a model imports the tool.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "adapter_codegen": ROOT / "codegen" / "adapter_codegen",
    "adapter_runtime": ROOT / "codegen" / "adapter_runtime",
    "adapter_models": ROOT / "generated" / "adapter_models",
    "adapter_templates": ROOT / "templates" / "adapter_templates",
}

# Everything outside the standard library that a package may import. A new dependency is added here on purpose.
ALLOWED = {
    "adapter_codegen": {
        "adapter_codegen",
        "adapter_templates",
        "black",
        "click",
        "jinja2",
        "libcst",
        "packaging",
        "platformdirs",
        "rich",
        "tomli",
    },
    "adapter_runtime": {
        "adapter_runtime",
        "huggingface_hub",
        "numpy",
        "packaging",
        "safetensors",
        "torch",
        "transformers",
        "typing_extensions",
    },
    "adapter_models": {"adapter_models", "adapter_runtime", "torch", "transformers"},
    "adapter_templates": set(),
}


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Top-level package and line of every import, also of those inside functions and conditions.

    Relative imports stay inside their package and are left out.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.partition(".")[0], node.lineno
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0 and node.module:
                yield node.module.partition(".")[0], node.lineno


def foreign_imports(source: str, allowed: set[str]) -> list[tuple[str, int]]:
    return [
        (name, line)
        for name, line in imports(ast.parse(source))
        if name not in allowed and name not in sys.stdlib_module_names
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_package_imports_only_what_its_arrows_allow(package: str) -> None:
    files = sorted(PACKAGES[package].rglob("*.py"))
    assert files, f"{package} has moved: adapt PACKAGES"
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in files
        for name, line in foreign_imports(file.read_text(encoding="utf-8"), ALLOWED[package])
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("import torch", id="a plain import is seen"),
        pytest.param("from transformers.models import auto", id="an import of a submodule is seen"),
        pytest.param("def f():\n    import torch", id="an import inside a function is seen"),
        pytest.param("if TYPE_CHECKING:\n    from torch import nn", id="an import for type checkers only is seen"),
        pytest.param("import json, torch as t", id="the second name of an import is seen"),
    ],
)
def test_a_forbidden_import_is_found(source: str) -> None:
    assert len(foreign_imports(source, ALLOWED["adapter_codegen"])) == 1


# Code of the tool that decides by a model's name would be a rule for one model in disguise. Left out are short names and
# those that are words of their own here (a method of tensors is called "clip"; the tool's own name holds "codegen").
SHORTEST_TELLING_NAME = 4
WORDS = {"auto", "clip", "codegen", "deprecated"}


def upstream_model_types() -> set[str]:
    """The folders of transformers/models, which is how upstream names its architectures."""
    import transformers

    folders = (Path(transformers.__file__).parent / "models").iterdir()
    names = {folder.name for folder in folders if (folder / "__init__.py").is_file()}
    return {name for name in names if len(name) >= SHORTEST_TELLING_NAME} - WORDS


def strings_of_code(tree: ast.Module) -> Iterator[ast.Constant]:
    """Every string that code can act on: all constants but docstrings and help texts with spaces."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            if " " not in node.value.strip():
                yield node


def named_models(source: str, model_types: set[str]) -> list[tuple[str, int]]:
    """Model types in strings (as a word of their own) and as the beginning of class names ("LlamaAttention")."""
    tree = ast.parse(source)
    as_classes = {name.replace("_", "").lower() for name in model_types}
    found = []
    for node in strings_of_code(tree):
        words = re.split(r"[^A-Za-z0-9_]+", str(node.value))
        classes = [re.match(r"[A-Z][a-z0-9]+(?=[A-Z])", word) for word in words]
        if set(words) & model_types or any(match and match[0].lower() in as_classes for match in classes):
            found.append((str(node.value), node.lineno))
    return found


def test_the_tool_names_no_model_in_its_code() -> None:
    model_types = upstream_model_types()
    assert len(model_types) > 300, "transformers has moved its models: adapt this test"
    wrong = [
        f"{file.relative_to(ROOT)}:{line} names {text!r}"
        for file in sorted(PACKAGES["adapter_codegen"].rglob("*.py"))
        for text, line in named_models(file.read_text(encoding="utf-8"), model_types)
    ]
    assert not wrong, "decide by structure, or write an entry with a reason into overrides.toml:\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    ("source", "count"),
    [
        pytest.param('"""Made for llama."""', 0, id="a docstring may give an example"),
        pytest.param('help = "for example: add-model llama"', 0, id="a sentence for people may give an example"),
        pytest.param('x = "attention"', 0, id="a string without a model passes"),
        pytest.param('if model_type == "llama": pass', 1, id="a comparison with a model type is found"),
        pytest.param('x = "models/llama/modeling.py"', 1, id="a model type inside a path is found"),
        pytest.param('if name == "LlamaAttention": pass', 1, id="a class of one model is found"),
    ],
)
def test_a_named_model_is_found(source: str, count: int) -> None:
    assert len(named_models(source, {"llama", "bert"})) == count
