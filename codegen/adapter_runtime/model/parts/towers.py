"""Towers: what of a model reads rows apart from the rest of it, whether it is a part of its own or not.

Texts and images of a contrastive model go through modules of their own, whose outputs the forward compares. Whether these are models that
`init` finds as parts (CLIP), stand in one that is planned as a whole (X-CLIP, ALIGN) or have no adapter classes (the texts of BLIP),
rows of several adapters must not meet behind them. So it is the tree of modules that tells towers, and not how a model was planned.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Set
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from adapter_runtime.call.context import thread
from adapter_runtime.call.crossing import RowWatch
from adapter_runtime.contract.protocol import AdaptedBaseModel
from adapter_runtime.programs.layer import AdapterLayerBase

_LISTS = (nn.ModuleList, nn.ModuleDict)  # which have no forward


def towers_of(base: AdaptedBaseModel) -> tuple[nn.Module, ...]:
    """The modules of a model, each with layers or a whole model in it, that stand beside each other; none where there is but one.

    The halves of an encoder-decoder are none: each row of one reads its row of the other.
    """
    whole = base.get_submodule("")
    layers = {layer for _, layer in base.iter_layers()}
    parts = {part.get_submodule("") for part in base.adapter_parts().values()} - {whole}
    found = tuple(_towers_in(whole, layers, parts))
    halves = _halves_of(base)
    return () if len(found) < 2 or all(tower in halves for tower in found) else found


def _towers_in(module: nn.Module, layers: Set[nn.Module], parts: Set[nn.Module]) -> Iterator[nn.Module]:
    """The towers in a module that is none by itself: the whole, or what stands around some parts of it.

    Args:
        layers: of the whole model.
        parts: the models in it that are parts of it.
    """
    inside = [child for child in module.children() if child not in layers and _reads_rows(child, layers)]
    if isinstance(module, _LISTS) and not any(isinstance(child, PreTrainedModel) for child in inside):
        return  # stages of one tower
    for child in inside:
        is_around = any(other in parts and other is not child for other in child.modules())
        if child not in parts and (is_around or len(inside) == 1 or isinstance(child, _LISTS)):
            yield from _towers_in(child, layers, parts)
        else:
            yield child


def _reads_rows(module: nn.Module, layers: Set[nn.Module]) -> bool:
    return any(inner in layers or isinstance(inner, PreTrainedModel) for inner in module.modules())


def _halves_of(base: AdaptedBaseModel) -> tuple[nn.Module | None, ...]:
    model = base.get_submodule("")
    if not base.config.is_encoder_decoder or not isinstance(model, PreTrainedModel):
        return ()
    return (model.get_encoder(), model.get_decoder())


@contextlib.contextmanager
def kept_apart(towers: Iterable[nn.Module], watch: RowWatch) -> Iterator[None]:
    """Within it, nothing is watched in towers that are no parts, whose calls tell the watch themselves; the rows that come out are followed
    where an adapter runs in the tower. In copies of a batch, all are counted as one's.
    """

    def is_ours() -> bool:  # and not of a call of the same model in another thread
        return thread.context is not None and thread.context.watch is watch

    def enter(module: nn.Module, args: Any) -> None:
        if is_ours():
            watch.enter()

    def leave(module: nn.Module, args: Any, outputs: Any) -> None:
        if is_ours():
            watch.leave(outputs if watch.copies > 1 or _runs(module) else None)

    with contextlib.ExitStack() as hooks:
        for tower in towers:
            hooks.callback(tower.register_forward_pre_hook(enter).remove)
            hooks.callback(tower.register_forward_hook(leave, always_call=True).remove)
        yield


def _runs(tower: nn.Module) -> bool:
    layers = (module for module in tower.modules() if isinstance(module, AdapterLayerBase))
    return any(layer.current_program() is not None for layer in layers)
