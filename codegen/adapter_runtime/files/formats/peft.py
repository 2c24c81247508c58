"""Files of PEFT: ``adapter_config.json`` with a "peft_type", and ``adapter_model.safetensors`` with the adapter and its head.

Each method has its own formats in its folder (``methods/lora/peft/low_rank.py``) and lists them in its `MethodSpec`. What they share is in
``methods/common/peft_format.py``. A new format goes there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.errors import AdapterFileError, UnsupportedMethodError
from adapter_runtime.files.documents import Document
from adapter_runtime.files.formats.peft_heads import of_base_model, saved_head
from adapter_runtime.files.formats.renames import Value, fit_names
from adapter_runtime.files.formats.saved import SavedAdapter
from adapter_runtime.files.names import PEFT_FILES
from adapter_runtime.files.options import LoadOptions
from adapter_runtime.files.tensors import Tensors, read_tensors
from adapter_runtime.methods.common.along.copies import CONTAINER as TRAINED_ALONG
from adapter_runtime.methods.common.peft_format import PeftFile
from adapter_runtime.methods.table import peft_formats

DEFAULT_NAME = "default"  # PEFT's files do not say the name; this is the one that PEFT gives


def recognise(document: Document) -> bool:
    """Whether PEFT wrote the document of an adapter."""
    return "peft_type" in document


def read(model: AdaptedModel, folder: Path, document: Document, options: LoadOptions) -> SavedAdapter:
    """The adapter in `folder`, with the config that gives the outputs of PEFT's in `model`, and the head beside it.

    Raises:
        AdapterFileError: a file is missing or damaged.
        UnsupportedMethodError: PEFT's method, or an option of it, has no counterpart here.
    """
    kind, formats = str(document["peft_type"]), peft_formats()
    if kind not in formats:
        raise UnsupportedMethodError(
            f"{folder} holds an adapter of PEFT's method {kind}. Those that can be read: {', '.join(sorted(formats))}."
        )
    tensors = _without_wrappers(read_tensors(folder, PEFT_FILES, options.use_safetensors), formats[kind].is_prompt)
    marks = [mark for form in formats.values() for mark in form.marks]
    own = {key: tensor for key, tensor in tensors.items() if any(mark in f".{key}" for mark in marks)}
    if not own:
        raise AdapterFileError(f"The weights in {folder} hold no {kind} adapter.")
    formats[kind].check_model(model)
    file = PeftFile(document, own, DEFAULT_NAME, options.strict, _NamesOf(model))
    config, given = formats[kind].read(model, file)
    rest = {key: tensor for key, tensor in tensors.items() if key not in own}
    along = of_base_model(model, rest)
    if along:
        paths = {id(module): path for path, module in model.named_modules()}
        start = paths[id(model.adapters_base)]
        config = config.replace(also_train=tuple(sorted({key.rpartition(".")[0] for key in along})))
        given = {**given, **{_of_copy(f"{start}.{key}" if start else key): tensor for key, tensor in along.items()}}
        prefix = f"{model.base_model_prefix}."
        rest = {key: tensor for key, tensor in rest.items() if key.removeprefix(prefix) not in along}
    return SavedAdapter(
        folder=folder,
        name=DEFAULT_NAME,
        config=config,
        tensors=given,
        written_as=DEFAULT_NAME,
        title=f"The PEFT adapter in {folder}",
        head=saved_head(model, folder, document, rest) if rest and options.with_head else None,
    )


def _of_copy(key: str) -> str:
    """The name of an adapter's copy of a tensor."""
    path, _, leaf = key.rpartition(".")
    return f"{path}.{TRAINED_ALONG}.{DEFAULT_NAME}.{leaf}"


class _NamesOf:
    """Renames keys of a file to those of one model; see `FitNames`."""

    def __init__(self, model: AdaptedModel) -> None:
        self.model = model

    def __call__(self, given: Mapping[str, Value], known: Iterable[str]) -> dict[str, Value]:
        return fit_names(given, known, self.model, self.model.base_model_prefix)


def _without_wrappers(tensors: Tensors, is_prompt: bool) -> Tensors:
    """The tensors with keys as in the model that PEFT wrapped. It wraps once for prompts, and twice for adapted modules."""
    wrapper = "base_model." if is_prompt else "base_model.model."
    return {key.removeprefix(wrapper): tensor for key, tensor in tensors.items()}
