"""The parts of a model that a config names: by their paths, by names in these, or by what they read."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Literal

from torch import nn

from adapter_runtime.errors import InvalidConfigError
from adapter_runtime.model.parts.part import AdapterPart

Kind = Literal["text", "vision", "audio", ""]  # what a part reads; "" = what other parts have made

# Arguments of forwards that tell it, and what upstream's classes call what they read
_READERS: tuple[tuple[Kind, frozenset[str]], ...] = (
    ("vision", frozenset({"pixel_values", "pixel_values_videos", "flattened_patches"})),
    ("audio", frozenset({"input_features", "input_values"})),
    ("text", frozenset({"input_ids"})),
)
_MODALITIES: Mapping[str, Kind] = {"image": "vision", "video": "vision", "audio": "audio"}


def kind_of(part: AdapterPart) -> Kind:
    """What a part reads: "text" if it embeds tokens, else by the arguments of its forward."""
    if part.token_embeddings:
        return "text"
    model: nn.Module = part.get_submodule("")
    arguments = inspect.signature(type(model).forward).parameters.keys()
    return next((kind for kind, names in _READERS if names & arguments), _stated_kind(model))


def _stated_kind(model: nn.Module) -> Kind:
    """What upstream says that a class reads (a tower of packed patches), where that is of one kind.

    Classes that say nothing have what the base of all classes of their file says (Qwen2.5-VL's tower that it reads text too). Then it is that
    of images which embeds their patches itself: what reads a tower does not (a Q-Former).
    """
    stated = getattr(model, "input_modalities", ())
    kinds = {_MODALITIES.get(modality, "") for modality in ((stated,) if isinstance(stated, str) else stated)}
    if len(kinds) == 1:
        return kinds.pop()
    return "vision" if "vision" in kinds and _embeds_patches(model) else ""


def _embeds_patches(model: nn.Module) -> bool:
    """Whether a model without tokens has a convolution over as many channels as its config says that images have."""
    config = getattr(model, "config", None)
    channels = {getattr(config, name, None) for name in ("in_channels", "in_chans", "num_channels")} - {None}
    convolutions = (module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Conv3d)))
    return any(module.in_channels in channels for module in convolutions)


def named_parts(parts: Mapping[str, AdapterPart], names: Sequence[str], whole: str) -> dict[str, AdapterPart]:
    """The parts that are named, by their paths, in the order of `parts`.

    Args:
        names: each the path of a part, a name in such paths ("bert" and "decoder" are ``decoder.bert``), or a kind.
        whole: the class of the model, for messages.

    Raises:
        InvalidConfigError: a name means no part.
    """
    found = {path for name in names for path in _meant(parts, name, whole)}
    return {path: part for path, part in parts.items() if path in found}


def _meant(parts: Mapping[str, AdapterPart], name: str, whole: str) -> list[str]:
    if name in parts:
        return [name]
    by_name = [path for path in parts if name and f".{name}." in f".{path}."]
    found = by_name or [path for path, part in parts.items() if name and kind_of(part) == name]
    if not found:
        shown = ", ".join(f"{path!r} ({kind_of(part) or 'reads other parts'})" for path, part in parts.items())
        raise InvalidConfigError(
            f"parts names {name!r}, but the parts of {whole} are {shown}. Name one, or a kind in brackets."
        )
    return found
