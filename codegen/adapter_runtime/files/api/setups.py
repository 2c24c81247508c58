"""Saving and loading of mixtures and setups as methods of models. What they do is in ``fusion_files``, ``setup_files``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adapter_runtime.composition import AdapterCompositionBlock, Fuse, Setup

if TYPE_CHECKING:
    from adapter_runtime.files.loading.setup import HeadSetup

Folder = str | os.PathLike[str]


class SetupFilesMixin:
    """Files of mixtures (AdapterFusion) and of adapter setups, in the format of `adapters`."""

    def save_adapter_fusion(
        self,
        save_directory: Folder,
        adapter_names: Fuse | Sequence[str] | str,
        meta_dict: Mapping[str, Any] | None = None,
        custom_weights_loaders: Sequence[Any] | None = None,
        with_head: bool | str = False,
        use_safetensors: bool = True,
    ) -> None:
        """Write a mixture to a folder, without the adapters that it mixes.

        Args:
            save_directory: created where missing.
            adapter_names: the block, the names of the adapters, or the name of the mixture.
            meta_dict: further entries of ``adapter_fusion_config.json``.
            custom_weights_loaders: objects whose ``save(folder, name)`` writes further files.
            with_head: write a head into the same folder: True for the one of the same name, or a name.
            use_safetensors: False writes ``pytorch_model_adapter_fusion.bin``.

        Raises:
            UnknownAdapterError: there is no such mixture.
            UnknownHeadError: there is no such head.
        """
        from adapter_runtime.files.loading.fusion import save_adapter_fusion

        loaders = tuple(custom_weights_loaders or ())
        save_adapter_fusion(self, save_directory, adapter_names, meta_dict, loaders, with_head, use_safetensors)  # type: ignore[arg-type]

    def save_all_adapter_fusions(
        self,
        save_directory: Folder,
        meta_dict: Mapping[str, Any] | None = None,
        custom_weights_loaders: Sequence[Any] | None = None,
        use_safetensors: bool = True,
    ) -> None:
        """Write each mixture to a folder of its name."""
        from adapter_runtime.files.loading.fusion import save_all_adapter_fusions

        loaders = tuple(custom_weights_loaders or ())
        save_all_adapter_fusions(self, save_directory, meta_dict, loaders, use_safetensors)  # type: ignore[arg-type]

    def load_adapter_fusion(
        self,
        adapter_fusion_name_or_path: Folder,
        load_as: str | None = None,
        custom_weights_loaders: Sequence[Any] | None = None,
        set_active: bool = False,
        with_head: bool = True,
        use_safetensors: bool | None = None,
        strict: bool = True,
        version: str | None = None,
        **kwargs: Any,
    ) -> str:
        """Read a mixture, and the head beside it. The model must have the adapters that it mixes.

        Args:
            adapter_fusion_name_or_path: a folder or a repository of the hub.
            load_as: its name in this model; None = the name in the file.
            set_active: run it from now on.
            strict, use_safetensors, version, custom_weights_loaders, kwargs: see `load_adapter`.

        Returns:
            The name of the mixture.

        Raises:
            AdapterFileError: a file is missing or damaged.
            AdapterMismatchError: the mixture does not fit; the model is unchanged.
            UnknownAdapterError: an adapter that it mixes is missing.
        """
        from adapter_runtime.files.loading.fusion import load_adapter_fusion
        from adapter_runtime.files.options import load_options

        options = load_options(
            load_as=load_as,
            custom_weights_loaders=custom_weights_loaders,
            use_safetensors=use_safetensors,
            strict=strict,
            version=version,
            **kwargs,
        )
        return load_adapter_fusion(self, adapter_fusion_name_or_path, set_active, with_head, options)  # type: ignore[arg-type]

    def save_adapter_setup(
        self,
        save_directory: Folder,
        adapter_setup: Setup,
        head_setup: HeadSetup = None,
        meta_dict: Mapping[str, Any] | None = None,
        custom_weights_loaders: Sequence[Any] | None = None,
        use_safetensors: bool = True,
    ) -> None:
        """Write a composition, with all adapters and mixtures in it, to a folder.

        Args:
            save_directory: created where missing. Each adapter, mixture and head gets a folder of its name in it.
            adapter_setup: a name or a block.
            head_setup: heads to write too: True for a static head; a name, names or a block of flexible heads.
            meta_dict: further entries of the documents of the adapters and mixtures.
            custom_weights_loaders: objects whose ``save(folder, name)`` writes further files.
            use_safetensors: False writes ``.bin`` files.

        Raises:
            UnknownAdapterError, UnknownHeadError: a part of the setup is missing; nothing is written.
        """
        from adapter_runtime.files.loading.setup import save_adapter_setup

        save_adapter_setup(
            self,  # type: ignore[arg-type]
            save_directory,
            adapter_setup,
            head_setup,
            meta_dict,
            custom_weights_loaders,
            use_safetensors,
        )

    def load_adapter_setup(
        self,
        adapter_setup_name_or_path: Folder,
        version: str | None = None,
        custom_weights_loaders: Sequence[Any] | None = None,
        set_active: bool = False,
        use_safetensors: bool | None = None,
        strict: bool = True,
        leave_out: Iterable[int] | None = None,
        **kwargs: Any,
    ) -> tuple[AdapterCompositionBlock, HeadSetup]:
        """Read a composition with all that is in it. All of it is loaded, or nothing.

        Args:
            adapter_setup_name_or_path: a folder or a repository of the hub.
            set_active: run it, with its heads, from now on.
            version, custom_weights_loaders, use_safetensors, strict, leave_out, kwargs: see `load_adapter`.

        Returns:
            The composition, and the head setup as it was given when it was saved.

        Raises:
            AdapterFileError: a file is missing or damaged, or names a block that there is not.
            AdapterMismatchError: a part does not fit; the model is unchanged.
        """
        from adapter_runtime.files.loading.setup import load_adapter_setup
        from adapter_runtime.files.options import load_options

        options = load_options(
            custom_weights_loaders=custom_weights_loaders,
            use_safetensors=use_safetensors,
            strict=strict,
            version=version,
            leave_out=leave_out,
            **kwargs,
        )
        return load_adapter_setup(self, adapter_setup_name_or_path, set_active, options)  # type: ignore[arg-type]
