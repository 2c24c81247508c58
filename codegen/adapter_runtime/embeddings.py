"""Mixins for methods at the embeddings. The methods are not built yet, and say so."""

from __future__ import annotations

from typing import Any, NoReturn

from adapter_runtime.errors import UnsupportedMethodError


def _refuse(what: str) -> NoReturn:
    raise UnsupportedMethodError(f"{what} are not supported yet.")


class EmbeddingAdaptersMixin:
    """Base of generated mixins of base models with token embeddings: further embeddings, by name."""

    def add_embeddings(self, *args: Any, **kwargs: Any) -> None:
        """Not supported yet."""
        _refuse("Further embeddings")

    def load_embeddings(self, *args: Any, **kwargs: Any) -> None:
        """Not supported yet."""
        _refuse("Further embeddings")

    def save_embeddings(self, *args: Any, **kwargs: Any) -> None:
        """Not supported yet."""
        _refuse("Further embeddings")

    def delete_embeddings(self, *args: Any, **kwargs: Any) -> None:
        """Not supported yet."""
        _refuse("Further embeddings")

    def set_active_embeddings(self, *args: Any, **kwargs: Any) -> None:
        """Not supported yet."""
        _refuse("Further embeddings")


class EmbeddingAdaptersWrapperMixin(EmbeddingAdaptersMixin):
    """The same for models around a base model."""


class InvertibleAdaptersMixin:
    """Base of generated mixins of base models whose embeddings can have an invertible adapter."""

    def add_invertible_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Not supported yet."""
        _refuse("Invertible adapters")
