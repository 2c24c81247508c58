"""The table of `adapter_summary`: adapters, fusions and heads, what of them is trained, and what the model has in all."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from torch import nn

from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.contract.summary import SummaryRow
from adapter_runtime.methods.fusion.api import fusion_modules, fusions_in

_TITLES = ("Name", "Architecture", "#Param", "%Param", "Active", "Train")
_NUMBERS = frozenset({"#Param", "%Param", "Train"})


class _Counter:
    """Makes rows, and counts each parameter of a model once.

    Args:
        base_size: how many parameters the base model has without adapters and fusions.
    """

    def __init__(self, base_size: int) -> None:
        self.base_size = base_size
        self.total = self.total_train = 0
        self._seen: set[int] = set()

    def row(
        self, name: str, architecture: str | None, active: bool | None, parameters: Iterable[nn.Parameter]
    ) -> SummaryRow:
        """The row of a part of the model. Parameters that it shares with another part count in both rows, but once in all."""
        own = list({id(parameter): parameter for parameter in parameters}.values())
        new = [parameter for parameter in own if id(parameter) not in self._seen]
        self._seen |= {id(parameter) for parameter in new}
        self.total += _size(new)
        self.total_train += _size(_trained(new))
        size, trained = _size(own), _size(_trained(own))
        return {
            "name": name,
            "architecture": architecture,
            "#param": size,
            "%param": 100 * size / self.base_size if self.base_size else 0.0,
            "active": active,
            "train": trained > 0,
            "#train": trained,
        }


def _parameters(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    return [parameter for module in modules for parameter in module.parameters()]


def _not_in(others: Container[int], module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a module but for `others`, which are told by their ids."""
    return [parameter for parameter in module.parameters() if id(parameter) not in others]


def _size(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _trained(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [parameter for parameter in parameters if parameter.requires_grad]


def rows(model: AdaptedModel) -> list[SummaryRow]:
    """One row per adapter, and a last one for the base model, which holds those of fusions and heads.

    Weights of a head that are those of the base model count there.
    """
    base, state = model.adapters_base, model.adapters_config
    block = model.active_adapters
    adapters = {name: [parameter for _, parameter in base.adapter_parameters(name)] for name in state.adapters}
    fusions = {name: _parameters(fusion_modules(base, name)) for name in state.fusions}
    own = {id(parameter) for part in (*adapters.values(), *fusions.values()) for parameter in part}
    bare = {id(parameter): parameter for parameter in base.parameters() if id(parameter) not in own}
    counter = _Counter(_size(bare.values()))
    active = block.flatten() if block is not None else set()
    found = [
        counter.row(name, state.adapters[name].architecture or "bottleneck", name in active, parameters)
        for name, parameters in adapters.items()
    ]
    fused = {fuse.name for fuse in fusions_in(block)} if block is not None else set()
    fusion_rows = [counter.row(name, "fusion", name in fused, parameters) for name, parameters in fusions.items()]
    head_rows = [
        counter.row(head.name, f"{head.kind} head", head.is_active, _not_in(bare, head.module))
        for head in model.summarized_heads()
    ]
    full = counter.row("Full model", None, None, bare.values())
    full.update(
        {
            "fusions": fusion_rows,
            "heads": head_rows,
            "#total": counter.total,
            "#total_train": counter.total_train,
        }
    )
    return [*found, full]


def table(rows: Sequence[SummaryRow]) -> str:
    """The rows as text: adapters, fusions and heads; under a line the base model, and all together."""
    *adapters, full = rows
    parts = [*adapters, *full["fusions"], *full["heads"]]
    cells = [list(_TITLES), *(_cells(row) for row in (*parts, full))]
    cells.append(["In all", "", f"{full['#total']:,}", "", "", f"{full['#total_train']:,}"])
    widths = [max(len(line[column]) for line in cells) for column in range(len(_TITLES))]
    lines = [
        "  ".join(
            text.rjust(width) if title in _NUMBERS else text.ljust(width)
            for title, text, width in zip(_TITLES, line, widths, strict=True)
        ).rstrip()
        for line in cells
    ]
    rule = "-" * max(map(len, lines))
    return "\n".join([lines[0], rule, *lines[1:-2], *([rule] if parts else []), *lines[-2:]])


def _cells(row: SummaryRow) -> list[str]:
    active = {None: "", True: "yes", False: "no"}[row["active"]]
    size, share, trained = f"{row['#param']:,}", f"{row['%param']:.3f}", f"{row['#train']:,}"
    return [row["name"], row["architecture"] or "", size, share, active, trained]
