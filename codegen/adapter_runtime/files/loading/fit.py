"""Do the tensors of a file fit a model? All of them are compared before any is copied."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch

from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.errors import AdapterMismatchError, listing
from adapter_runtime.files import heads as head_files
from adapter_runtime.files.formats.renames import fit_names
from adapter_runtime.files.formats.saved import Origin
from adapter_runtime.files.loading.leave_out import not_in_layers, not_in_parts, without_copies
from adapter_runtime.files.options import LoadOptions
from adapter_runtime.files.tensors import Tensors

logger = logging.getLogger(__name__)

Shapes = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Mismatch:
    """How the tensors of a file differ from those of a model."""

    missing: frozenset[str]  # the model has them, the file has not
    unexpected: frozenset[str]  # the file has them, the model has not
    shapes: Mapping[str, Shapes]  # both have them: shape in the file, shape in the model

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.shapes)

    def __str__(self) -> str:
        shapes = [
            f"{key}: {list(ours)} in the file, {list(its)} in the model" for key, (ours, its) in self.shapes.items()
        ]
        parts = (
            ("missing from the file", self.missing),
            ("unknown to the model", self.unexpected),
            ("of another shape", shapes),
        )
        return "\n".join(f"  {title} ({len(names)}):\n{listing(names)}" for title, names in parts if names)


def fit(
    model: AdaptedModel,
    tensors: Mapping[str, torch.Tensor],
    expected: Mapping[str, torch.Tensor],
    title: str,
    origin: Origin | None,
    options: LoadOptions,
    left_out_parts: Collection[str] = (),
    leaves_copies: bool = False,
) -> Tensors:
    """The tensors of a file under the names that the model gives them, compared with what it expects.

    Args:
        expected: the tensors of the model that they are for.
        title: what messages call the file: "Adapter 'a' from folder".
        origin: the model that the file was written from, as far as it says.
        left_out_parts: paths of parts of the model that the caller does not want the adapter in.
        leaves_copies: the caller says which modules shall be trained along, and so which copies of such stay in the file.

    Raises:
        AdapterMismatchError: one has another shape; or, if `options` are strict, some are missing or unknown.
    """
    given = fit_names(tensors, expected, model, model.base_model_prefix)
    given = not_in_parts(model, not_in_layers(model, given, options.leave_out), left_out_parts)
    if leaves_copies:
        given = without_copies(given, expected)
    require_fit(model, given, expected, title, origin, options.strict)
    return given


def require_fit(
    model: AdaptedModel,
    given: Mapping[str, torch.Tensor],
    expected: Mapping[str, torch.Tensor],
    title: str,
    origin: Origin | None,
    strict: bool,
) -> None:
    """Compare the names and shapes of tensors. Without `strict`, a difference in names is only a warning.

    Raises:
        AdapterMismatchError: they differ.
    """
    mismatch = compare(given, expected)
    if not mismatch:
        return
    message = f"{title} does not fit."
    if origin is not None:
        message += (
            f" It was written from {origin.model_class} (type {origin.model_type}, hidden size {origin.hidden_size});"
            f" this is {head_files.upstream_class_name(model)} (type {model.config.model_type})."
        )
    message += f"\n{mismatch}"
    if any("shared_parameters" in key.split(".") for key in mismatch.missing):
        message += (
            "\nParameters that layers share are not in the file: `adapters` leaves them out for bare base models."
        )
    if any(
        key.replace("encoder.invertible_adapters.", "invertible_adapters.") in mismatch.missing
        for key in mismatch.unexpected
    ):
        message += (
            "\nIts invertible part stood behind the last layer of an encoder that reads no tokens, where `adapters` puts it in Whisper:"
            " it is none of embeddings. The rest can be loaded without it: config={'inv_adapter': None}, strict=False."
        )
    if strict or mismatch.shapes:
        raise AdapterMismatchError(f"{message}\nThe model is unchanged.")
    logger.warning(message)


def require_same_type(model: AdaptedModel, origin: Origin | None, title: str, strict: bool) -> None:
    """Check that a file was written from this model type: tensors of another one may fit by chance. Else warn, or raise.

    A file that does not say its type passes.

    Raises:
        AdapterMismatchError: the type is another one, and `strict` is true.
    """
    if origin is None:
        return
    written_from, own = origin.model_type, model.config.model_type
    if written_from in (None, own):
        return
    message = (
        f"{title} was written from a {origin.model_class} of type {written_from!r};"
        f" this is a {head_files.upstream_class_name(model)} of type {own!r}."
    )
    if strict:
        raise AdapterMismatchError(
            f"{message} If it shall be loaded all the same, as far as tensors fit: strict=False."
            " The model is unchanged."
        )
    logger.warning(message)


def compare(given: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> Mismatch:
    """Compare names and shapes. A tensor that the model holds under several names needs to be given under one."""
    provided = {id(expected[key]) for key in given.keys() & expected.keys()}
    missing = {key for key, tensor in expected.items() if id(tensor) not in provided}
    shapes = {
        key: (tuple(given[key].shape), tuple(expected[key].shape))
        for key in sorted(given.keys() & expected.keys())
        if given[key].shape != expected[key].shape
    }
    return Mismatch(frozenset(missing), frozenset(given.keys() - expected.keys()), shapes)
