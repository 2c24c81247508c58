"""Saving and loading of fusions and compositions as methods of models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from typing_extensions import Unpack

from adapter_runtime.composition import AdapterCompositionBlock, Setup
from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.contract.values import Json
from adapter_runtime.files.formats.setups import SavedHeads
from adapter_runtime.files.loading.fusion import load_adapter_fusion
from adapter_runtime.files.loading.setup import load_adapter_setup
from adapter_runtime.files.names import Folder
from adapter_runtime.files.options import DownloadOptions, FurtherFiles, load_options, save_options
from adapter_runtime.files.saving.fusion import save_adapter_fusion, save_all_adapter_fusions
from adapter_runtime.files.saving.setup import save_adapter_setup
from adapter_runtime.files.source import Source
from adapter_runtime.methods.fusion.api import Fusion


class FusionLoadOptions(DownloadOptions, total=False):
    """Further arguments of `load_adapter_fusion`; see `load_adapter`."""

    id2label: Mapping[int, str] | None
    leave_out: Iterable[int] | None
    num_labels: int | None
    model_name: str | None


class SetupLoadOptions(DownloadOptions, total=False):
    """Further arguments of `load_adapter_setup`; see `load_adapter`."""

    id2label: Mapping[int, str] | None
    num_labels: int | None
    model_name: str | None


class SetupFilesMixin:
    """Files of fusions (AdapterFusion) and of adapter setups, in the format of `adapters`."""

    def save_adapter_fusion(
        self: AdaptedModel,
        save_directory: Folder,
        adapter_names: Fusion,
        meta_dict: Mapping[str, Json] | None = None,
        custom_weights_loaders: Sequence[FurtherFiles] | None = None,
        with_head: bool | str = False,
        use_safetensors: bool = True,
    ) -> None:
        """Write a fusion to a folder, without the adapters that it mixes.

        Args:
            save_directory: created where missing.
            adapter_names: the block, the names of the adapters, or the name of the fusion.
            meta_dict: further entries of ``adapter_fusion_config.json``.
            custom_weights_loaders: objects whose ``save(folder, name)`` writes further files.
            with_head: write a head into the same folder: True for the one of the same name, or a name.
            use_safetensors: False writes ``pytorch_model_adapter_fusion.bin``.

        Raises:
            UnknownAdapterError: there is no such fusion.
            UnknownHeadError: there is no such head.
        """
        options = save_options(
            use_safetensors=use_safetensors, meta_dict=meta_dict, custom_weights_loaders=custom_weights_loaders
        )
        save_adapter_fusion(self, save_directory, adapter_names, with_head, options)

    def save_all_adapter_fusions(
        self: AdaptedModel,
        save_directory: Folder,
        meta_dict: Mapping[str, Json] | None = None,
        custom_weights_loaders: Sequence[FurtherFiles] | None = None,
        use_safetensors: bool = True,
    ) -> None:
        """Write each fusion to a folder of its name."""
        options = save_options(
            use_safetensors=use_safetensors, meta_dict=meta_dict, custom_weights_loaders=custom_weights_loaders
        )
        save_all_adapter_fusions(self, save_directory, options)

    def load_adapter_fusion(
        self: AdaptedModel,
        adapter_fusion_name_or_path: Source,
        load_as: str | None = None,
        custom_weights_loaders: Sequence[FurtherFiles] | None = None,
        set_active: bool = False,
        with_head: bool = True,
        use_safetensors: bool | None = None,
        strict: bool = True,
        version: str | None = None,
        **kwargs: Unpack[FusionLoadOptions],
    ) -> str:
        """Read a fusion, and the head beside it. The model must have the adapters that it mixes.

        Args:
            adapter_fusion_name_or_path: a folder or a repository of the hub.
            load_as: its name in this model; None = the name in the file.
            set_active: run it from now on.
            strict, use_safetensors, version, custom_weights_loaders, kwargs: see `load_adapter`.

        Returns:
            The name of the fusion.

        Raises:
            AdapterFileError: a file is missing or damaged.
            AdapterMismatchError: the fusion does not fit; the model is unchanged.
            UnknownAdapterError: an adapter that it mixes is missing.
        """
        options = load_options(
            load_as=load_as,
            with_head=with_head,
            custom_weights_loaders=custom_weights_loaders,
            use_safetensors=use_safetensors,
            strict=strict,
            version=version,
            **kwargs,
        )
        return load_adapter_fusion(self, adapter_fusion_name_or_path, set_active, options)

    def save_adapter_setup(
        self: AdaptedModel,
        save_directory: Folder,
        adapter_setup: Setup,
        head_setup: SavedHeads = None,
        meta_dict: Mapping[str, Json] | None = None,
        custom_weights_loaders: Sequence[FurtherFiles] | None = None,
        use_safetensors: bool = True,
    ) -> None:
        """Write a composition, with all adapters and fusions in it, to a folder.

        Args:
            save_directory: created where missing. Each adapter, fusion and head gets a folder of its name in it.
            adapter_setup: a name or a block.
            head_setup: heads to write too: True for the head of an upstream class; else a name, names or a block.
            meta_dict: further entries of the documents of the adapters and fusions.
            custom_weights_loaders: objects whose ``save(folder, name)`` writes further files.
            use_safetensors: False writes ``.bin`` files.

        Raises:
            UnknownAdapterError, UnknownHeadError: a part of the setup is missing; nothing is written.
        """
        options = save_options(
            use_safetensors=use_safetensors, meta_dict=meta_dict, custom_weights_loaders=custom_weights_loaders
        )
        save_adapter_setup(self, save_directory, adapter_setup, head_setup, options)

    def load_adapter_setup(
        self: AdaptedModel,
        adapter_setup_name_or_path: Source,
        version: str | None = None,
        custom_weights_loaders: Sequence[FurtherFiles] | None = None,
        set_active: bool = False,
        use_safetensors: bool | None = None,
        strict: bool = True,
        leave_out: Iterable[int] | None = None,
        **kwargs: Unpack[SetupLoadOptions],
    ) -> tuple[AdapterCompositionBlock, SavedHeads]:
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
        options = load_options(
            custom_weights_loaders=custom_weights_loaders,
            use_safetensors=use_safetensors,
            strict=strict,
            version=version,
            leave_out=leave_out,
            **kwargs,
        )
        return load_adapter_setup(self, adapter_setup_name_or_path, set_active, options)
