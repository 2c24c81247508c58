"""Files of `adapters` and of its predecessors, read as if this library had written them.

Each rule is one function over the document (``adapter_config.json``) and the tensors; `modernise` runs them in order. A file
of `adapters` has a version "adapters.X.Y.Z"; one of its predecessors has none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from packaging.version import Version

from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.contract.values import Json
from adapter_runtime.files.documents import Document
from adapter_runtime.files.formats import own
from adapter_runtime.files.formats.legacy_parts import counts_in_parts, renumber, without_aliases
from adapter_runtime.files.formats.refused_files import note_if_different, refuse_if_different, version_of_adapters
from adapter_runtime.files.formats.saved import SavedAdapter
from adapter_runtime.files.names import ADAPTER_FILES
from adapter_runtime.files.options import LoadOptions
from adapter_runtime.files.tensors import Tensors, read_tensors

# `adapters` has the places of these models reversed: what its config calls "intermediate" sits at the last projection
# of the feed-forward block, "output" at the first. The tensors of a file say where they were, so the config gives way.
LORA_PLACES_REVERSED = frozenset({"llama", "mistral"})

_OLD_ACTIVATIONS = {"gelu": "gelu_new", "gelu_orig": "gelu"}
_OLD_CONTAINERS = (
    (re.compile(r"\.(?:attention|layer)_text_(?:task|lang)_adapters\."), ".adapters."),
    (re.compile(r"\.invertible_lang_adapters\."), ".invertible_adapters."),
)
_NORM_BEFORE = ".adapter_norm_before."
_VERA_MATRIX = re.compile(r"\.loras\.[^.]+\.vera_[BD]$")
_PREFIX_LOCATION = re.compile(r"((?:^|\.)prefix_tunings\.[^.]+\.)([^.]+)\.")
_IN_CROSS_ATTENTION = re.compile(r"\.crossattention\.output\.adapters\.")
_EJECTED_PREFIX = re.compile(r"\.prefix_tunings\.[^.]+\.[^.]+\.control_trans$")


def recognise(document: Document) -> bool:
    """Whether one of these libraries wrote the document of an adapter: any that no other format recognises."""
    return True


def read(model: AdaptedModel, folder: Path, document: Document, options: LoadOptions) -> SavedAdapter:
    """The adapter in `folder`."""
    tensors = read_tensors(folder, ADAPTER_FILES, options.use_safetensors)
    modern, tensors = modernise(document, tensors)
    if counts_in_parts(document):
        renumber(model, _members(modern))
        tensors = without_aliases(tensors)
    return own.saved_adapter(model, folder, modern, tensors, options, refuse=partial(_judge, model, document))


def _judge(model: AdaptedModel, document: Document, config: AdapterConfig, strict: bool) -> None:
    """Say, or raise, where the adapter of a file computes something else here."""
    refuse_if_different(document, config, strict)
    note_if_different(model, document, config)


def modernise(document: Document, tensors: Tensors) -> tuple[Document, Tensors]:
    """Apply all rules. The arguments stay as they are."""
    modern = {**document, "config": _copy(document.get("config"))}
    for rule in _RULES:
        tensors = rule(modern, tensors)
    return modern, tensors


def _copy(config: Json) -> Json:
    """The config, or each member of a union, in a dict of its own, which rules change."""
    if not isinstance(config, dict):
        return config
    members = config.get("configs")
    if not isinstance(members, list):
        return dict(config)
    return {**config, "configs": [dict(member) if isinstance(member, dict) else member for member in members]}


def _members(document: Document) -> Iterator[dict[str, Json]]:
    """The config, or each member of a union. Absent where the file names its config by a string."""
    config = document["config"]
    if isinstance(config, dict):
        members = config.get("configs")
        yield from members if isinstance(members, list) else [config]


def _rename_containers(document: Document, tensors: Tensors) -> Tensors:
    """Names of adapters before they were told apart by composition instead of by "task" and "lang"."""
    result = {}
    for key, tensor in tensors.items():
        for pattern, replacement in _OLD_CONTAINERS:
            key = pattern.sub(replacement, key)
        result[key] = tensor
    return result


def _rename_activations(document: Document, tensors: Tensors) -> Tensors:
    """Before files had a version, "gelu" was the tanh approximation."""
    if document.get("version") is None:
        for config in _members(document):
            activation = config.get("non_linearity")
            if isinstance(activation, str) and activation in _OLD_ACTIVATIONS:
                config["non_linearity"] = _OLD_ACTIVATIONS[activation]
    return tensors


def _flatten_invertible(document: Document, tensors: Tensors) -> Tensors:
    """The options of invertible adapters once stood in a dict of their own."""
    for config in _members(document):
        nested = config.pop("invertible_adapter", None)
        if isinstance(nested, dict):
            config["inv_adapter"] = nested.get("block_type")
            config["inv_adapter_reduction_factor"] = nested.get("reduction_factor")
    return tensors


def _drop_absent_invertible(document: Document, tensors: Tensors) -> Tensors:
    """Task adapters of old were written with the option of an invertible adapter, but without its tensors."""
    if document.get("type") == "text_task" and not any(".invertible_adapters." in key for key in tensors):
        for config in _members(document):
            config.update(
                {"inv_adapter": None, "inv_adapter_reduction_factor": None} if "inv_adapter" in config else {}
            )
    return tensors


def _undo_lora_scaling(document: Document, tensors: Tensors) -> Tensors:
    """`adapters` ignored alpha until 1.1.0: its files behave as with a scaling of 1."""
    version = version_of_adapters(document)
    if version is not None and version < Version("1.1.0"):
        for config in _members(document):
            if config.get("architecture") == "lora" and config.get("r") != config.get("alpha"):
                config["alpha"] = config["r"]
    return tensors


def _restore_lora_places(document: Document, tensors: Tensors) -> Tensors:
    """See `LORA_PLACES_REVERSED`."""
    if version_of_adapters(document) is not None and document.get("model_type") in LORA_PLACES_REVERSED:
        for config in _members(document):
            if "intermediate_lora" in config and "output_lora" in config:
                places = config["output_lora"], config["intermediate_lora"]
                config["intermediate_lora"], config["output_lora"] = places
    return tensors


def _recognise_forms_of_lora(document: Document, tensors: Tensors) -> Tensors:
    """`adapters` computes DoRA in a way of its own, and has a full matrix in the place of each vector of VeRA.

    Where all of these matrices are diagonal, as before any training, they are read as the vectors that they stand for.
    """
    if version_of_adapters(document) is None:
        return tensors
    for config in _members(document):
        config.update({"dora_form": "adapters"} if config.get("use_dora") else {})
    matrices = {key: value for key, value in tensors.items() if _VERA_MATRIX.search(key) and value.dim() == 2}
    if not matrices:
        return tensors
    if all(torch.equal(value, value.diagonal().diag_embed()) for value in matrices.values()):
        return {**tensors, **{key: value.diagonal().clone() for key, value in matrices.items()}}
    for config in _members(document):
        config.update({"vera_dense": True} if config.get("vera_d") is not None else {})
    return tensors


def _rename_prefix_location(document: Document, tensors: Tensors) -> Tensors:
    """`adapters` calls the only attention of DistilBERT "self", that of each tower of CLIP "clip_text_model_self_prefix", by its
    type, and that of every other model "self_prefix". In the whole of CLIP, each tower has the prefixes of its own attentions here.
    """
    if version_of_adapters(document) is None:
        return tensors
    whole = document.get("model_type")
    names = {"self", f"{whole}_self_prefix"}
    of_tower = re.compile(rf"(prefix_tuning\.prefix_tunings\.[^.]+)\.{re.escape(str(whole))}_(\w+)_self_prefix\.")

    def renamed(key: str) -> str:
        key = of_tower.sub(r"\2.\1.self_prefix.", key)
        return _PREFIX_LOCATION.sub(lambda found: f"{found[1]}self_prefix." if found[2] in names else found[0], key)

    return {renamed(key): tensor for key, tensor in tensors.items()}


def _recognise_ejected_prefix(document: Document, tensors: Tensors) -> Tensors:
    """`adapters` keeps "flat": false in the config of a prefix whose MLP it has removed; the tensors show it."""
    if any(_EJECTED_PREFIX.search(key) for key in tensors):
        for config in _members(document):
            config.update({"flat": True} if config.get("architecture") == "prefix_tuning" else {})
    return tensors


def _recognise_cross_adapters(document: Document, tensors: Tensors) -> Tensors:
    """`adapters` puts what ``mh_adapter`` asks for behind the cross-attention of BERT and its relatives too; the tensors show it."""
    if version_of_adapters(document) is not None and any(_IN_CROSS_ATTENTION.search(key) for key in tensors):
        for config in _members(document):
            config.update({"cross_adapter": True} if config.get("mh_adapter") else {})
    return tensors


def _drop_norm_aliases(document: Document, tensors: Tensors) -> Tensors:
    """`adapters` writes the norm before a bottleneck a second time, as the first child of the down-projection."""
    doubled = {key.replace(_NORM_BEFORE, ".adapter_down.0.") for key in tensors if _NORM_BEFORE in key}
    return {key: tensor for key, tensor in tensors.items() if key not in doubled}


_RULES: tuple[Callable[[Document, Tensors], Tensors], ...] = (
    _rename_containers,
    _rename_activations,
    _flatten_invertible,
    _drop_absent_invertible,
    _undo_lora_scaling,
    _restore_lora_places,
    _recognise_forms_of_lora,
    _rename_prefix_location,
    _recognise_ejected_prefix,
    _recognise_cross_adapters,
    _drop_norm_aliases,
)
