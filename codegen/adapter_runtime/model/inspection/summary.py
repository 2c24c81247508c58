"""The table of `adapter_summary`: adapters, fusions and heads, what of them is trained, and what the model has in all."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence

from torch import nn
from transformers import PreTrainedModel

from adapter_runtime.contract.protocol import AdaptedBaseModel, AdaptedModel
from adapter_runtime.contract.registry import registered
from adapter_runtime.contract.summary import SummaryRow
from adapter_runtime.methods.common.along.copies import TrainedAlong
from adapter_runtime.methods.common.along.naming import also_trained, is_named
from adapter_runtime.methods.fusion.api import fusion_modules, fusions_in

_TITLES = ("Name", "Architecture", "#Param", "%Param", "Active", "Train")
_NUMBERS = frozenset({"#Param", "%Param", "Train"})
NO_ADAPTERS = "no adapters"


def rows(model: AdaptedModel) -> list[SummaryRow]:
    """One row per adapter, and a last one for the base model, which holds those of fusions and heads.

    Weights of a head that are those of the base model count there. In a model made of several, the last one also says which models in it
    get no adapters.
    """
    base, state = model.adapters_base, model.adapters_config
    adapters = {name: [parameter for _, parameter in base.adapter_parameters(name)] for name in state.adapters}
    fusions = {name: _parameters(fusion_modules(base, name)) for name in state.fusions}
    own = {id(parameter) for part in (*adapters.values(), *fusions.values()) for parameter in part}
    bare = {id(parameter): parameter for parameter in base.parameters() if id(parameter) not in own}
    size = _size(bare.values())
    block = model.active_adapters
    active = block.flatten() if block is not None else set()
    fused = {fuse.name for fuse in fusions_in(block)} if block is not None else set()
    full = _row("Full model", None, None, bare.values(), size)
    full["fusions"] = [_row(name, "fusion", name in fused, part, size) for name, part in fusions.items()]
    full["heads"] = [
        _row(head.name, f"{head.kind} head", head.is_active, _not_in(bare, head.module), size)
        for head in model.summarized_heads()
    ]
    without = _without_adapters(base) | {path: model.get_submodule(path) for path in model.models_beside}
    if without:
        full["without"] = [
            {**_row(path, NO_ADAPTERS, None, inner.parameters(), size), "reason": _why_not(base, inner)}
            for path, inner in without.items()
        ]
    full["#total"], full["#total_train"] = _size(model.parameters()), _size(_trained(model.parameters()))
    found = []
    for name, part in adapters.items():
        kind = state.adapters[name].architecture or "bottleneck"
        found.append(_row(name, kind, name in active, part, size))
        inside = {path: own for path, own in _by_part(base, name).items() if own}
        if len(inside) > 1:
            shown = type(base).__name__  # of the layers that are in no part
            found[-1]["parts"] = [_row(path or shown, kind, name in active, own, size) for path, own in inside.items()]
        along = _trained_along(base, name)
        if along:
            found[-1]["also_trained"] = [_row(key, "copy", name in active, own, size) for key, own in along.items()]
    return [*found, full]


def _without_adapters(base: AdaptedBaseModel) -> dict[str, nn.Module]:
    """The models in one made of several that get no adapters, by their paths: for whose classes none were generated (BLIP's text), codecs.

    What has a config of the same type as the whole is a head of it, or stands between its parts.
    """
    parts = base.adapter_parts()
    if set(parts) == {""}:
        return {}
    inside = {module for path, part in parts.items() if path for module in part.get_submodule("").modules()}
    own = base.get_submodule("")
    found: dict[str, nn.Module] = {}
    for path, module in own.named_modules():
        if not isinstance(module, PreTrainedModel) or module is own or module in inside:
            continue
        is_around = not inside.isdisjoint(module.modules())
        is_of_own_type = module.config.model_type == base.config.model_type
        if not (is_around or is_of_own_type or any(path.startswith(f"{one}.") for one in found)):
            found[path] = module
    return found


def _why_not(base: AdaptedBaseModel, inner: nn.Module) -> str:
    """Why a model inside gets no adapters; more is said by ``adapter-codegen explain``."""
    cls = type(inner)
    registry = registered().of_type(inner.config.model_type) if isinstance(inner, PreTrainedModel) else registered()
    name = f"{cls.__module__}.{cls.__qualname__}"
    if name in registry.model_mixins or name in registry.with_adapters:
        return f"it is no part of a {type(base).__name__}, whose forward does not run it, or learns nothing there"
    return f"no adapter classes were generated for a {cls.__name__}"


def _by_part(base: AdaptedBaseModel, name: str) -> dict[str, list[nn.Parameter]]:
    """The parameters of an adapter in each part of a model, each once, without those of modules that are trained along."""
    found = {}
    for path, part in base.adapter_parts().items():
        layers = [layer for layer in part.adapter_layers() if not isinstance(layer, TrainedAlong)]
        modules = [module for layer in layers for _, module in layer.modules_of(name)]
        found[path] = list({id(parameter): parameter for parameter in _parameters(modules)}.values())
    return found


def _trained_along(base: AdaptedBaseModel, name: str) -> dict[str, list[nn.Parameter]]:
    """The parameters of the copies that an adapter has of modules, by the names in its config."""
    found: dict[str, list[nn.Parameter]] = {}
    names = also_trained(base.adapters_config.get(name))
    for layer in base.adapter_layers():
        if isinstance(layer, TrainedAlong) and name in layer:
            given = next(given for given in names if is_named(layer.location_key, given))
            found.setdefault(given, []).extend(layer[name].parameters())
    return found


def _row(
    name: str, architecture: str | None, active: bool | None, parameters: Iterable[nn.Parameter], base_size: int
) -> SummaryRow:
    """The row of a part of a model.

    Args:
        active: whether it runs; None where that makes no sense.
        parameters: of the part, each once.
        base_size: how many parameters the base model has without adapters and fusions.
    """
    own = list(parameters)
    size, trained = _size(own), _size(_trained(own))
    return {
        "name": name,
        "architecture": architecture,
        "#param": size,
        "%param": 100 * size / base_size if base_size else 0.0,
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


def table(rows: Sequence[SummaryRow]) -> str:
    """The rows as text: adapters, fusions and heads; under a line the base model, and all together."""
    *adapters, full = rows
    parts = [*_with_parts(adapters), *full["fusions"], *full["heads"], *full.get("without", [])]
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
    notes = [f"{row['name']}: {row['reason']}." for row in full.get("without", [])]
    return "\n".join([lines[0], rule, *lines[1:-2], *([rule] if parts else []), *lines[-2:], *notes])


def _with_parts(adapters: Iterable[SummaryRow]) -> Iterator[SummaryRow]:
    """The rows of adapters, each with those of its parts and of modules that are trained along below it."""
    for row in adapters:
        yield row
        below = [*row.get("parts", []), *row.get("also_trained", [])]
        for part in below:
            yield {**part, "name": f"  {part['name']}"}


def _cells(row: SummaryRow) -> list[str]:
    active = {None: "", True: "yes", False: "no"}[row["active"]]
    size, share, trained = f"{row['#param']:,}", f"{row['%param']:.3f}", f"{row['#train']:,}"
    return [row["name"], row["architecture"] or "", size, share, active, trained]
