"""Saving and loading as methods of models. What they do is in ``saving`` and ``loading``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from adapter_runtime.configuration import AdapterConfig

if TYPE_CHECKING:
    from adapter_runtime.loading import LoadOptions

Folder = str | os.PathLike[str]


class AdapterFilesMixin:
    """Files of adapters and heads, in the format of `adapters`."""

    def save_adapter(
        self,
        save_directory: Folder,
        adapter_name: str,
        meta_dict: Mapping[str, Any] | None = None,
        with_head: bool = True,
        use_safetensors: bool = True,
    ) -> None:
        """Write an adapter, and the head of the same name, to a folder.

        Args:
            save_directory: created where missing.
            adapter_name: which adapter.
            meta_dict: further entries of ``adapter_config.json``.
            with_head: write the head too, if there is one.
            use_safetensors: False writes ``pytorch_adapter.bin``.

        Raises:
            UnknownAdapterError: there is no such adapter.
        """
        from adapter_runtime.saving import save_adapter

        save_adapter(self, save_directory, adapter_name, meta_dict, with_head, use_safetensors)  # type: ignore[arg-type]

    def save_all_adapters(
        self,
        save_directory: Folder,
        meta_dict: Mapping[str, Any] | None = None,
        with_head: bool = True,
        use_safetensors: bool = True,
    ) -> None:
        """Write each adapter to a folder of its name."""
        from adapter_runtime.saving import save_all_adapters

        save_all_adapters(self, save_directory, meta_dict, with_head, use_safetensors)  # type: ignore[arg-type]

    def load_adapter(
        self,
        adapter_name_or_path: Folder,
        config: Mapping[str, Any] | AdapterConfig | None = None,
        load_as: str | None = None,
        set_active: bool = False,
        with_head: bool = True,
        strict: bool = True,
        use_safetensors: bool | None = None,
        version: str | None = None,
    ) -> str:
        """Read an adapter, and the head beside it, from a folder or a repository of the hub.

        Args:
            adapter_name_or_path: the folder or repository.
            config: options that the file does not hold, or the whole config.
            load_as: its name in this model; None = the name in the file.
            set_active: run it from now on.
            with_head: read the head too, if there is one and this model can hold it.
            strict: refuse files of another model type, and files with missing or unknown tensors.
            use_safetensors: None = whichever format is there.
            version: revision of a repository.

        Returns:
            The name of the adapter.

        Raises:
            AdapterFileError: a file is missing or damaged.
            AdapterMismatchError: the adapter does not fit; the model is unchanged.
        """
        from adapter_runtime.loading import load_adapter

        options = _options(load_as, strict, use_safetensors, version)
        return load_adapter(self, adapter_name_or_path, config, set_active, with_head, options)  # type: ignore[arg-type]

    def save_pretrained(self, save_directory: Folder, *args: Any, **kwargs: Any) -> None:
        """See transformers. The adapters are written with the model, and their configs into its ``config.json``.

        A merged adapter is part of the weights then; it is not written again.
        """
        from adapter_runtime.saving import stored_adapters

        attributes: dict[str, Any] = self.config.__dict__  # type: ignore[attr-defined]
        attributes.pop("adapters", None)
        stored, state = stored_adapters(self, kwargs.pop("state_dict", None))  # type: ignore[arg-type]
        if stored:
            attributes["adapters"] = stored
        try:
            super().save_pretrained(save_directory, *args, state_dict=state, **kwargs)  # type: ignore[misc]
        finally:
            attributes.pop("adapters", None)  # it would give the adapters to every further model made with this config

    def save_head(self, save_directory: Folder, head_name: str | None = None, use_safetensors: bool = True) -> None:
        """Write a head to a folder.

        Raises:
            UnknownHeadError: there is no such head.
        """
        from adapter_runtime.saving import save_head

        save_head(self, save_directory, head_name, use_safetensors)  # type: ignore[arg-type]

    def load_head(
        self,
        save_directory: Folder,
        load_as: str | None = None,
        strict: bool = True,
        use_safetensors: bool | None = None,
        version: str | None = None,
    ) -> str | None:
        """Read a head from a folder or a repository of the hub. Returns its name; None for a static head.

        Raises:
            AdapterFileError: a file is missing or damaged.
            AdapterMismatchError: the head does not fit; the model is unchanged.
        """
        from adapter_runtime.loading import load_head

        return load_head(self, save_directory, _options(load_as, strict, use_safetensors, version))  # type: ignore[arg-type]


def _options(load_as: str | None, strict: bool, use_safetensors: bool | None, version: str | None) -> LoadOptions:
    from adapter_runtime.loading import LoadOptions

    return LoadOptions(load_as=load_as, strict=strict, use_safetensors=use_safetensors, revision=version)
