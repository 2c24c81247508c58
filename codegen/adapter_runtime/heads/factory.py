"""From the config of a head, as files hold it, to the head."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from adapter_runtime.errors import InvalidConfigError, nearest
from adapter_runtime.heads import HEAD_CLASSES
from adapter_runtime.heads.base import PredictionHead

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def head_from_config(model: PreTrainedModel, name: str, config: Mapping[str, Any]) -> PredictionHead:
    """Build the head `name` that `config` describes.

    Raises:
        InvalidConfigError: the type or an option is unknown.
    """
    options = dict(config)
    head_type = options.pop("head_type", None)
    if head_type == "classification" and options.pop("multilabel", False):
        head_type = "multilabel_classification"  # how files of earlier libraries say it
    if head_type not in HEAD_CLASSES:
        raise InvalidConfigError(f"There is no head of type {head_type!r}. {nearest(str(head_type), HEAD_CLASSES)}")
    label2id = options.pop("label2id", None)
    if label2id is not None:
        options["id2label"] = {int(index): label for label, index in label2id.items()}
    known = _options(HEAD_CLASSES[head_type])
    for option in options:
        if option not in known:
            raise InvalidConfigError(f"A {head_type} head has no option {option!r}. {nearest(option, known)}")
    return HEAD_CLASSES[head_type](model, name, **options)  # type: ignore[arg-type]


def _options(cls: type[PredictionHead]) -> set[str]:
    """All options that the constructors of `cls` and its bases take."""
    constructors = [base.__init__ for base in cls.__mro__ if issubclass(base, PredictionHead)]
    names = {name for constructor in constructors for name in inspect.signature(constructor).parameters}
    return names - {"self", "model", "head_name", "name", "config"}
