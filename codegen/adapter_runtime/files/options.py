"""How files are read: what the callers of `load_adapter` and its relatives can choose."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# What `huggingface_hub` takes besides the repository and the revision.
DOWNLOAD_OPTIONS = frozenset({"cache_dir", "force_download", "local_files_only", "subfolder", "token"})


@dataclass(frozen=True)
class LoadOptions:
    """How files are read."""

    load_as: str | None = None  # name in the model; None = the name in the file
    strict: bool = True  # refuse files of other model types, with missing or unknown tensors; else only report it
    use_safetensors: bool | None = None  # None = whichever format is there, safetensors first
    revision: str | None = None  # of a repository of the hub
    custom_weights_loaders: Sequence[Any] = ()  # further readers, called with the folder
    leave_out: frozenset[int] = frozenset()  # layers that get nothing, whatever the file has for them
    id2label: Mapping[int, str] | None = None  # names of the labels of a head, in place of those in its file
    download: Mapping[str, Any] = field(default_factory=dict)  # see `DOWNLOAD_OPTIONS`

    def run_loaders(self, folder: Path) -> None:
        """Let each further reader load what it knows of from `folder`."""
        for loader in self.custom_weights_loaders:
            _call(loader.load, folder, load_as=self.load_as, id2label=self.id2label)


AS_THEY_ARE = LoadOptions()  # everything under its own name, nothing left out


def run_savers(custom_weights_loaders: Sequence[Any] | None, folder: Path, name: str) -> None:
    """Let each further writer save what belongs to `name` into `folder`."""
    for loader in custom_weights_loaders or ():
        loader.save(str(folder), name)


def _call(function: Any, folder: Path, **options: Any) -> None:
    """Call with as many of the options as the function takes: readers for `adapters` differ in that."""
    parameters = inspect.signature(function).parameters.values()
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    taken = {parameter.name for parameter in parameters}
    function(str(folder), **{name: value for name, value in options.items() if takes_all or name in taken})


def load_options(
    *, num_labels: int | None = None, model_name: str | None = None, version: str | None = None, **options: Any
) -> LoadOptions:
    """The options from the keyword arguments of a public method.

    Args:
        num_labels: names the labels of a head "LABEL_0", ...; the same as an `id2label` of that kind.
        model_name: has no meaning any more.
        version: revision of a repository.

    Raises:
        TypeError: there is no such option.
    """
    if model_name is not None:
        warnings.warn("model_name is ignored: a file says which model it is from.", FutureWarning, stacklevel=4)
    if num_labels is not None and options.get("id2label") is None:
        options["id2label"] = {index: f"LABEL_{index}" for index in range(num_labels)}
    download = {name: options.pop(name) for name in sorted(options.keys() & DOWNLOAD_OPTIONS)}
    options["leave_out"] = frozenset(options.get("leave_out") or ())
    options["custom_weights_loaders"] = tuple(options.get("custom_weights_loaders") or ())
    return LoadOptions(revision=version, download=download, **options)
