"""What of a base model a checkpoint of another class does not have, so that it begins with random values, and what is said of it.

An adapter is trained in a model that stays as it is. So a part of random values is no beginning, as it may be for whoever trains all of a
model: where such a part has layers that adapters go into, or is a model of its own, the checkpoint is refused. Not so where it became a
flexible head with what it reads, which runs without the part (CLIP's classifier of images has no text model).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import transformers
from torch import nn
from transformers import PreTrainedModel

from adapter_runtime.errors import AdapterMismatchError, listing
from adapter_runtime.files.keys import owner
from adapter_runtime.heads.static import DEFAULT_NAME, is_static

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """What came of reading a checkpoint."""

    info: Mapping[str, Collection[str]]  # what upstream says of it
    # The tensors that were not in it and are not tied to others. Upstream leaves out of its report what may lack of a model inside when that
    # is read by itself, towers included (SeamlessM4T's, of its model of units).
    unread: Collection[str]


@dataclass(frozen=True)
class _RandomPart:
    """What of a base model is in no tensor of a checkpoint, the whole of a module or of a parameter."""

    path: str  # in the model
    has_layers: bool  # adapters go into it, or it is or holds a model of its own


def tell_what_is_random(model: PreTrainedModel, architecture: str | None, reading: Reading, is_allowed: bool) -> None:
    """Say what of its base model a model does not have from a checkpoint.

    Args:
        architecture: the class that wrote the checkpoint; None where its config does not say.
        is_allowed: whole parts may be random.

    Raises:
        AdapterMismatchError: some are, and may not.
    """
    found = [part for part in _random_parts(model, reading.unread) if part.has_layers or _is_reported(part, reading)]
    if not found:
        return
    paths = [part.path for part in found]
    is_whole = model.base_model_prefix in paths
    is_refused = any(part.has_layers for part in found) and not is_allowed
    is_of_a_head = _is_of_a_head(model, architecture, reading)
    if is_refused and (is_whole or not is_of_a_head):
        raise AdapterMismatchError(_refusal(model, architecture, paths))
    written_by = architecture or "another class"
    logger.warning(
        "A checkpoint of %s has nothing of %s, which begin(s) with random values in this %s.%s",
        written_by,
        ", ".join(paths),
        type(model).__name__,
        _of_a_head(model) if is_of_a_head else "",
    )


def _is_reported(part: _RandomPart, reading: Reading) -> bool:
    """Whether upstream reports it, too: it may know that a tensor is computed, or not needed."""
    missing = reading.info["missing_keys"]
    return part.path in missing or any(key.startswith(f"{part.path}.") for key in missing)


def _is_of_a_head(model: PreTrainedModel, architecture: str | None, reading: Reading) -> bool:
    """Whether all that the checkpoint has is read, with a head of upstream's: the class of that has nothing else, so that it runs without."""
    heads = getattr(model.config, "prediction_heads", None) or {}
    is_flexible = architecture is not None and is_static(architecture) and DEFAULT_NAME in heads
    return is_flexible and not reading.info["unexpected_keys"]


def _of_a_head(model: PreTrainedModel) -> str:
    return (
        f" Its head {DEFAULT_NAME!r} does not run them. To use them, load a checkpoint that has them, and add the head to that:"
        f" {type(model).__name__}.from_pretrained(...), add_..._head(...)."
    )


def _refusal(model: PreTrainedModel, architecture: str | None, paths: Collection[str]) -> str:
    known = getattr(transformers, architecture or "", None)
    remedy = "Load a checkpoint that has them."
    if known is not None:
        remedy = f"Load it with upstream's own class, and add adapters there: adapter_models.init({architecture}.from_pretrained(...))."
    return (
        f"A checkpoint of {architecture or 'another class'} has nothing of these parts of {type(model).__name__}, which would begin with"
        f" random values:\n{listing(paths)}\n{remedy} To have random ones, as for training all of the model:"
        " from_pretrained(..., allow_random_parts=True)."
    )


def _random_parts(model: PreTrainedModel, missing: Collection[str]) -> list[_RandomPart]:
    """The largest modules of the base model, and parameters, of which all is missing, in the order in which upstream registers them."""
    base, prefix = model.base_model, f"{model.base_model_prefix}."
    lacking = {key for key in missing if key.startswith(prefix) and owner(key) is None}
    if not lacking:
        return []
    tensors = {key: id(tensor) for key, tensor in model.state_dict(keep_vars=True).items() if owner(key) is None}
    search = _Search(lacking, tensors, Counter(tensors.values()), {id(layer) for _, layer in model.iter_layers()})
    return list(search.below(base, model.base_model_prefix))


@dataclass(frozen=True)
class _Search:
    """What is known of all tensors."""

    lacking: Collection[str]
    tensors: Mapping[str, int]  # name -> which tensor it is
    places: Counter[int]  # in how many places it is
    layers: Collection[int]  # the modules that adapters go into

    def below(self, module: nn.Module, path: str) -> Iterator[_RandomPart]:
        """What is random of a module, from the outside in."""
        if not any(name.startswith(f"{path}.") for name in self.lacking):
            return
        if self._is_random(path):
            yield _RandomPart(path, any(self._is_layer(one) for one in module.modules()))
            return
        own = (f"{path}.{name}" for name, _ in module.named_parameters(recurse=False))
        yield from (_RandomPart(name, has_layers=False) for name in own if name in self.lacking)
        for name, child in module.named_children():
            yield from self.below(child, f"{path}.{name}")

    def _is_random(self, path: str) -> bool:
        """Whether some of the module is missing and all that is not is a tensor of another module too: tied embeddings."""
        names = [name for name in self.tensors if name.startswith(f"{path}.")]
        inside = Counter(self.tensors[name] for name in names)
        read = [one for one in names if one not in self.lacking]
        is_elsewhere = all(self.places[self.tensors[name]] > inside[self.tensors[name]] for name in read)
        return len(read) < len(names) and is_elsewhere

    def _is_layer(self, module: nn.Module) -> bool:
        return isinstance(module, PreTrainedModel) or id(module) in self.layers
