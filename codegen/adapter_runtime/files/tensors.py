"""Reading and writing named tensors: safetensors, or torch's pickle restricted to tensors."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from adapter_runtime.errors import AdapterFileError
from adapter_runtime.files.documents import write_atomically
from adapter_runtime.files.names import FileSet

Tensors = dict[str, torch.Tensor]


def write_tensors(folder: Path, files: FileSet, tensors: Mapping[str, torch.Tensor], use_safetensors: bool) -> None:
    """Write the tensors in one format and remove the file of the other, so that a reader cannot take a stale one."""
    # Copies: no file may hold a whole storage of which a tensor is a view, and safetensors refuses shared ones.
    plain = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    if use_safetensors:
        target, other = folder / files.safetensors, folder / files.pickle
        write_atomically(target, lambda path: save_file(plain, path, metadata={"format": "pt"}))
    else:
        target, other = folder / files.pickle, folder / files.safetensors
        write_atomically(target, lambda path: torch.save(plain, path))
    other.unlink(missing_ok=True)


def read_tensors(folder: Path, files: FileSet, use_safetensors: bool | None = None) -> Tensors:
    """The tensors of `folder`, from safetensors where both formats are there.

    Args:
        use_safetensors: take this format only; None takes what is there.

    Raises:
        AdapterFileError: no such file, a damaged one, or one that holds more than tensors.
    """
    formats = {True: files.safetensors, False: files.pickle}
    wanted = [name for is_safe, name in formats.items() if use_safetensors in (None, is_safe)]
    path = next((folder / name for name in wanted if (folder / name).is_file()), None)
    if path is None:
        raise AdapterFileError(f"{folder} has no weights of a {files.kind}: looked for {' and '.join(wanted)}.")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)


def _read_safetensors(path: Path) -> Tensors:
    try:
        return load_file(path, device="cpu")
    except (SafetensorError, ValueError) as error:
        raise AdapterFileError(f"{path} is damaged: {error}.") from error


def _read_pickle(path: Path) -> Tensors:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AdapterFileError(f"{path} is damaged, or holds objects other than tensors: {reason}") from error
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in content.items()
    ):
        raise AdapterFileError(f"{path} does not hold named tensors only.")
    return content


def without_aliases(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Each tensor once, under the first of its names."""
    seen: set[int] = set()
    result = {}
    for key, tensor in tensors.items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            result[key] = tensor
    return result
