"""From the config of a head, as files hold it, to the head."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING

from adapter_runtime.contract.head_config import LogitOptions, TransformOptions
from adapter_runtime.errors import InvalidConfigError, nearest
from adapter_runtime.heads.base import PredictionHead
from adapter_runtime.heads.classes import HEAD_CLASSES
from adapter_runtime.heads.custom import HeadClass, custom_head_class
from adapter_runtime.heads.kinds.language_modeling import LanguageModelingHead

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What a head can differ in from another with the same layers.
_WITHOUT_WEIGHT = frozenset({"label2id", "id2label", "dropout_prob"})


def head_from_config(
    model: PreTrainedModel, name: str, config: Mapping[str, object], custom: Mapping[str, HeadClass] | None = None
) -> PredictionHead:
    """Build the head `name` that `config` describes.

    Args:
        model: the model that the head is for.
        name: the name of the head in it.
        config: as files hold it, of this or of earlier libraries.
        custom: classes of the model's own, by the type that files give them.

    Raises:
        InvalidConfigError: the type or an option is unknown.
    """
    options = canonical(config)
    head_type = options.pop("head_type", None)
    if not isinstance(head_type, str) or head_type not in HEAD_CLASSES:
        return custom_head(model, name, str(head_type), custom_head_class(head_type, custom or {}), options)
    head_class = HEAD_CLASSES[head_type]
    _name_labels(options)
    if options.get("label2id") is None:
        options.pop("label2id", None)  # how files say that a head has no labels
    known = _options(head_class)
    for option in options:
        if option not in known:
            raise InvalidConfigError(f"A {head_type} head has no option {option!r}. {nearest(option, known)}")
    return _built(head_class, _bound(head_class, model, name, options))


def canonical(config: Mapping[str, object]) -> dict[str, object]:
    """`config` as this library writes it."""
    options = dict(config)
    if options.get("head_type") == "classification" and options.pop("multilabel", False):
        options["head_type"] = "multilabel_classification"  # how files of earlier libraries say it
    id2label = options.get("id2label")
    if isinstance(id2label, Mapping):
        options["label2id"] = {label: int(index) for index, label in id2label.items()}
    if id2label is None or isinstance(id2label, Mapping):
        options.pop("id2label", None)
    return options


def custom_head(
    model: PreTrainedModel, name: str, identifier: str, head_class: HeadClass, options: Mapping[str, object]
) -> PredictionHead:
    """Build a head of a user's own.

    Args:
        model: the model that the head is for.
        name: the name of the head in it.
        identifier: under which the class is registered.
        head_class: the class.
        options: for its constructor, after the model and the name.

    Raises:
        InvalidConfigError: its constructor does not take the options.
    """
    given = dict(options)
    if "label2id" not in inspect.signature(head_class).parameters:
        _name_labels(given)
    try:
        arguments = _bound(head_class, model, name, given)
    except TypeError as error:
        raise InvalidConfigError(
            f"{head_class.__name__}, the class of the {identifier} head {name!r}, does not take the options"
            f" {', '.join(given) or 'that it is given'}: {error}."
        ) from error
    head = _built(head_class, arguments)
    head.config["head_type"] = identifier
    return head


def _bound(
    head_class: HeadClass, model: PreTrainedModel, name: str, options: Mapping[str, object]
) -> inspect.BoundArguments:
    """The arguments of the constructor of `head_class`, which takes a model, a name, and options of its own.

    Raises:
        TypeError: it does not take these options.
    """
    return inspect.signature(head_class).bind(model, name, **options)


def _built(head_class: HeadClass, arguments: inspect.BoundArguments) -> PredictionHead:
    return head_class(*arguments.args, **arguments.kwargs)


def _name_labels(options: dict[str, object]) -> None:
    """Replace ``label2id``, which files hold, by ``id2label``, which constructors take."""
    label2id = options.get("label2id")
    if isinstance(label2id, Mapping):
        del options["label2id"]
        options["id2label"] = {int(index): label for label, index in label2id.items()}


def same_layers(config: Mapping[str, object], other: Mapping[str, object]) -> bool:
    """Whether heads of both configs have the same layers: what both say is the same, but for names of labels and dropout."""
    first, second = canonical(config), canonical(other)
    return all(first[key] == second[key] for key in (first.keys() & second.keys()) - _WITHOUT_WEIGHT)


def _options(cls: type[PredictionHead]) -> set[str]:
    """All options that the constructors of `cls` and its bases take."""
    constructors = [base.__init__ for base in cls.__mro__ if issubclass(base, PredictionHead)]
    parameters = [one for constructor in constructors for one in inspect.signature(constructor).parameters.values()]
    names = {parameter.name for parameter in parameters if parameter.kind is not inspect.Parameter.VAR_KEYWORD}
    rest = LogitOptions if issubclass(cls, LanguageModelingHead) else TransformOptions
    takes_rest = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    return {*names, *(rest.__annotations__ if takes_rest else ())} - {"self", "model", "head_name", "name", "config"}
