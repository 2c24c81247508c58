"""Heads of upstream's own classes (``BertForSequenceClassification``) as flexible heads, and back.

Which flexible head a class of upstream's has is in a table that the tool renders from upstream's code: `StaticHead`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
import transformers
from transformers import PreTrainedConfig
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.core_model_loading import PrefixChange, WeightRenaming

from adapter_runtime.contract.config_values import field_of
from adapter_runtime.contract.head_config import Factors, HeadConfig, StaticHeadConfig
from adapter_runtime.contract.registry import registered
from adapter_runtime.errors import InvalidConfigError
from adapter_runtime.heads.sizes import embedding_size, input_scale

DEFAULT_NAME = "default"
# Options of flexible heads -> what names the field of the model's config that decides.
_KEYS = {
    "bias": "bias_key",
    "embedding_size": "embedding_size_key",
    "hidden_bias": "hidden_bias_key",
    "norm_bias": "norm_bias_key",
    "norm_eps": "norm_eps_key",
    "logit_softcap": "softcap_key",
    "kept_tokens": "kept_tokens_key",
    "projection_size": "projection_size_key",
    "weighted_layers": "weighted_layers_key",
    "tdnn_dim": "tdnn_dim_key",
    "tdnn_kernel": "tdnn_kernel_key",
    "tdnn_dilation": "tdnn_dilation_key",
    "xvector_output_dim": "xvector_output_dim_key",
    "encoder_stride": "encoder_stride_key",
    "num_channels": "num_channels_key",
    "patch_size": "patch_size_key",
    "image_size": "image_size_key",
    "token_size": "token_size_key",
}
_BY_FIELDS = frozenset(
    {
        *_KEYS.values(),
        "activation_key",
        "input_factors",
        "logit_factors",
        "requires",
        "dropout_rates",
        "first_dropout_rates",
    }
)
# Their outputs are the tokens of the config, or pixels, and have no names.
_WITHOUT_LABELS = frozenset({"masked_lm", "causal_lm", "seq2seq_lm", "ctc", "masked_image_modeling"})
_MULTILABEL = frozenset({"image_classification", "video_classification", "audio_classification"})  # take that option
_FORMED = frozenset({"xvector", "masked_image_modeling"})  # their options have no defaults that do without them
_OF_LABELS = frozenset({"num_labels", "label2id"})
MULTI_LABEL = "multi_label_classification"  # upstream's `problem_type`


def is_static(class_name: str | None) -> bool:
    """Whether `class_name` is a class of upstream whose head has a flexible counterpart."""
    return class_name in registered().static_heads


def unmet(class_name: str, config: PreTrainedConfig) -> list[str]:
    """What the config of a static model would have to say for its head to be the flexible one; mostly nothing."""
    required = registered().static_heads[class_name]["config"].get("requires", {})
    stated = {name: field_of(config, name) for name in required}
    return [f"{name}={required[name]!r}, not {value!r}" for name, value in stated.items() if value != required[name]]


def classes_for(config: PreTrainedConfig) -> list[str]:
    """Upstream's classes for models with such a config whose heads have a flexible counterpart."""
    return [*registered().head_classes.get(type(config).__name__, ())]


def flexible_config(
    class_name: str,
    config: PreTrainedConfig | Mapping[str, object],
    model_config: PreTrainedConfig | None = None,
) -> HeadConfig:
    """The config of the flexible head for a static one.

    Args:
        class_name: upstream's class.
        config: config of the static model, or the document of a saved static head: gives the labels.
        model_config: config of the model, where `config` is a document.
    """
    fields = config if model_config is None else model_config
    head = _filled(registered().static_heads[class_name]["config"], fields)
    if field_of(config, "problem_type") == MULTI_LABEL:
        if head["head_type"] == "classification":
            head["head_type"] = "multilabel_classification"
        elif head["head_type"] in _MULTILABEL:
            head["multilabel"] = True
    labels = field_of(config, "num_labels")
    count = labels if isinstance(labels, int) and labels else 2
    if head["head_type"] == "multiple_choice":
        head.setdefault("num_choices", count)
    elif head["head_type"] not in _WITHOUT_LABELS:
        is_span = head["head_type"] == "question_answering"  # start and end, whatever labels the config names
        head.setdefault("num_labels", 2 if is_span else count)
        label2id = field_of(config, "label2id")
        head["label2id"] = None
        if isinstance(label2id, dict) and len(label2id) == head["num_labels"]:
            head["label2id"] = label2id
    return head


