"""Reading checkpoints: a file is in the names of the class that wrote it, which need not be those of the model.

Upstream looks up how to rename what it reads by the name of the model's class, then by its model type. A checkpoint of
``Qwen2VLForConditionalGeneration`` has ``visual...`` and ``model.layers...``, which only that class renames. An adapter model that
reads it bears the name of that class meanwhile.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import transformers
from transformers import MODEL_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming

from adapter_runtime.contract.registry import registered
from adapter_runtime.files.api.elsewhere import names_in, skeleton_of, tied_names, with_renaming
from adapter_runtime.files.api.random_parts import Reading, tell_what_is_random
from adapter_runtime.heads.static import is_static, unmet

if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Upstream  # what a mixin may count on
else:
    _Upstream = object

logger = logging.getLogger(__name__)

Value = TypeVar("Value")

_UNREAD = "_unread"  # attribute of a model while it is read: see `Reading`


# (transformers has no types for mypy, so that a class of it is Any.)
class ReadCheckpointsMixin(_Upstream):  # type: ignore[misc]
    """`from_pretrained` of all adapter models."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> Any:
        """See transformers. The checkpoint may be that of any class of upstream for the model type.

        Where that class has a head which the model does not have, a warning says that it is left out. One more names what of the base model
        the checkpoint does not have, so that it begins with random values.

        Args:
            allow_random_parts: take a model of which the checkpoint lacks whole parts (an encoder-decoder of which it has the encoder).

        Raises:
            AdapterMismatchError: it lacks some, they may not be random, and no flexible head is left without them.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        allow_random_parts = kwargs.pop("allow_random_parts", False)
        given = kwargs.pop("config", None)
        config, kwargs = resolve_config(cls.config_class, pretrained_model_name_or_path, given, kwargs)
        architecture = architecture_of(config)
        _leave_renaming_to_base(cls, config.model_type)
        _keep_from_the_prefix(cls)
        reader = reader_of(cls, architecture)
        model, info = super(ReadCheckpointsMixin, reader).from_pretrained(
            pretrained_model_name_or_path, *args, config=config, output_loading_info=True, **kwargs
        )
        if reader is not cls:
            model.__class__ = cls
            forget_renaming(model)
        unread = model.__dict__.pop(_UNREAD, info["missing_keys"])
        tell_what_is_random(model, architecture, Reading(info, unread), allow_random_parts)
        lost = sorted(info["unexpected_keys"]) or _tied_head(model, architecture)
        if architecture is not None and lost:
            _tell_what_is_lost(model, architecture, lost)
        return (model, info) if wants_info else model

    @staticmethod
    def _load_pretrained_model(
        model: PreTrainedModel,
        state_dict: dict[str, Any] | None,
        checkpoint_files: list[str] | None,
        load_config: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """See transformers: here the model has been built, and nothing has been read yet.

        A renaming that is not the model's own is not undone when it is saved.
        """
        names = names_in(state_dict, checkpoint_files)
        load_config, added = with_renaming(load_config, model, architecture_of(model.config), names)
        info, offloaded = PreTrainedModel._load_pretrained_model(
            model, state_dict, checkpoint_files, load_config, *args, **kwargs
        )
        if added:
            forget_renaming(model)
        # Upstream takes what it ties out of this set, and reports another. Who gives no tensor at all wants random ones.
        model.__dict__[_UNREAD] = info.missing_keys if names else set()
        return info, offloaded


def _leave_renaming_to_base(cls: type[PreTrainedModel], model_type: str) -> None:
    """Let the base model in objects of `cls` rename what is its own, where a rule of the model type asks what stands before a name, or where
    each class that may be this base model has rules of its own beside those of the type (TIPSv2's of depth, normals and segments).

    The names of an adapter model have the prefix of its base model in front, so that such a rule would find its name a second time, and
    further on (DINOv3's ``layer.`` in ``layer_scale``). What upstream registers for a class comes before the rules of its type, and those of a
    model inside are told only the names behind its own.
    """
    rules = get_checkpoint_conversion_mapping(model_type) or []
    asks = any("(?<!" in pattern for rule in rules for pattern in rule.source_patterns)
    if asks or (rules and _all_have_own_names(cls.config_class, model_type)):
        register_checkpoint_conversion_mapping(cls.__name__, [], overwrite=True)


def _all_have_own_names(config_class: type[PreTrainedConfig], model_type: str) -> bool:
    """Whether upstream has no base model of the type, and renames for each of its classes by the name of the class."""
    if MODEL_MAPPING.get(config_class, None) is not None:
        return False
    classes = registered().own_classes.get(model_type)
    names = [dotted.rpartition(".")[2] for dotted in classes.model_mixins] if classes else []
    own = [name for name in names if getattr(getattr(transformers, name, None), "config_class", None) is config_class]
    return bool(own) and all(_names_of(name) is not None for name in own)


def _keep_from_the_prefix(cls: type[PreTrainedModel]) -> None:
    """Put the prefix of `cls` before names that its base model renames, where they begin with that prefix themselves.

    A file of Mimi's encoder has ``encoder.layers.0``, which is its ``encoder_seanet.layers.0``; in an adapter model, where it is called
    ``encoder``, upstream would take the first word for that. Only where the rule is a name with nothing to match in it.
    """
    base, prefix = MODEL_MAPPING.get(cls.config_class, None), cls.base_model_prefix
    rules = get_checkpoint_conversion_mapping(base.__name__) if isinstance(base, type) else None
    patterns = [pattern for rule in rules or () for pattern in rule.source_patterns if pattern.startswith("^")]
    names = [pattern[1:].replace(r"\.", ".") for pattern in patterns]
    taken = [name for name in names if name.startswith(f"{prefix}.") and re.fullmatch(r"[\w.]+", name)]
    if taken and get_checkpoint_conversion_mapping(cls.__name__) is None:
        own = [WeightRenaming(f"^{re.escape(name)}", f"{prefix}.{name}") for name in taken]
        register_checkpoint_conversion_mapping(cls.__name__, own)


def reader_of(cls: type[PreTrainedModel], architecture: str | None) -> type[PreTrainedModel]:
    """The class whose objects upstream reads a checkpoint of `architecture` into: `cls` itself, where that one has no names of its own.

    Otherwise it is a subclass with the name of `architecture`, by which upstream looks up the names.
    """
    upstream = getattr(transformers, architecture or "", None)
    is_of_type = getattr(upstream, "config_class", None) is cls.config_class
    names = _names_of(architecture) if architecture is not None and is_of_type else None
    base = MODEL_MAPPING.get(cls.config_class, None)
    if architecture is None or names is None or (isinstance(base, type) and names == _names_of(base.__name__)):
        return cls  # what the base model in `cls` renames must not be renamed twice: a backbone has the names of its base model
    return type(architecture, (cls,), {"__module__": cls.__module__, "__doc__": cls.__doc__})


def _names_of(class_name: str) -> str | None:
    """What upstream renames for a class, by the name of the class; None where it has no names of its own."""
    conversions = get_checkpoint_conversion_mapping(class_name)
    return None if conversions is None else repr(conversions)


def forget_renaming(model: PreTrainedModel) -> None:
    """Keep upstream from undoing, when it saves, a renaming that is not the model's own: what is saved then is an adapter model."""
    model.__dict__.pop("_weight_conversions", None)


def architecture_of(config: PreTrainedConfig) -> str | None:
    """The name of the class that wrote a checkpoint; None where its config does not say."""
    name: str | None = (config.architectures or [None])[0]
    return name


def _tied_head(model: PreTrainedModel, architecture: str | None) -> list[str]:
    """The weights of a head that a class of upstream ties to its embeddings, so that they are in no file, and that a model without heads lacks."""
    upstream = getattr(transformers, architecture or "", None)
    if getattr(model.config, "prediction_heads", None) or upstream in (
        *type(model).__mro__,
        *type(model.base_model).__mro__,
    ):
        return []
    held = set(model.base_model.state_dict(keep_vars=True))
    return sorted(
        name for name in _tied_in(upstream, model.config) if not any(_is_same_end(name, known) for known in held)
    )


def _tied_in(upstream: type[PreTrainedModel] | None, config: PreTrainedConfig) -> set[str]:
    """The names in a class of upstream of weights that have several.

    By what a model of the class holds, since a model inside of it may tie its own (the language model of Kosmos-2.5), and a constructor may.
    """
    if upstream is None:
        return set()
    is_of_config = isinstance(config, getattr(upstream, "config_class", None) or ())
    skeleton = skeleton_of(upstream, config) if is_of_config else None
    # None: the checkpoint names a class of another type, or one that upstream refuses to make of the config
    if skeleton is None:
        return set(getattr(upstream, "_tied_weights_keys", None) or ())
    return {name for group in tied_names(skeleton) for name in group}


def _is_same_end(name: str, other: str) -> bool:
    """Whether one name is the other, below further modules."""
    return f".{other}".endswith(f".{name}") or f".{name}".endswith(f".{other}")


def _tell_what_is_lost(model: PreTrainedModel, architecture: str, left_over: Sequence[str]) -> None:
    """Warn where a checkpoint is that of a class with a head, of which the model has none now, or not all."""
    own = {cls.__name__ for part in (model, model.base_model) for cls in type(part).__mro__}
    if architecture in own:
        return
    if getattr(model.config, "prediction_heads", None):  # which the head has become
        logger.warning(
            "The checkpoint is that of a %s. Of its head, what no flexible head has is not loaded: %s. To have it, call init on"
            " upstream's own class.",
            architecture,
            ", ".join(sorted({key.partition(".")[0] for key in left_over})),
        )
        return
    reason = "no flexible head computes what that one does"
    if is_static(architecture):
        reason = f"it is one of a kind that this library does not have: {'; '.join(unmet(architecture, model.config))}"
    logger.warning(
        "The checkpoint is that of a %s. Its head is not loaded: %s. The model has no head%s, call init on upstream's own"
        " class.",
        architecture,
        reason,
        "; add one with add_..._head, or" if hasattr(model, "heads") else ". To have it",
    )


def resolve_config(
    config_class: type[PreTrainedConfig],
    source: str | os.PathLike[str] | None,
    given: PreTrainedConfig | str | os.PathLike[str] | None,
    kwargs: dict[str, Value],
) -> tuple[PreTrainedConfig, dict[str, Value]]:
    """The config of a checkpoint, with the options in `kwargs` that belong to it, and the other arguments.

    Args:
        config_class: of the model.
        source: folder or repository of the checkpoint; None = there is none, and a config is given.
        given: the argument ``config``: the config itself, or a folder or repository of it.
        kwargs: the other arguments of `from_pretrained`.
    """
    if isinstance(given, PreTrainedConfig):
        return config_for(config_class, given), kwargs
    of_config = {name: value for name, value in kwargs.items() if name not in _OF_THE_MODEL}
    config, unused = config_class.from_pretrained(
        source if given is None else given, return_unused_kwargs=True, **of_config
    )
    of_model = {name: value for name, value in kwargs.items() if name in _OF_THE_MODEL | _OF_BOTH}
    return config, {**unused, **of_model}


def config_for(of: type, config: PreTrainedConfig) -> PreTrainedConfig:
    """What a model is made from: `config`, or the part of it that the model is one of (MusicGen's decoder).

    Args:
        of: the class of configs that the model takes.
    """
    if isinstance(config, of):
        return config
    return next((getattr(config, name) for name, cls in config.sub_configs.items() if cls is of), config)


# Arguments of from_pretrained that a config would take for values of its own, ...
_OF_THE_MODEL = frozenset({"attn_implementation", "dtype", "quantization_config", "torch_dtype"})
# ... and those by which both the config and the weights are found.
_OF_BOTH = frozenset({"cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token"})
