"""Saving and loading of adapters and heads as methods of models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from typing_extensions import Unpack

from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.contract.values import Json
from adapter_runtime.files.api.hub import HubMixin
from adapter_runtime.files.api.setups import SetupFilesMixin
from adapter_runtime.files.loading.adapter import load_adapter
from adapter_runtime.files.loading.head import load_head
from adapter_runtime.files.names import Folder
from adapter_runtime.files.options import DownloadOptions, FurtherFiles, load_options, save_options
from adapter_runtime.files.saving.adapter import save_adapter, save_all_adapters
from adapter_runtime.files.saving.head import save_all_heads, save_head
from adapter_runtime.files.saving.peft import save_peft_adapter
from adapter_runtime.files.source import Source


class AdapterFilesMixin(SetupFilesMixin, HubMixin):
    """Files of adapters and heads, in the format of `adapters`."""

    def save_adapter(
        self: AdaptedModel,
        save_directory: Folder,
        adapter_name: str,
        meta_dict: Mapping[str, Json] | None = None,
        with_head: bool = True,
        use_safetensors: bool = True,
        custom_weights_loaders: Sequence[FurtherFiles] | None = None,
    ) -> None:
        """Write an adapter, and the head of the same name, to a folder.

        Args:
            save_directory: created where missing.
            adapter_name: which adapter.
            meta_dict: further entries of ``adapter_config.json``.
            with_head: write the head too, if there is one.
            use_safetensors: False writes ``pytorch_adapter.bin``.
            custom_weights_loaders: objects whose ``save(folder, adapter_name)`` writes further files.

        Raises:
            UnknownAdapterError: there is no such adapter.
        """
        options = save_options(
            with_head=with_head,
            use_safetensors=use_safetensors,
            meta_dict=meta_dict,
            custom_weights_loaders=custom_weights_loaders,
        )
        save_adapter(self, save_directory, adapter_name, options)

    def save_all_adapters(
        self: AdaptedModel,
        save_directory: Folder,
        meta_dict: Mapping[str, Json] | None = None,
        with_head: bool = True,
        use_safetensors: bool = True,
        custom_weights_loaders: Sequence[FurtherFiles] | None = None,
    ) -> None:
        """Write each adapter to a folder of its name. See `save_adapter`."""
        options = save_options(
            with_head=with_head,
            use_safetensors=use_safetensors,
            meta_dict=meta_dict,
            custom_weights_loaders=custom_weights_loaders,
        )
        save_all_adapters(self, save_directory, options)

    def save_peft_adapter(
        self: AdaptedModel,
        save_directory: Folder,
        adapter_name: str,
        with_head: bool = False,
        task_type: str | None = None,
    ) -> None:
        """Write an adapter in PEFT's format: ``adapter_config.json`` and ``adapter_model.safetensors``.

        ``peft.PeftModel.from_pretrained(model, save_directory)`` reads it into a model of the same class of upstream's
        (with flexible heads: any class that has its base model under the same name), with the same outputs.

        Args:
            save_directory: created where missing.
            adapter_name: an adapter of LoRA, IA3, prefix tuning or prompt tuning.
            with_head: write the head of an upstream class too, as ``modules_to_save``.
            task_type: PEFT's name of the task ("CAUSAL_LM", ...); None = what the head of this model does.

        Raises:
            UnknownAdapterError: there is no such adapter.
            UnsupportedMethodError: PEFT cannot express it; the message says what of it.
        """
        save_peft_adapter(self, save_directory, adapter_name, with_head, task_type)

    def load_adapter(
        self: AdaptedModel,
        adapter_name_or_path: Source,
        config: Mapping[str, Json] | AdapterConfig | str | None = None,
        version: str | None = None,
        model_name: str | None = None,
        load_as: str | None = None,
        custom_weights_loaders: Sequence[FurtherFiles] | None = None,
        leave_out: Iterable[int] | None = None,
        id2label: Mapping[int, str] | None = None,
        set_active: bool = False,
        use_safetensors: bool | None = None,
        with_head: bool = True,
        strict: bool = True,
        num_labels: int | None = None,
        **kwargs: Unpack[DownloadOptions],
    ) -> str:
        """Read an adapter, and the head beside it, from a folder or a repository of the hub.

        Files of `adapters`, of its predecessors and of PEFT are read too. An adapter of this name that the model has
        already gets the new weights, if its config is the same.

        Args:
            adapter_name_or_path: the folder or repository.
            config: options that the file does not hold, or the whole config. A file of DiReFT by `adapters` needs
                ``{"subtract_projection": False}``: it does not say whether it is of DiReFT or of NoReFT.
            load_as: its name in this model; None = the name in the file, for one of PEFT "default".
            set_active: run it from now on.
            with_head: read the head too, if there is one and this model can hold it.
            strict: refuse files of another model type, and files with missing or unknown tensors; False warns of them.
            use_safetensors: None = whichever format is there.
            version: revision of a repository.
            custom_weights_loaders: objects whose ``load(folder, ...)`` reads further files.
            leave_out: indices of layers that get nothing of the adapter.
            id2label: names of the labels of the head, in place of those in the file.
            num_labels: names the labels "LABEL_0", ..., in place of `id2label`.
            model_name: ignored; kept for old code.
            **kwargs: token, cache_dir, force_download, local_files_only, subfolder: see `huggingface_hub`.

        Returns:
            The name of the adapter.

        Raises:
            AdapterFileError: a file is missing or damaged.
            AdapterMismatchError: the adapter does not fit; the model is unchanged.
        """
        options = load_options(
            load_as=load_as,
            with_head=with_head,
            strict=strict,
            use_safetensors=use_safetensors,
            version=version,
            custom_weights_loaders=custom_weights_loaders,
            leave_out=leave_out,
            id2label=id2label,
            num_labels=num_labels,
            model_name=model_name,
            **kwargs,
        )
        return load_adapter(self, adapter_name_or_path, config, set_active, options)

    def save_head(
        self: AdaptedModel, save_directory: Folder, head_name: str | None = None, use_safetensors: bool = True
    ) -> None:
        """Write a head to a folder.

        Raises:
            UnknownHeadError: there is no such head.
        """
        save_head(self, save_directory, head_name, use_safetensors)

    def save_all_heads(self: AdaptedModel, save_directory: Folder, use_safetensors: bool = True) -> None:
        """Write each head to a folder of its name; the head of an upstream class to the folder itself.

        Raises:
            UnknownHeadError: a bare base model has no head.
        """
        save_all_heads(self, save_directory, use_safetensors)

    def load_head(
        self: AdaptedModel,
        save_directory: Folder,
        load_as: str | None = None,
        id2label: Mapping[int, str] | None = None,
        use_safetensors: bool | None = None,
        strict: bool = True,
        version: str | None = None,
        num_labels: int | None = None,
        set_active: bool = True,
        **kwargs: Unpack[DownloadOptions],
    ) -> str | None:
        """Read a head from a folder or a repository of the hub. See `load_adapter` for the other arguments.

        Args:
            set_active: make it the active head, if it is one that is added by name.

        Returns:
            Its name; None for the head of an upstream class.

        Raises:
            AdapterFileError: a file is missing or damaged.
            AdapterMismatchError: the head does not fit; the model is unchanged.
        """
        options = load_options(
            load_as=load_as,
            strict=strict,
            use_safetensors=use_safetensors,
            version=version,
            id2label=id2label,
            num_labels=num_labels,
            **kwargs,
        )
        return load_head(self, save_directory, options, set_active)
