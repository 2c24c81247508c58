"""What shows the form of hidden states, and what both places that may show it have in common."""

from __future__ import annotations

from dataclasses import dataclass

import libcst as cst

from adapter_codegen.model import StreamForm

RANK = 3  # batch, length, width


@dataclass(frozen=True, eq=False)
class Sign:
    """What shows a form."""

    form: StreamForm
    node: cst.CSTNode
    is_of_tokens: bool = False  # the tokens have it before they are embedded
