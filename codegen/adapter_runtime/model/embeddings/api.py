"""Further token embeddings, by name: for another vocabulary, say, of another language.

A model has one table of token embeddings, a module that stays what and where it is. Named embeddings are weights, of which
one at a time is in it. So whatever is tied to the table stays tied, and whatever it does beside looking up (scaling, hooks)
is kept.
Upstream's own weights are called "default".

The weights that are not active belong to no state dict: ``save_pretrained`` writes the active ones, as the model's own, and
``vocab_size`` with them; the others have files of their own (`save_embeddings`). Copies and pickles of a model keep all.
"""

from __future__ import annotations

import logging
import os

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.contract.snapshot import OUTSIDE, unchanged_on_error
from adapter_runtime.errors import AdapterError, InvalidConfigError, UnsupportedMethodError, nearest
from adapter_runtime.model.embeddings.files import read_embeddings, write_embeddings
from adapter_runtime.model.embeddings.slots import EmbeddingSlots

logger = logging.getLogger(__name__)

DEFAULT_EMBEDDINGS = "default"
_ACTIVE = "_active_embeddings_name"  # attribute of base models


class UnknownEmbeddingsError(AdapterError, ValueError):
    """A name that no embeddings of the model have."""


class EmbeddingAdaptersMixin:
    """Base of generated mixins of base models with token embeddings: further embeddings, by name.

    In a model with a head, call these methods on that model: a base model does not know what is tied to its embeddings
    outside of it. Any error leaves the model as it was.
    """

    @property
    def active_embeddings(self: AdaptedModel) -> str:
        """The name of the embeddings that the model uses."""
        return _active_name(self)

    @property
    def loaded_embeddings(self: AdaptedModel) -> dict[str, nn.Embedding]:
        """All embeddings by name. The active ones are the table of the model itself."""
        return _all_embeddings(self)

    def add_embeddings(
        self: AdaptedModel,
        name: str,
        tokenizer: PreTrainedTokenizerBase,
        reference_embedding: str | None = None,
        reference_tokenizer: PreTrainedTokenizerBase | None = None,
        embedding_dim: int | None = None,
    ) -> None:
        """Add embeddings for the vocabulary of a tokenizer, and activate them. They are frozen until trained.

        Args:
            name: their name.
            tokenizer: tells the vocabulary.
            reference_embedding: name of embeddings to copy from, for tokens that both vocabularies have.
            reference_tokenizer: the vocabulary of those.
            embedding_dim: width; None = that of the model, which is the only one that can be run.

        Raises:
            InvalidConfigError: the name is taken, or only one of the two references is given.
            UnknownEmbeddingsError: there is no such `reference_embedding`.
            UnsupportedMethodError: the model cannot use them.
        """
        _check_new(self, name)
        if (reference_embedding is None) != (reference_tokenizer is None):
            raise InvalidConfigError("reference_embedding and reference_tokenizer go together. Give both or none.")
        slots = EmbeddingSlots(self)
        width = slots.table.embedding_dim
        if embedding_dim not in (None, width):
            raise UnsupportedMethodError(
                f"embedding_dim is {embedding_dim}, but the model reads embeddings of width {width}."
            )
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        size = max(len(tokenizer), 1 + max(vocabulary.values(), default=-1))
        weight = torch.empty(size, width).normal_(std=getattr(slots.config, "initializer_range", None) or 0.02)
        padding = tokenizer.pad_token_id
        if padding is not None:
            weight[padding] = 0.0
        if reference_embedding is not None and reference_tokenizer is not None:
            reference = _embeddings(self, reference_embedding).weight
            _copy_shared_tokens(weight, vocabulary, reference, reference_tokenizer.get_vocab())
        _add_weight(self, name, weight, padding)

    def load_embeddings(self: AdaptedModel, path: str | os.PathLike[str], name: str) -> PreTrainedTokenizerBase | None:
        """Read embeddings from a folder, and activate them.

        Returns:
            The tokenizer that was saved with them, or None.

        Raises:
            AdapterFileError: a file is missing or damaged.
            InvalidConfigError: the name is taken.
            UnsupportedMethodError: the model cannot use them.
        """
        _check_new(self, name)
        weight, tokenizer = read_embeddings(path)
        _add_weight(self, name, weight, tokenizer.pad_token_id if tokenizer is not None else None)
        return tokenizer

    def save_embeddings(
        self: AdaptedModel, path: str | os.PathLike[str], name: str, tokenizer: PreTrainedTokenizerBase | None = None
    ) -> None:
        """Write embeddings to a folder: ``embedding.pt``, and the tokenizer to ``tokenizer/``.

        Raises:
            UnknownEmbeddingsError: there are none of this name.
        """
        write_embeddings(path, _embeddings(self, name).weight, tokenizer)

    def delete_embeddings(self: AdaptedModel, name: str) -> None:
        """Remove embeddings. Where they are active, the model goes back to its own.

        Raises:
            UnknownEmbeddingsError: there are none of this name.
            InvalidConfigError: they are the model's own.
        """
        _embeddings(self, name)
        if name == DEFAULT_EMBEDDINGS:
            raise InvalidConfigError("The model's own embeddings cannot be deleted.")
        with unchanged_on_error(self, self.adapters_config):
            if name == _active_name(self):
                logger.warning("The active embeddings %r are deleted. The model uses its own again.", name)
                _activate(self, DEFAULT_EMBEDDINGS)
            del _stored_embeddings(self)[name]
            for biases in (root.__dict__.get("_output_biases", {}) for root in (self, self.adapters_base)):
                biases.pop(name, None)

    def set_active_embeddings(self: AdaptedModel, name: str) -> None:
        """Use the embeddings `name` from now on: in the model, and in every projection that is tied to them.

        A bias of such a projection is kept for each embeddings by itself, at first zero. A model that was frozen keeps its
        embeddings frozen, whichever they are; `train_adapter` with ``train_embeddings=True`` trains the active ones.

        Raises:
            UnknownEmbeddingsError: there are none of this name.
            UnsupportedMethodError: the projection to the vocabulary has weights of its own, for another vocabulary.
        """
        _activate(self, name)


