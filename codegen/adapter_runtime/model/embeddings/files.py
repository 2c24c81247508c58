"""Files of token embeddings: ``embedding.pt``, one parameter [V, E], and a folder ``tokenizer`` beside it, as in `adapters`."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from adapter_runtime.errors import AdapterFileError
from adapter_runtime.files.names import EMBEDDING_FILE, TOKENIZER_FOLDER


def write_embeddings(
    path: str | os.PathLike[str], weight: torch.Tensor, tokenizer: PreTrainedTokenizerBase | None
) -> None:
    """Write a weight [V, E], and a tokenizer if one is given. The file is never seen half written."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    target, new = folder / EMBEDDING_FILE, folder / f"{EMBEDDING_FILE}.new"
    try:
        torch.save(nn.Parameter(weight.detach().cpu().clone(), requires_grad=False), new)
        os.replace(new, target)
    finally:
        new.unlink(missing_ok=True)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder / TOKENIZER_FOLDER)


def read_embeddings(path: str | os.PathLike[str]) -> tuple[torch.Tensor, PreTrainedTokenizerBase | None]:
    """The weight [V, E], and the tokenizer or None.

    Raises:
        AdapterFileError: the file is missing or holds something else.
    """
    folder = Path(path)
    source = folder / EMBEDDING_FILE
    if not source.is_file():
        raise AdapterFileError(f"There is no {EMBEDDING_FILE} in {folder}. It is written by save_embeddings.")
    try:
        weight = torch.load(source, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise AdapterFileError(f"{source} cannot be read, or holds more than tensors: {error}") from error
    if not isinstance(weight, torch.Tensor) or weight.dim() != 2 or not weight.is_floating_point():
        raise AdapterFileError(f"{source} holds no table of embeddings, but {_shown(weight)}.")
    return weight.detach(), _tokenizer(folder / TOKENIZER_FOLDER)


def _shown(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {list(value.shape)} and type {value.dtype}"
    return f"a {type(value).__name__}"


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """The tokenizer in a folder; None where there is no such folder."""
    if not folder.is_dir():
        return None
    try:
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return found
    except (OSError, ValueError, KeyError) as error:
        raise AdapterFileError(f"The tokenizer in {folder} cannot be read: {error}") from error
