"""Which layers of a model run on given inputs: images and sounds must come to the towers that read them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from conformance.instances.trial import ran

MATRICES = 4  # of queries, keys, values and outputs, or of another sublayer: a layer has as many at least


def unreached(model: nn.Module, inputs: Mapping[str, Any]) -> frozenset[str]:
    """Paths of layers of which no module runs on `inputs`; of a layer that runs, those of sublayers (attention to an encoder).

    And names of the parts of `model` without layers that run not at all: patches of an image may come by one projection.
    """
    every = dict(layers(model))
    holds_layers = {path.partition(".")[0] for path in every}
    bare = {
        name: part
        for name, part in _weighted(model).items()
        if name not in holds_layers and not isinstance(part, nn.ModuleList)  # a list never runs itself
    }
    missed = _not_called(model, every | dict(_sublayers(every)) | bare, inputs)
    return frozenset(path for path in missed if path in every | bare or path.rpartition(".")[0] not in missed)


def _sublayers(every: Mapping[str, nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """What is directly within a layer and has as many matrices as one."""
    for path, layer in every.items():
        for name, part in layer.named_children():
            if not isinstance(part, nn.ModuleList) and sum(p.dim() > 1 for p in part.parameters()) >= MATRICES:
                yield f"{path}.{name}", part


def idle(model: nn.Module, inputs: Mapping[str, Any]) -> frozenset[str]:
    """Names of the parts of `model` that have weights and of which no module runs on `inputs`: a tower without layers, too."""
    return _not_called(model, _weighted(model), inputs)


def _weighted(model: nn.Module) -> dict[str, nn.Module]:
    return {name: part for name, part in model.named_children() if any(True for _ in part.parameters())}


def _not_called(model: nn.Module, parts: Mapping[str, nn.Module], inputs: Mapping[str, Any]) -> frozenset[str]:
    called: set[str] = set()
    with contextlib.ExitStack() as hooks:
        for path, part in parts.items():
            for module in part.modules():
                hooks.enter_context(_noting(module, path, called))
        ran(model, inputs)
    return frozenset(parts) - called


def layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Elements of lists of modules that have as many matrices as a layer; lists within them are parts of them."""
    inside: tuple[str, ...] = ()
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or path.startswith(inside):
            continue
        for number, element in enumerate(module):
            if element is not None and sum(p.dim() > 1 for p in element.parameters()) >= MATRICES:
                inside = (*inside, f"{path}.{number}.")
                yield f"{path}.{number}", element


@contextlib.contextmanager
def _noting(module: nn.Module, path: str, called: set[str]) -> Iterator[None]:
    handle = module.register_forward_pre_hook(lambda *_: called.add(path))
    try:
        yield
    finally:
        handle.remove()
