"""What of a layer an adapter of the LoRA family passes over, while other projections of the same layer have a place.

It is told by modules: an attention without projections of its own beside one that has them (Mask2Former's cross-attention), and routed
experts beside a feed-forward block that all tokens run through (DeepSeek-V3's shared experts).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from torch import nn

from adapter_runtime.contract.protocol import AdaptedLayer
from adapter_runtime.contract.widths import has_in_width, has_out_width, in_width, out_width
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.common.projections import Projection, projections_of
from adapter_runtime.programs.layer import AdapterLayerBase

_ROUTED = "routed experts"
_FED_FORWARD = frozenset({"intermediate_lora", "gate_lora", "output_lora"})


def keys_of(projection: Projection) -> Iterable[str]:
    """What a projection gives a place for: matrices of attention, or the option that asks for it."""
    return "qkv" if projection.fused is not None else projection.matrix or [projection.location]


def passed_over(layer: AdaptedLayer, keys: Iterable[str]) -> Mapping[str, frozenset[str]]:
    """Parts of a layer ("cross-attention") that have no place for some of `keys`, and for which of them. See `keys_of`."""
    wanted = frozenset(keys)
    found: dict[str, frozenset[str]] = {}
    for roles, _ in layer.adapted_attentions():
        given = {
            key
            for projection in projections_of(layer)
            if projection.roles is roles and layer.module_at(projection.path) is not None
            for key in keys_of(projection)
        }
        lacking = wanted.intersection("qkvo") - given
        part = f"{roles.kind}-attention"
        found[part] = found.get(part, frozenset()) | lacking
    if wanted & _FED_FORWARD and _has_routed_experts(layer):
        found[_ROUTED] = wanted & _FED_FORWARD
    return found


def _has_routed_experts(layer: AdaptedLayer) -> bool:
    """Whether a layer holds several feed-forward blocks of a kind, as tables or in a list, none of whose projections has a place."""
    try:
        width = layer.stream_width()
    except UnsupportedMethodError:
        return False
    modules = list(_beside_attention(layer))
    tables = Counter(count for module in modules for count in _tables_of_experts(module, width))
    if any(times > 1 for times in tables.values()):  # into the experts, and out of them
        return True
    adapted = {layer.module_at(projection.path) for projection in projections_of(layer)}
    return any(_holds_experts(module, width) and adapted.isdisjoint(module.modules()) for module in modules)


def _beside_attention(layer: AdaptedLayer) -> Iterator[nn.Module]:
    """The modules of a layer that stand in no attention, and in no adapter."""
    whole = layer.get_submodule("")
    inside = {inner for _, core in layer.adapted_attentions() if core is not whole for inner in core.modules()}
    for holder in whole.modules():
        if isinstance(holder, AdapterLayerBase):
            inside.update(inner for room in holder.adapter_rooms() for inner in getattr(holder, room).modules())
    return (module for module in whole.modules() if module not in inside)


def _tables_of_experts(module: nn.Module, width: int) -> Iterator[int]:
    """For each table of weights, from the stream or to it, of how many experts it is."""
    if type(module).__module__.startswith("torch.nn"):  # a convolution
        return
    for table in module.parameters(recurse=False):
        if table.dim() == 3 and table.shape[0] > 1 and width in table.shape[1:]:
            yield int(table.shape[0])


def _holds_experts(module: nn.Module, width: int) -> bool:
    """Whether a module is a list of blocks of one class, of which each reads the stream and gives to it."""
    blocks = list(module.children()) if isinstance(module, (nn.ModuleList, nn.ModuleDict)) else []
    return len(blocks) > 1 and len(set(map(type, blocks))) == 1 and all(_feeds_forward(one, width) for one in blocks)


def _feeds_forward(block: nn.Module, width: int) -> bool:
    linear = [module for module in block.modules() if has_in_width(module) and has_out_width(module)]
    return len(linear) > 1 and in_width(linear[0]) == width and any(out_width(one) == width for one in linear[1:])
