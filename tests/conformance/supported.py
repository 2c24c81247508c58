"""`supports_adapter` says of every method, also of those that a model has no place for, what `add_adapter` does."""

from __future__ import annotations

from collections.abc import Iterable

from adapter_runtime.errors import AdapterError
from conformance.adapted import FIRST, initialised
from conformance.methods import METHODS, Method
from conformance.subjects import Subject


def supported_can_be_added(subject: Subject, methods: Iterable[Method] = METHODS) -> None:
    """And what is not supported cannot."""
    model = initialised(subject)
    for method in methods:
        answer = model.supports_adapter(method.config)
        try:
            model.add_adapter(FIRST, method.config)
        except AdapterError as error:
            if answer:
                raise AssertionError(f"supports_adapter says yes to {method}, and add_adapter: {error}") from error
        else:
            model.delete_adapter(FIRST)
            if not answer:
                raise AssertionError(f"supports_adapter says no to {method}, and add_adapter adds it")
