"""The table of `adapter_summary`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapter_runtime.model.api import ModelAdaptersMixin

_TITLES = {
    "name": "Name",
    "architecture": "Architecture",
    "#param": "#Param",
    "%param": "%Param",
    "active": "Active",
    "train": "Train",
}


def rows(model: ModelAdaptersMixin) -> list[dict[str, Any]]:
    """One row per adapter, and a last one for the full model."""
    base = model.adapters_base
    active = model.active_adapters.flatten() if model.active_adapters is not None else set()
    found: list[dict[str, Any]] = []
    own: set[int] = set()
    for name, config in model.adapters_config.adapters.items():
        parameters = [parameter for _, parameter in base.adapter_parameters(name)]
        own |= {id(parameter) for parameter in parameters}
        found.append(
            {
                "name": name,
                "architecture": config.architecture or "bottleneck",
                "#param": sum(parameter.numel() for parameter in parameters),
                "active": name in active,
                "train": any(parameter.requires_grad for parameter in parameters),
            }
        )
    bare = [parameter for parameter in base.parameters() if id(parameter) not in own]
    total = sum(parameter.numel() for parameter in bare)
    trained = any(parameter.requires_grad for parameter in bare)
    found.append({"name": "Full model", "architecture": None, "#param": total, "active": None, "train": trained})
    for row in found:
        row["%param"] = 100 * row["#param"] / total if total else 0.0
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text, the full model under a line."""
    cells = [list(_TITLES.values()), *([_cell(row[key]) for key in _TITLES] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_TITLES))]
    lines = [
        "  ".join(
            text.rjust(width) if key in ("#param", "%param") else text.ljust(width)
            for key, text, width in zip(_TITLES, line, widths, strict=True)
        ).rstrip()
        for line in cells
    ]
    rule = "-" * max(map(len, lines))
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