def _filled(static: StaticHeadConfig, fields: PreTrainedConfig | Mapping[str, object]) -> HeadConfig:
    """The options of a flexible head, with those that fields of the model's config decide."""
    options: dict[str, object] = {name: value for name, value in static.items() if name not in _BY_FIELDS}
    key = static.get("activation_key", "")
    activation = field_of(fields, key)
    if isinstance(activation, str):
        options["activation_function"] = activation
    elif key and "activation_function" not in options:
        raise InvalidConfigError(f"The config does not say {key}, the activation of upstream's head.")
    if "layers" in options:
        options.setdefault("activation_function", None)
    for name, key in _KEYS.items():
        value = field_of(fields, str(static.get(key, "")))
        if value is not None:
            options[name] = list(value) if isinstance(value, tuple) else value  # as files hold it
    scales = {"input_scale": static.get("input_factors"), "logit_scale": static.get("logit_factors")}
    options.update((name, _factor(factors, fields)) for name, factors in scales.items() if factors is not None)
    head: HeadConfig = {}
    head.update(options)  # type: ignore[typeddict-item]  # the keys are those of the table
    return head


def _factor(factors: Factors, fields: PreTrainedConfig | Mapping[str, object]) -> float:
    """A number that follows from the config of a model.

    Raises:
        InvalidConfigError: the config does not hold a field of it.
    """
    flag = factors.get("flag")
    if flag is not None and not field_of(fields, flag):
        return 1.0
    product = 1.0
    for base, power in factors["terms"]:
        number = field_of(fields, base) if isinstance(base, str) else base
        if not isinstance(number, (int, float)):
            raise InvalidConfigError(f"The config has no number {base!r}, which upstream's head multiplies by.")
        product *= float(number) ** float(power)
    return product


def key_mapping(class_name: str, head_name: str, base_model_prefix: str) -> dict[str, str]:
    """Patterns of a static model's keys -> names in the flexible one, as ``from_pretrained(key_mapping=...)`` takes.

    Args:
        class_name: upstream's class.
        head_name: of the head in the flexible model.
        base_model_prefix: of the flexible model; a class may keep its base model elsewhere (LlamaForQuestionAnswering).
    """
    layers = registered().static_heads[class_name]["layers"]
    modules = {path: f"heads.{head_name}.{index}" for index, path in enumerate(layers) if path and not is_list(path)}
    mapping = {rf"^{re.escape(path)}\.(weight|bias)$": rf"{target}.\1" for path, target in modules.items()}
    lists = {f"heads.{head_name}.{index}": path for index, path in enumerate(layers) if path and is_list(path)}
    for target, path in lists.items():  # one by one: upstream fills in one group of a pattern
        mapping |= {rf"{of_list(path)}\.{leaf}$": rf"{target}.\1.{leaf}" for leaf in ("weight", "bias")}
    for alias, key in _tied_keys(class_name).items():
        path, _, leaf = alias.rpartition(".")
        if path in modules:
            mapping[rf"^{re.escape(key)}$"] = f"{modules[path]}.{leaf}"
    for key, target in registered().static_heads[class_name].get("tensors", {}).items():
        mapping[rf"^{re.escape(key)}$"] = f"heads.{head_name}.{target}"
    own_prefix = getattr(transformers, class_name).base_model_prefix
    if own_prefix != base_model_prefix:
        mapping[rf"^{re.escape(own_prefix)}\."] = f"{base_model_prefix}."
    return {**_older_names(class_name, modules), **mapping}


def is_list(path: str) -> bool:
    """Whether a path of upstream's modules has a star, for the numbers of a list."""
    return "*" in path.split(".")


def of_list(path: str) -> str:
    """The pattern of the modules that a path with a star names; its group is the number."""
    return "^" + re.escape(path).replace(r"\*", r"(\d+)")


def _older_names(class_name: str, modules: Mapping[str, str]) -> dict[str, str]:
    """Patterns of the names that files have, where upstream renames what it reads: GPT-NeoX's "embed_out" is its "lm_head"."""
    cls = getattr(transformers, class_name)
    known = get_checkpoint_conversion_mapping(class_name) or get_checkpoint_conversion_mapping(
        cls.config_class.model_type
    )
    renamings = [one for one in known or () if isinstance(one, WeightRenaming) and not isinstance(one, PrefixChange)]
    found = {}
    for path, target in modules.items():
        for leaf in ("weight", "bias"):
            name = f"{path}.{leaf}"
            for renaming in reversed(renamings):
                name, _ = renaming.reverse_transform().rename_source_key(name)
            if name != f"{path}.{leaf}":
                found[rf"^{re.escape(name)}$"] = f"{target}.{leaf}"
    return found


