"""How files are read and written: what the callers of `load_adapter`, `save_adapter` and their relatives can choose."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from typing_extensions import TypedDict, Unpack

from adapter_runtime.contract.values import Json


class DownloadOptions(TypedDict, total=False):
    """What `huggingface_hub` takes besides the repository and the revision, and a folder in the repository."""

    cache_dir: str | Path | None
    force_download: bool
    local_files_only: bool
    subfolder: str | None
    token: bool | str | None


class FurtherFiles(Protocol):
    """What a user adds to saving and loading: an object that keeps files of its own in the folder of an adapter."""

    @property
    def load(self) -> Callable[..., object]:
        """Called with the folder, and with those of `load_as` and `id2label` that it takes."""

    def save(self, save_directory: str, name: str) -> object:
        """Write into a folder what belongs to an adapter, fusion or setup."""


@dataclass(frozen=True)
class SaveOptions:
    """How files are written."""

    with_head: bool = True  # the head of the same name too, if there is one
    use_safetensors: bool = True  # else a pickle that holds nothing but tensors
    meta_dict: Mapping[str, Json] = field(default_factory=dict)  # further entries of the JSON
    custom_weights_loaders: Sequence[FurtherFiles] = ()

    def run_savers(self, folder: Path, name: str) -> None:
        """Let each further writer save what belongs to `name` into `folder`."""
        for saver in self.custom_weights_loaders:
            saver.save(str(folder), name)


@dataclass(frozen=True)
class LoadOptions:
    """How files are read."""

    load_as: str | None = None  # name in the model; None = the name in the file
    with_head: bool = True  # the head beside an adapter too, if there is one and the model can hold it
    strict: bool = True  # refuse files of other model types, with missing or unknown tensors; else only report it
    use_safetensors: bool | None = None  # None = whichever format is there, safetensors first
    revision: str | None = None  # of a repository of the hub
    custom_weights_loaders: Sequence[FurtherFiles] = ()
    leave_out: frozenset[int] = frozenset()  # layers that get nothing, whatever the file has for them
    id2label: Mapping[int, str] | None = None  # names of the labels of a head, in place of those in its file
    download: DownloadOptions = field(default_factory=DownloadOptions)

    def for_part(self, load_as: str | None = None, with_head: bool = True) -> LoadOptions:
        """The options by which a part of a setup is read: it lies in a folder already."""
        return LoadOptions(
            load_as=load_as,
            with_head=with_head,
            strict=self.strict,
            use_safetensors=self.use_safetensors,
            leave_out=self.leave_out,
        )

    def run_loaders(self, folder: Path) -> None:
        """Let each further reader load what it knows of from `folder`."""
        options = {"load_as": self.load_as, "id2label": self.id2label}
        for loader in self.custom_weights_loaders:
            parameters = inspect.signature(loader.load).parameters.values()
            takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
            taken = {parameter.name for parameter in parameters}
            loader.load(str(folder), **{name: value for name, value in options.items() if takes_all or name in taken})


AS_IT_IS = SaveOptions()  # all of it, as safetensors
AS_THEY_ARE = LoadOptions()  # everything under its own name, nothing left out


def save_options(
    *,
    with_head: bool = True,
    use_safetensors: bool = True,
    meta_dict: Mapping[str, Json] | None = None,
    custom_weights_loaders: Sequence[FurtherFiles] | None = None,
) -> SaveOptions:
    """The options from the keyword arguments of a public method."""
    return SaveOptions(with_head, use_safetensors, dict(meta_dict or {}), tuple(custom_weights_loaders or ()))


def load_options(
    *,
    load_as: str | None = None,
    with_head: bool = True,
    strict: bool = True,
    use_safetensors: bool | None = None,
    version: str | None = None,
    custom_weights_loaders: Sequence[FurtherFiles] | None = None,
    leave_out: Iterable[int] | None = None,
    id2label: Mapping[int, str] | None = None,
    num_labels: int | None = None,
    model_name: str | None = None,
    **download: Unpack[DownloadOptions],
) -> LoadOptions:
    """The options from the keyword arguments of a public method.

    Args:
        num_labels: names the labels of a head "LABEL_0", ...; short for an `id2label` of these names.
        model_name: ignored; kept for old code.
        version: revision of a repository.

    Raises:
        TypeError: there is no such option.
    """
    if model_name is not None:
        warnings.warn("model_name is ignored: a file says which model it is from.", FutureWarning, stacklevel=4)
    unknown = sorted(download.keys() - DownloadOptions.__annotations__.keys())
    if unknown:
        raise TypeError(f"Files are not loaded with {', '.join(unknown)}: there is no such option.")
    if num_labels is not None and id2label is None:
        id2label = {index: f"LABEL_{index}" for index in range(num_labels)}
    return LoadOptions(
        load_as=load_as,
        with_head=with_head,
        strict=strict,
        use_safetensors=use_safetensors,
        revision=version,
        custom_weights_loaders=tuple(custom_weights_loaders or ()),
        leave_out=frozenset(leave_out or ()),
        id2label=id2label,
        download=download,
    )
