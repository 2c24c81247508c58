"""Errors about heads."""

from __future__ import annotations

from adapter_runtime.errors import AdapterError


class UnknownHeadError(AdapterError, ValueError):
    """A name that no head of the model has."""


class UnsupportedHeadError(AdapterError, ValueError):
    """A type of head that makes no sense for the model."""
