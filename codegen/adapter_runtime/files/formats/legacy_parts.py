"""Files of `adapters` for an EncoderDecoderModel, whose parts it treats as models of their own.

It counts the layers of each part from zero, and it has the invertible adapter of the encoder under three names. Here layers are
counted over the whole model, and each tensor has one name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.contract.values import Json
from adapter_runtime.files.documents import Document
from adapter_runtime.files.formats.refused_files import version_of_adapters
from adapter_runtime.files.tensors import Tensors

MODEL_TYPE = "encoder-decoder"
_INVERTIBLE = "invertible_adapters."
_LISTS = ("leave_out", "layers")  # options that name layers by number, as do the keys of a reduction_factor


def counts_in_parts(document: Document) -> bool:
    """Whether the layers that a document names are counted from zero in each part."""
    return version_of_adapters(document) is not None and document.get("model_type") == MODEL_TYPE


def renumber(model: AdaptedModel, configs: Iterator[dict[str, Json]]) -> None:
    """Name in `configs` the layers of `model` that are meant: with E layers in the encoder, layer i is i and E + i."""
    sizes = _sizes(model)
    for config in configs:
        for option in _LISTS:
            numbers = config.get(option)
            if isinstance(numbers, list):
                config[option] = sorted(found for number in numbers for found in _meant(number, sizes))
        factors = config.get("reduction_factor")
        if isinstance(factors, Mapping):
            config["reduction_factor"] = {
                layer: factor for name, factor in factors.items() for layer in _renamed(name, sizes)
            }


def _sizes(model: AdaptedModel) -> tuple[int, int]:
    """How many layers the encoder and the decoder have."""
    base = model.adapters_base
    encoder = set(base.get_encoder().modules())
    in_encoder = [layer in encoder for _, layer in base.iter_layers()]
    return in_encoder.count(True), in_encoder.count(False)


def _meant(number: Json, sizes: Sequence[int]) -> Iterator[int]:
    """The numbers over all parts of the layers that have `number` in theirs; one that no part has stays, and will be refused."""
    assert isinstance(number, int)
    start, found = 0, False
    for size in sizes:
        if number < size:
            found = True
            yield start + number
        start += size
    if not found:
        yield start + number


def _renamed(name: str, sizes: Sequence[int]) -> Iterator[str]:
    return map(str, _meant(int(name), sizes)) if name.isdigit() else iter([name])


def without_aliases(tensors: Tensors) -> Tensors:
    """Tensors without the second and third name of an invertible adapter, which is the encoder's."""
    own = {_tail(key): tensor for key, tensor in tensors.items() if key.startswith("encoder.") and _INVERTIBLE in key}
    return {key: tensor for key, tensor in tensors.items() if not _is_alias(key, tensor, own)}


def _is_alias(key: str, tensor: torch.Tensor, own: Mapping[str, torch.Tensor]) -> bool:
    if _INVERTIBLE not in key or key.startswith("encoder."):
        return False
    other = own.get(_tail(key))
    return other is not None and torch.equal(other, tensor)


def _tail(key: str) -> str:
    return key.partition(_INVERTIBLE)[2]
