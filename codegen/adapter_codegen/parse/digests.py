"""Two digests of an upstream file: of its bytes, and of what its code does.

A new release changes most files as text and few in meaning. The manifest holds both digests, so that a check can tell
the one from the other: equal text, nothing to do; equal meaning, cosmetic drift; neither, the model has changed.

The digest of meaning is taken over libcst's tree, and not over that of Python's own ``ast``, whose shape differs from one
Python version to the next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import fields
from functools import cache

import libcst as cst

from adapter_codegen.parse.imports import imported_names

# Layout and typing: what does not change what the code does. A field is skipped when its name begins so.
_SKIPPED_FIELDS = (
    *("whitespace", "leading_lines", "lines_after_decorators", "header", "footer", "indent"),
    *("lpar", "rpar", "lbracket", "rbracket", "lbrace", "rbrace", "comma", "semicolon", "equal"),
    *("annotation", "returns", "type_parameters", "encoding", "default_", "has_trailing_newline"),
)


def text_digest(data: bytes) -> str:
    """sha256 of a file's bytes."""
    return hashlib.sha256(data).hexdigest()


def meaning_digest(source: str | cst.Module) -> str:
    """sha256 of a module's code without annotations, docstrings, comments, layout and imports that only they use.

    Args:
        source: the text of the module, or its tree where it is parsed already.
    """
    tree = cst.parse_module(source) if isinstance(source, str) else source
    body = [statement for statement in tree.body if not _is_import(statement)]
    tokens = _tokens(_without_docstring(body))
    used = set(tokens)
    tokens += sorted(f"import {origin}" for name, origin in _imports(tree) if name in used)
    return hashlib.sha256("\0".join(tokens).encode()).hexdigest()


def _tokens(roots: Sequence[cst.CSTNode]) -> list[str]:
    """The tree in prefix notation: names of node types, lengths of lists, and the values of leaves."""
    found: list[str] = []
    pending: list[object] = list(reversed(roots))
    while pending:
        item = pending.pop()
        if isinstance(item, cst.SimpleString):
            found.append(repr(item.evaluated_value))  # the kind of quotes is layout
        elif isinstance(item, cst.CSTNode):
            item = _plain(item)
            found.append(type(item).__name__)
            pending.extend(getattr(item, name) for name in reversed(_meaningful_fields(type(item))))
        elif isinstance(item, list | tuple):
            found.append(f"[{len(item)}")
            pending.extend(reversed(item))
        else:  # a leaf; one that is absent counts too: x[a:] is not x[:a]
            found.append(item if isinstance(item, str) else "-")
    return found


def _plain(node: cst.CSTNode) -> cst.CSTNode:
    """``x: T = value`` as ``x = value``; a block without its docstring; a body on one line as a block."""
    if isinstance(node, cst.AnnAssign) and node.value is not None:
        return cst.Assign((cst.AssignTarget(node.target),), node.value)
    if isinstance(node, cst.SimpleStatementSuite):  # "if x: return", on one line
        return cst.IndentedBlock((cst.SimpleStatementLine(node.body),))
    if isinstance(node, cst.IndentedBlock):
        return node.with_changes(body=_without_docstring(node.body))
    return node


def _without_docstring(body: Sequence[cst.BaseStatement]) -> tuple[cst.BaseStatement, ...]:
    first = body[0] if body else None
    if isinstance(first, cst.SimpleStatementLine) and isinstance(first.body[0], cst.Expr):
        if isinstance(first.body[0].value, cst.SimpleString | cst.ConcatenatedString):
            return tuple(body[1:])
    return tuple(body)


@cache
def _meaningful_fields(kind: type[cst.CSTNode]) -> tuple[str, ...]:
    names = (field.name for field in fields(kind))
    return tuple(name for name in names if not name.startswith(_SKIPPED_FIELDS))


def _is_import(node: cst.BaseStatement) -> bool:
    return isinstance(node, cst.SimpleStatementLine) and all(
        isinstance(part, cst.Import | cst.ImportFrom) for part in node.body
    )


def _imports(tree: cst.Module) -> list[tuple[str, str]]:
    """Names that the module imports at its top level, with their origins as written."""
    nodes = [part for line in tree.body if isinstance(line, cst.SimpleStatementLine) for part in line.body]
    return sorted(imported_names(nodes, "").items())
