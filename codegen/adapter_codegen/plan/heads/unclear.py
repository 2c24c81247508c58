"""Why a class of upstream's has no flexible head: what stands in its code that none does, and where.

Raised where it is met, and caught where the class is planned: what is said goes with it into the plan, the page of the model and ``explain``.
"""

from __future__ import annotations

from collections.abc import Iterable

import libcst as cst

from adapter_codegen.parse.facts import ModuleFacts

_LONGEST = 60


class Unclear(Exception):
    """The logits come from something that no flexible head does.

    Args:
        reason: in one sentence, where ``{}`` stands for the code of `node`.
        node: of the file that the class stands in; None where no place of it is at fault.
        precludes: types of flexible heads that cannot stand on the base model either, as the class shows.
    """

    def __init__(self, reason: str, node: cst.CSTNode | None = None, precludes: Iterable[str] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.node = node
        self.precludes = tuple(precludes)

    def told(self, facts: ModuleFacts) -> str:
        """The reason, with the code in it on one line."""
        if self.node is None or "{}" not in self.reason:
            return self.reason
        code = " ".join(facts.code(self.node).split())
        return self.reason.replace("{}", code if len(code) <= _LONGEST else f"{code[: _LONGEST - 3]}...")