class EmbeddingAdaptersWrapperMixin(EmbeddingAdaptersMixin):
    """`EmbeddingAdaptersMixin` under the name that it has in models around a base model."""


def _stored_embeddings(model: AdaptedModel) -> dict[str, nn.Embedding]:
    """All but the active ones. A plain dict of the base model, so that they are no part of a model."""
    stored: dict[str, nn.Embedding] = model.adapters_base.__dict__.setdefault(OUTSIDE, {})
    return stored


def _active_name(model: AdaptedModel) -> str:
    name: str = model.adapters_base.__dict__.get(_ACTIVE, DEFAULT_EMBEDDINGS)
    return name


def _all_embeddings(model: AdaptedModel) -> dict[str, nn.Embedding]:
    return {**_stored_embeddings(model), _active_name(model): EmbeddingSlots(model).table}


def _embeddings(model: AdaptedModel, name: str) -> nn.Embedding:
    """The embeddings of a name.

    Raises:
        UnknownEmbeddingsError: there are none.
    """
    known = _all_embeddings(model)
    if name not in known:
        raise UnknownEmbeddingsError(f"The model has no embeddings {name!r}. {nearest(name, known)}")
    return known[name]


def _check_new(model: AdaptedModel, name: str) -> None:
    """Raise where embeddings have the name already.

    Raises:
        InvalidConfigError: they do.
    """
    if name in _all_embeddings(model):
        raise InvalidConfigError(f"The model has embeddings {name!r}. Delete them first, or choose another name.")


def _activate(model: AdaptedModel, name: str) -> None:
    """Put the weights of a name into the table, and what was in it among the others."""
    chosen, active = _embeddings(model, name), _active_name(model)
    if name == active:
        return
    slots = EmbeddingSlots(model)
    slots.check(chosen)
    with unchanged_on_error(model, model.adapters_config):
        stored = _stored_embeddings(model)
        stored[active] = slots.put(chosen, active, name)
        stored.pop(name, None)
        model.adapters_base.__dict__[_ACTIVE] = name


def _add_weight(model: AdaptedModel, name: str, weight: torch.Tensor, padding: int | None) -> None:
    """Add and activate embeddings.

    Args:
        weight: [V, E].
        padding: the token whose embedding stays as it is; None, or one that is not in the table: there is none.
    """
    size, width = weight.shape
    padding_idx = padding if padding is not None and 0 <= padding < size else None
    added = nn.Embedding(size, width, padding_idx=padding_idx, _weight=weight, _freeze=True)
    EmbeddingSlots(model).check(added)
    with unchanged_on_error(model, model.adapters_config):
        _stored_embeddings(model)[name] = added
        _activate(model, name)


def _copy_shared_tokens(
    weight: torch.Tensor, vocabulary: dict[str, int], reference: torch.Tensor, reference_vocabulary: dict[str, int]
) -> None:
    """Give the tokens of `weight` [V, E] that `reference` [W, E] has too its rows."""
    known = reference_vocabulary.items()
    pairs = [(vocabulary[token], index) for token, index in known if token in vocabulary and index < len(reference)]
    if pairs:
        own, others = (torch.tensor(column) for column in zip(*pairs, strict=True))
        weight[own] = reference.detach()[others.to(reference.device)].to(weight)
