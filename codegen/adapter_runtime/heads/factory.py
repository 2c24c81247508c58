"""From the config of a head, as files hold it, to the head."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from adapter_runtime.errors import InvalidConfigError, nearest
from adapter_runtime.heads.base import PredictionHead
from adapter_runtime.heads.classes import HEAD_CLASSES
from adapter_runtime.heads.custom import HeadClass, custom_head_class

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What a head can differ in from another with the same layers.
_WITHOUT_WEIGHT = frozenset({"label2id", "id2label", "dropout_prob"})


def head_from_config(
    model: PreTrainedModel, name: str, config: Mapping[str, Any], custom: Mapping[str, HeadClass] | None = None
) -> PredictionHead:
    """Build the head `name` that `config` describes.

    Args:
        custom: classes of the model's own, by the type that files give them.

    Raises:
        InvalidConfigError: the type or an option is unknown.
    """
    options = canonical(config)
    head_type = options.pop("head_type", None)
    if head_type not in HEAD_CLASSES:
        return custom_head(model, name, str(head_type), custom_head_class(head_type, custom or {}), options)
    label2id = options.pop("label2id", None)
    if label2id is not None:
        options["id2label"] = {int(index): label for label, index in label2id.items()}
    known = _options(HEAD_CLASSES[head_type])
    for option in options:
        if option not in known:
            raise InvalidConfigError(f"A {head_type} head has no option {option!r}. {nearest(option, known)}")
    return HEAD_CLASSES[head_type](model, name, **options)  # type: ignore[arg-type]


def canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` as this library writes it."""
    options = dict(config)
    if options.get("head_type") == "classification" and options.pop("multilabel", False):
        options["head_type"] = "multilabel_classification"  # how files of earlier libraries say it
    id2label = options.pop("id2label", None)
    if id2label is not None:
        options["label2id"] = {label: int(index) for index, label in id2label.items()}
    return options


def custom_head(
    model: PreTrainedModel, name: str, identifier: str, head_class: HeadClass, options: Mapping[str, Any]
) -> PredictionHead:
    """Build a head of a user's own.

    Raises:
        InvalidConfigError: its constructor does not take the options.
    """
    given = dict(options)
    signature = inspect.signature(head_class)
    if given.get("label2id") is not None and "label2id" not in signature.parameters:
        given["id2label"] = {int(index): label for label, index in given.pop("label2id").items()}
    try:
        signature.bind(model, name, **given)
    except TypeError as error:
        raise InvalidConfigError(
            f"{head_class.__name__}, the class of the {identifier} head {name!r}, does not take the options"
            f" {', '.join(given) or 'that it is given'}: {error}."
        ) from error
    head: PredictionHead = head_class(model, name, **given)  # type: ignore[arg-type]
    head.config["head_type"] = identifier
    return head


def same_layers(config: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether heads of both configs have the same layers: what both say is the same, but for names of labels and dropout."""
    first, second = canonical(config), canonical(other)
    return all(first[key] == second[key] for key in (first.keys() & second.keys()) - _WITHOUT_WEIGHT)


def _options(cls: type[PredictionHead]) -> set[str]:
    """All options that the constructors of `cls` and its bases take."""
    constructors = [base.__init__ for base in cls.__mro__ if issubclass(base, PredictionHead)]
    names = {name for constructor in constructors for name in inspect.signature(constructor).parameters}
    return names - {"self", "model", "head_name", "name", "config"}
