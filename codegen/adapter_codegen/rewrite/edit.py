"""The kinds of change that rules ask for. An edit holds nodes of upstream's tree; the driver finds them by identity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import libcst as cst

from adapter_codegen.model import Expression

if TYPE_CHECKING:
    from adapter_codegen.rewrite.copied import Copied

Operand = Callable[[Expression], cst.BaseExpression]  # a planned expression, with the edits inside of it made


@dataclass(frozen=True)
class Replace:
    """Put something in the place of an expression or of a small statement."""

    node: cst.CSTNode
    build: Callable[[Operand], cst.CSTNode]


@dataclass(frozen=True)
class Insert:
    """Put statements in front of a statement."""

    before: cst.CSTNode
    lines: tuple[str, ...]  # source, one statement each


@dataclass(frozen=True)
class Remove:
    """Take a statement out. `after` is the statement in front of it; both share one pair of marker comments."""

    node: cst.CSTNode
    after: cst.CSTNode


Edit = Replace | Insert | Remove
Rule = Callable[["Copied"], Iterator[Edit]]