def _tied_keys(class_name: str) -> dict[str, str]:
    """Parameters that a static head shares with another of its own ("decoder.bias" with "predictions.bias").

    Those that it shares with the embeddings belong to the base model, which it may keep elsewhere than it says (Llama 4).
    """
    tied = getattr(getattr(transformers, class_name), "_tied_weights_keys", None) or {}
    return {alias: key for alias, key in tied.items() if alias.partition(".")[0] == key.partition(".")[0]}


def differences(class_name: str, head: HeadConfig, config: PreTrainedConfig) -> list[str]:
    """The options in which a flexible head differs from that of a static class; none where both compute the same.

    Args:
        class_name: upstream's class.
        head: config of the flexible head.
        config: of the static model.
    """
    if not is_static(class_name):
        return [f"{class_name} has no head of a kind that is known"]
    missing = unmet(class_name, config)
    if missing:
        return [f"the config has {', '.join(missing)}"]
    static = flexible_config(class_name, config)
    if _kind(head) != _kind(static):
        return [f"head_type: {head.get('head_type')} and {static['head_type']}"]
    if head.get("head_type") in _FORMED:
        return [
            f"{name}: {head.get(name)!r} and {own!r}" for name, own in static.items() if not _is_like(head, name, own)
        ]
    options: HeadConfig = {"layers": 1, "bias": True, "use_pooler": False, "shift_labels": False}
    if head.get("layers", 1) != 1:
        options.update({"activation_function": None, "layer_norm": False, "norm_bias": True, "hidden_bias": True})
        options["projection_size"] = None
    options.update({"input_norm": False, "weighted_layers": False})
    if str(head.get("head_type")).endswith("_lm"):
        options.update({"input_scale": input_scale(config), "logit_scale": 1.0})
        options.update({"logit_softcap": None, "kept_tokens": None})
        if head.get("layers", 1) != 1:
            options["embedding_size"] = embedding_size(config)
    pairs = {name: (head.get(name, default), static.get(name, default)) for name, default in options.items()}
    return [f"{name}: {own!r} and {theirs!r}" for name, (own, theirs) in pairs.items() if own != theirs]


def _is_like(head: HeadConfig, name: str, own: object) -> bool:
    """Whether an option of a head is that of another one, which only names its labels otherwise."""
    return name in _OF_LABELS or head.get(name) == own


def _kind(head: HeadConfig) -> str | None:
    """The type of a head, for comparison: a multi-label head has the same layers as a classification head."""
    kind = head.get("head_type")
    return "classification" if kind == "multilabel_classification" else kind


def static_keys(
    class_name: str, head_name: str, tensors: Mapping[str, torch.Tensor], prefix: str, own_prefix: str
) -> dict[str, torch.Tensor]:
    """Tensors of a flexible head, and of its base model, under the names that upstream's class gives them.

    Args:
        class_name: upstream's class.
        head_name: of the flexible head.
        tensors: as the flexible model names them.
        prefix: under which the base model is in `tensors`.
        own_prefix: under which the class has it; "" where it holds the parts of a base model itself.
    """
    layers = registered().static_heads[class_name]["layers"]
    modules = {f"heads.{head_name}.{index}": path for index, path in enumerate(layers) if path}
    further = registered().static_heads[class_name].get("tensors", {})
    others = {f"heads.{head_name}.{target}": key for key, target in further.items()}
    tied = _tied_keys(class_name)
    result = {}
    for key, tensor in tensors.items():
        module, _, leaf = key.rpartition(".")
        owner, _, number = module.rpartition(".")
        if key in others:
            result[others[key]] = tensor
        elif module in modules:
            name = f"{modules[module]}.{leaf}"
            result[name] = tensor
            if name in tied:
                result[tied[name]] = tensor
        elif is_list(modules.get(owner, "")):
            result[f"{modules[owner].replace('*', number)}.{leaf}"] = tensor
        else:
            inner = key.removeprefix(f"{prefix}.")
            result[f"{own_prefix}.{inner}" if own_prefix else inner] = tensor
    return result
