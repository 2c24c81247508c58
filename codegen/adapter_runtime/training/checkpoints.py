"""What a checkpoint of adapters holds, beside what `Trainer` itself writes:

    <adapter>/               adapter_config.json, adapter.safetensors; and the head, where it has the name of the adapter
    <head>/                  head_config.json, model_head.safetensors
    <fusion>/                adapter_fusion_config.json, model_adapter_fusion.safetensors
    training_state.safetensors     what else is trained (embeddings, say), and how far the temperature of a fusion fell;
                                   absent if there is nothing of that kind

The weights of the base model are not in it. All files are read without unpickling anything but tensors.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from adapter_runtime.errors import AdapterFileError, AdapterMismatchError
from adapter_runtime.files.keys import fusion_owner, owner
from adapter_runtime.files.loading.commit import copy_tensors
from adapter_runtime.files.loading.fit import compare
from adapter_runtime.files.names import ADAPTER_FILES, FUSION_FILES, HEAD_FILES, FileSet
from adapter_runtime.files.tensors import Tensors, read_tensors, write_tensors
from adapter_runtime.heads.protocol import is_flexible
from adapter_runtime.model.api import ModelAdaptersMixin
from adapter_runtime.training.readiness import TrainingSetupError, is_frozen, trained_besides

logger = logging.getLogger(__name__)

OTHER_FILES = FileSet("training state", "", "training_state.safetensors", "training_state.bin")
_CHECKPOINT = re.compile(r"checkpoint-\d+")


def save_trained(model: ModelAdaptersMixin, folder: Path) -> None:
    """Write all adapters, fusions and heads, and whatever else is trained.

    Raises:
        TrainingSetupError: a name is that of a checkpoint of `Trainer`, which deletes old ones.
    """
    fusions, heads = list(model.adapters_config.fusions), _heads(model)
    _check_names([*model.adapters_config, *fusions, *heads])
    folder.mkdir(parents=True, exist_ok=True)
    for name in model.adapters_config:
        # The one head of other classes is written with each adapter, as by `adapters`.
        model.save_adapter(folder / name, name, with_head=not is_flexible(model))
    for name in fusions:
        model.save_adapter_fusion(folder / name, name, with_head=False)
    for name in heads:
        model.save_head(folder / name, name)
    others = {**_trained_besides(model), **_progress(model)}
    if others:
        write_tensors(folder, OTHER_FILES, others, use_safetensors=True)
    else:
        (folder / OTHER_FILES.safetensors).unlink(missing_ok=True)


def _trained_besides(model: ModelAdaptersMixin) -> Tensors:
    """What is trained beside adapters, fusions and heads. A base model that was never frozen is not trained either."""
    return dict(trained_besides(model)) if is_frozen(model) else {}


def _progress(model: ModelAdaptersMixin) -> Tensors:
    """Counters of fusions, which are in no state dict."""
    return {key: buffer for key, buffer in model.named_buffers() if fusion_owner(key) is not None}


def _heads(model: ModelAdaptersMixin) -> list[str]:
    return list(model.heads) if is_flexible(model) else []


def _check_names(names: Iterable[str]) -> None:
    for name in names:
        if _CHECKPOINT.fullmatch(name):
            raise TrainingSetupError(f"{name!r} is the name of a checkpoint of Trainer. Give another name.")


def load_trained(model: ModelAdaptersMixin, folder: Path) -> None:
    """Read into `model` what `save_trained`, or `adapters`, wrote for it. Nothing is added to the model.

    Raises:
        AdapterFileError: the folder holds no checkpoint, or not all that is active or trained.
        AdapterMismatchError: what it holds does not fit. Whatever the error, the model is unchanged.
    """
    held = {files: _inside(folder, files) for files in (ADAPTER_FILES, FUSION_FILES, HEAD_FILES)}
    known = {
        ADAPTER_FILES: list(model.adapters_config),
        FUSION_FILES: list(model.adapters_config.fusions),
        HEAD_FILES: _heads(model),
    }
    _require_all(model, folder, held)
    _report_unknown(folder, held, known)
    others = _read_others(model, folder)
    state = _state(model)
    with _values_restored_on_error(state, others):
        for name in known[ADAPTER_FILES]:
            if name in held[ADAPTER_FILES]:
                model.load_adapter(folder / name, load_as=name, with_head=not is_flexible(model))
        for name in known[FUSION_FILES]:
            if name in held[FUSION_FILES]:
                model.load_adapter_fusion(folder / name, load_as=name, with_head=False)
        for name in known[HEAD_FILES]:
            if name in held[HEAD_FILES]:
                model.load_head(folder / name, load_as=name, set_active=False)
        copy_tensors(others, state)


def _inside(folder: Path, files: FileSet) -> set[str]:
    """The names of folders in `folder` that hold `files`."""
    if not folder.is_dir():
        raise AdapterFileError(f"There is no checkpoint {folder}.")
    return {child.name for child in folder.iterdir() if (child / files.config).is_file()}


def _require_all(model: ModelAdaptersMixin, folder: Path, held: Mapping[FileSet, set[str]]) -> None:
    """Raise where a checkpoint lacks what runs or is trained: half of it would go on from random weights."""
    state = model.state_dict(keep_vars=True)
    trained = [key for key, parameter in state.items() if parameter.requires_grad]
    block = model.active_adapters
    needed = {
        ADAPTER_FILES: {own for key in trained if (own := owner(key))} | (block.flatten() if block else set()),
        FUSION_FILES: {own for key in trained if (own := fusion_owner(key))},
        HEAD_FILES: {name for name in _heads(model) if any(key.startswith(f"heads.{name}.") for key in trained)},
    }
    for files, names in needed.items():
        missing = sorted(names - held[files])
        if missing:
            found = ", ".join(sorted(held[files])) or "none"
            raise AdapterFileError(
                f"The checkpoint {folder} lacks the {files.kind} {missing[0]!r}, which the model runs or trains. It has:"
                f" {found}."
            )


def _report_unknown(folder: Path, held: Mapping[FileSet, set[str]], known: Mapping[FileSet, Sequence[str]]) -> None:
    for files, names in held.items():
        # A model with a static head has it in the folders of its adapters.
        unknown = names.difference(known[files]) - (held[ADAPTER_FILES] if files is HEAD_FILES else set())
        if unknown:
            logger.warning(
                "The checkpoint %s also holds the %s %s, which the model does not have: not loaded.",
                folder,
                files.kind,
                ", ".join(sorted(unknown)),
            )


def _read_others(model: ModelAdaptersMixin, folder: Path) -> Tensors:
    """What the checkpoint holds beside adapters, fusions and heads. Files of `adapters` have nothing of the kind."""
    path = folder / OTHER_FILES.safetensors
    given = read_tensors(folder, OTHER_FILES, use_safetensors=True) if path.is_file() else {}
    state = _state(model)
    expected = {**{key: state[key] for key in given.keys() & state.keys()}, **_trained_besides(model)}
    mismatch = compare(given, expected)
    if mismatch:
        raise AdapterMismatchError(f"{path} does not fit.\n{mismatch}")
    return given


def _state(model: ModelAdaptersMixin) -> Tensors:
    """The tensors that a checkpoint can hold, and those of the base model."""
    return {**model.state_dict(keep_vars=True), **_progress(model)}


@contextmanager
def _values_restored_on_error(state: Mapping[str, torch.Tensor], others: Iterable[str]) -> Iterator[None]:
    """Undo what was loaded before a later part failed."""
    base = {key for key in state if owner(key) is None and fusion_owner(key) is None and "heads" not in key.split(".")}
    kept = {key: tensor.detach().clone() for key, tensor in state.items() if key not in base or key in others}
    try:
        yield
    except BaseException:
        copy_tensors(kept, state)
        raise
