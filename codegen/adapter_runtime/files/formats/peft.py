"""A folder of PEFT's -> an adapter of the model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.contract.names import check_name
from adapter_runtime.errors import AdapterFileError, AdapterMismatchError, UnsupportedMethodError
from adapter_runtime.files.documents import blamed_on, read_document
from adapter_runtime.files.formats.peft_heads import read_heads
from adapter_runtime.files.keys import of_adapter
from adapter_runtime.files.loading.adapter import ConfigChange, add_for_load
from adapter_runtime.files.loading.commit import Transaction
from adapter_runtime.files.loading.fit import compare
from adapter_runtime.files.loading.leave_out import not_in_layers, without_layers
from adapter_runtime.files.loading.renames import Value, fit_names
from adapter_runtime.files.names import PEFT_FILES
from adapter_runtime.files.options import LoadOptions
from adapter_runtime.files.tensors import Tensors, read_tensors
from adapter_runtime.methods.peft_format import PeftFile
from adapter_runtime.methods.table import peft_formats

if TYPE_CHECKING:
    from adapter_runtime.model.api import ModelAdaptersMixin

DEFAULT_NAME = "default"  # PEFT's files do not say the name; this is the one that PEFT gives


def is_peft(folder: Path) -> bool:
    """Whether the adapter in `folder` was written by PEFT."""
    try:
        document = json.loads((folder / PEFT_FILES.config).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # to be reported by whoever reads it
    return isinstance(document, dict) and "peft_type" in document


def read_peft(
    model: ModelAdaptersMixin,
    folder: Path,
    change: ConfigChange,
    with_head: bool,
    options: LoadOptions,
    transaction: Transaction,
) -> str:
    """Read the adapter and, if asked for, the head in `folder`. Returns the name of the adapter.

    Raises:
        AdapterFileError: a file is missing or damaged.
        AdapterMismatchError: the tensors do not fit.
        UnsupportedMethodError: PEFT's method, or an option of it, has no counterpart.
    """
    document = read_document(folder / PEFT_FILES.config)
    kind = str(document["peft_type"])
    formats = peft_formats()
    if kind not in formats:
        raise UnsupportedMethodError(
            f"{folder} holds an adapter of PEFT's method {kind}. Those that can be read: {', '.join(sorted(formats))}."
        )
    name = check_name(DEFAULT_NAME if options.load_as is None else options.load_as)
    tensors = _without_wrappers(read_tensors(folder, PEFT_FILES, options.use_safetensors), formats[kind].is_prompt)
    marks = [mark for form in formats.values() for mark in form.marks]
    own = {key: tensor for key, tensor in tensors.items() if any(mark in f".{key}" for mark in marks)}
    if not own:
        raise AdapterFileError(f"The weights in {folder} hold no {kind} adapter.")
    with blamed_on(folder / PEFT_FILES.config):
        saved = PeftFile(document, own, name, options.strict, _NamesOf(model))
        config, given = formats[kind].read(model, saved)
        config = without_layers(model, _changed(config, change), options.leave_out)
        add_for_load(model, name, config)
    expected = of_adapter(model.state_dict(keep_vars=True), name)
    given = not_in_layers(model, given, options.leave_out)
    _require_fit(given, expected, folder)
    transaction.copy(given, expected)
    head = {key: tensor for key, tensor in tensors.items() if key not in own}
    if head and with_head:
        read_heads(model, document, head, name, transaction)
    return name


class _NamesOf:
    """Names what a file names as a model does."""

    def __init__(self, model: ModelAdaptersMixin) -> None:
        self.model = model

    def __call__(self, given: Mapping[str, Value], known: Iterable[str]) -> dict[str, Value]:
        return fit_names(given, known, self.model, self.model.base_model_prefix)


def _without_wrappers(tensors: Tensors, is_prompt: bool) -> Tensors:
    """Names as in the model that PEFT wrapped. It wraps once for prompts, and twice for adapted modules."""
    wrapper = "base_model." if is_prompt else "base_model.model."
    return {key.removeprefix(wrapper): tensor for key, tensor in tensors.items()}


def _changed(config: AdapterConfig, change: ConfigChange) -> AdapterConfig:
    if isinstance(change, (AdapterConfig, str)):
        return AdapterConfig.load(change)
    return config.replace(**change) if change else config


def _require_fit(given: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], folder: Path) -> None:
    mismatch: Any = compare(given, expected)
    if mismatch:
        raise AdapterMismatchError(f"The PEFT adapter in {folder} does not fit.\n{mismatch}\nThe model is unchanged.")
