"""What `adapter_summary` tells."""

from __future__ import annotations

from typing import NamedTuple, TypedDict

from torch import nn
from typing_extensions import NotRequired

# The first six keys are those of `adapters`, where "train" says whether anything of the row is trained.
SummaryRow = TypedDict(
    "SummaryRow",
    {
        "name": str,
        "architecture": str | None,
        "#param": int,
        "%param": float,  # of the parameters of the base model
        "active": bool | None,
        "train": bool,
        "#train": int,  # parameters that are trained
        # Of an adapter that lies in several parts of a model made of several: one row for each of these
        "parts": NotRequired[list["SummaryRow"]],
        # Of an adapter with which modules are trained along: one row for each name in its `also_train`
        "also_trained": NotRequired[list["SummaryRow"]],
        # Of the last row, which stands for the base model without adapters and fusions:
        "fusions": NotRequired[list["SummaryRow"]],
        "heads": NotRequired[list["SummaryRow"]],
        "without": NotRequired[list["SummaryRow"]],  # models inside of one made of several that get no adapters
        "reason": NotRequired[str],  # of one of these: why
        "#total": NotRequired[int],  # with all adapters, fusions and heads
        "#total_train": NotRequired[int],
    },
)


class HeadSummary(NamedTuple):
    """What the table says of a head."""

    name: str
    kind: str  # "classification", "causal_lm", ...
    is_active: bool
    module: nn.Module
