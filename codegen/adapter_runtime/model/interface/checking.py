"""Checks, before anything is changed, that a model has the modules that an interface names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import nn

from adapter_runtime.contract.paths import found
from adapter_runtime.errors import InvalidConfigError, nearest
from adapter_runtime.model.interface.declaration import AdapterModelInterface

LAYER_FIELDS = (
    "layer_self_attn",
    "layer_cross_attn",
    "layer_intermediate_proj",
    "layer_output_proj",
    "layer_pre_self_attn",
    "layer_pre_cross_attn",
    "layer_pre_ffn",
    "layer_ln_1",
    "layer_ln_2",
)
ATTENTION_FIELDS = ("attn_q_proj", "attn_k_proj", "attn_v_proj", "attn_qkv_proj", "attn_o_proj")


class Part(NamedTuple):
    """A model, or a part of one, with its interface and its layers."""

    path: str  # from the base model; "" = the base model
    interface: AdapterModelInterface
    module: nn.Module
    layers: list[nn.Module]


def check_parts(base: nn.Module, interfaces: Mapping[str, AdapterModelInterface]) -> list[Part]:
    """Find the layers of all parts and hold them against their interfaces.

    Raises:
        InvalidConfigError: a path leads nowhere, or to the wrong kind of module, or two parts have a layer in common.
    """
    parts = [_check_part(base, path, interface) for path, interface in interfaces.items()]
    owners: dict[nn.Module, str] = {}
    for part in parts:
        for layer in part.layers:
            if layer in owners:
                raise InvalidConfigError(
                    f"interface[{owners[layer]!r}] and interface[{part.path!r}] name the same layers. Give each part its own."
                )
            owners[layer] = part.path
    return parts


def _check_part(base: nn.Module, path: str, interface: AdapterModelInterface) -> Part:
    owner = type(base).__name__
    module = found(base, path) if path else base
    if module is None:
        raise InvalidConfigError(f"interface[{path!r}]: {owner} has no module {path!r}. {_near(path, [base])}")
    _require("model_embeddings", interface.model_embeddings, [module], f"{type(module).__name__} has no such module")
    _require("model_layers", interface.model_layers, [module], f"{type(module).__name__} has no such module")
    layers = found(module, interface.model_layers)
    if not isinstance(layers, (nn.ModuleList, nn.Sequential)) or len(layers) == 0:
        raise InvalidConfigError(
            f"AdapterModelInterface: model_layers is {interface.model_layers!r}, in {type(module).__name__} a "
            f"{type(layers).__name__}{' without elements' if isinstance(layers, nn.ModuleList) else ''}. It must be a list "
            "of layers (ModuleList)."
        )
    unique = list(dict.fromkeys(layers))  # one that runs several times may stand there several times
    _check_layers(unique, interface)
    return Part(path, interface, module, unique)


def _check_layers(layers: Sequence[nn.Module], interface: AdapterModelInterface) -> None:
    """Each path must lead somewhere in at least one layer: layers of hybrid models differ."""
    kinds = " or ".join(sorted({type(layer).__name__ for layer in layers}))
    for name, path in _given(interface, LAYER_FIELDS):
        _require(name, path, layers, f"no layer ({kinds}) has such a module")
    for field in ("layer_self_attn", "layer_cross_attn"):
        where = interface.to_dict()[field]
        if not isinstance(where, str):
            continue
        attentions = [attention for layer in layers if (attention := found(layer, where)) is not None]
        for name, path in _given(interface, ATTENTION_FIELDS):
            _require(name, path, attentions, f"{where!r} ({type(attentions[0]).__name__}) has no such module")


def _given(interface: AdapterModelInterface, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    paths = interface.to_dict()
    return ((name, path) for name in names if isinstance(path := paths[name], str))


def _require(name: str, path: str, modules: Sequence[nn.Module], complaint: str) -> None:
    if all(found(module, path) is None for module in modules):
        raise InvalidConfigError(f"AdapterModelInterface: {name} is {path!r}, but {complaint}. {_near(path, modules)}")


def _near(path: str, modules: Sequence[nn.Module]) -> str:
    """The paths that there are and look like `path`; elements of lists and what is below them are left out."""
    there = {
        name
        for module in modules
        for name, _ in module.named_modules()
        if name and not any(part.isdigit() for part in name.split("."))
    }
    return nearest(path, there)
