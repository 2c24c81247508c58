"""What an attention core is, and what each kind of core has to say about itself.

A core is where keys and values meet queries. Prefix tuning lengthens keys and values there. That is safe only where
everything with a key dimension is known and grows too: so a kind of core recognises its cores, and claims each argument
and each thing that is added to the scores; what it does not claim refuses the core.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import libcst as cst

from adapter_codegen.model import Expression, Method
from adapter_codegen.plan.findings import Finding
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Frame, Value

PREFIX = (Method.PREFIX_TUNING,)  # what a core that is not claimed makes unavailable


class Reason(Enum):
    """What may keep a prefix out of the scores of a core. ``{}`` is the detail of a `Trouble`."""

    KERNEL = "the flash attention kernel is called directly"  # it knows no mask with a prefix
    SEVERAL_PRODUCTS = "the scores are made of several products"  # disentangled attention: no one key is the key
    WINDOWS = "windows of the scores are written into a larger tensor"
    SLICED = "a slice of the scores is taken"
    COMBINED = "the scores are combined with a tensor by `{}`"  # an operator
    ELSEWHERE = "another module gives the scores than attends"
    CALLED = "the scores go through `{}`"  # a function or method
    ADDED_FROM_ELSEWHERE = "`{}` is added to the scores and is no argument"  # code
    HIDDEN_BY = "`{}` hides keys, where a mask is given to the function that would be added"  # code


@dataclass(frozen=True, eq=False)
class Trouble:
    reason: Reason
    node: cst.CSTNode
    detail: str = ""

    def __str__(self) -> str:
        return self.reason.value.format(self.detail)


@dataclass(frozen=True, eq=False)
class Term:
    """Something that meets scores which are written out, and has a dimension of keys as they have."""

    value: Value
    node: cst.BaseExpression  # which stands for it where it meets them
    frame: Frame | None  # of that place; None: nothing else can stand there
    hides: bool = False  # true where a key is hidden (``masked_fill``); else it is added


@dataclass(frozen=True, eq=False)
class AttentionCore:
    """One attention core in a flow."""

    kind: CoreKind
    call: Value  # the call of a function that attends; else the first product, of queries and keys
    result: Value  # what holds the attended values: the call, or the second product
    query: Value
    key: Value
    value: Value
    # Expression of each argument, by its parameter: query, key, value, mask, ...; of written-out scores what the softmax is given
    nodes: dict[str, cst.BaseExpression]
    mask: Value | None = None
    further_keys: tuple[Value, ...] = ()  # of other products that the scores are a sum of
    terms: tuple[Term, ...] = ()  # what meets scores that are written out
    troubles: tuple[Trouble, ...] = ()  # what else happens to them

    @property
    def frame(self) -> Frame:
        """In which it attends; not that of a module in it that gives no more than the scores."""
        return self.result.frame if self.has_scores_elsewhere else self.call.frame

    @property
    def path(self) -> str:
        """Of the module that attends, from the layer."""
        return self.frame.path

    @property
    def has_scores_elsewhere(self) -> bool:
        """Whether a module inside of the one that attends gives the scores."""
        asking, giving = self.call.frame, self.result.frame
        inside = f"{giving.path}." if giving.path else ""
        return bool(giving.class_name) and asking.path != giving.path and asking.path.startswith(inside)


@dataclass(frozen=True)
class Claims:
    """What longer keys mean for a core."""

    against: tuple[Finding, ...] = ()  # what no rule claims; with any of these there is no prefix
    mask: Expression | None = None  # grows with the keys; None: the core is called without a mask
    biases: tuple[Expression, ...] = ()  # have a key dimension too, and grow with zeros in front
    late: tuple[
        Expression, ...
    ] = ()  # the same, of what is not known before the core: it grows where it meets the scores


@dataclass(frozen=True)
class Signs:
    """What the text of a class shows that may hold a core: a quick look, before any forward is followed."""

    names: frozenset[str] = frozenset()  # identifiers
    calls: frozenset[str] = frozenset()  # last parts of what is called: "softmax" of ``nn.functional.softmax(x)``
    modules: frozenset[str] = frozenset()  # classes of submodules


class CoreKind(ABC):
    """A way in which models attend. Each stands in a file of ``kinds/`` and in a line of ``table``."""

    name: ClassVar[str]  # as plans show it
    signs: ClassVar[Signs]
    may_hide_keys: ClassVar[bool] = False  # without a mask, what is called may hide later keys by itself
    has_fixed_layout: ClassVar[bool] = (
        False  # keys are (batch, heads, length, width), whether the text shows it or not
    )
    has_keys: ClassVar[bool] = True  # where it has none, there is nothing for a prefix to stand in front of
    projects: ClassVar[bool] = (
        False  # it projects what it is given by itself, so that no module around it plays a role
    )

    # All that the scores meet on their way is claimed: what else is made of the keys does not meet longer ones
    knows_scores: ClassVar[bool] = False

    @abstractmethod
    def recognise(self, value: Value, scene: Scene) -> Iterator[AttentionCore]:
        """The cores whose last step `value` is, if it is of this kind: the call, or the softmax."""

    @abstractmethod
    def claims(self, core: AttentionCore, scene: Scene) -> Claims:
        """What longer keys mean for a core that `recognise` gave."""
