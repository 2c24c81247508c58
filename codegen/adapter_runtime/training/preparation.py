"""From the options of a training script to a model that is ready to be trained."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

from adapter_runtime.composition import Stack
from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.contract.snapshot import unchanged_on_error
from adapter_runtime.contract.values import Json
from adapter_runtime.files.options import DownloadOptions, FurtherFiles
from adapter_runtime.methods.configs.strings import resolve_adapter_config
from adapter_runtime.model.api import ModelAdaptersMixin
from adapter_runtime.training.arguments import AdapterArguments
from adapter_runtime.training.readiness import TrainingSetupError

logger = logging.getLogger(__name__)


class LoadArguments(DownloadOptions, total=False):
    """The arguments of `load_adapter` that `setup_adapter_training` does not give itself."""

    config: Mapping[str, Json] | AdapterConfig | str | None
    version: str | None
    model_name: str | None
    custom_weights_loaders: Sequence[FurtherFiles] | None
    leave_out: Iterable[int] | None
    id2label: Mapping[int, str] | None
    set_active: bool
    use_safetensors: bool | None
    with_head: bool
    strict: bool
    num_labels: int | None


def setup_adapter_training(
    model: ModelAdaptersMixin,
    adapter_args: AdapterArguments,
    adapter_name: str,
    adapter_config_kwargs: Mapping[str, Json] | None = None,
    adapter_load_kwargs: LoadArguments | None = None,
) -> tuple[str | None, str | None]:
    """Add or load the adapters that `adapter_args` asks for, freeze the rest of the model, and activate them.

    The language adapter, if one is loaded, runs before the trained one and is not trained. An adapter that is loaded has
    the config that its files state.

    Args:
        model: a model with adapters.
        adapter_args: the options.
        adapter_name: of the adapter that is trained. One of this name that the model has already is trained on.
        adapter_config_kwargs: replaces options of the config of a new adapter.
        adapter_load_kwargs: further arguments of `load_adapter`.

    Returns:
        The names of the trained and of the language adapter; None for what is not there.

    Raises:
        TrainingSetupError: adapters shall be loaded, but ``train_adapter`` is false.
        InvalidConfigError: the config makes no sense.
        AdapterFileError: an adapter cannot be read. The model has no new adapters then.
    """
    if not adapter_args.train_adapter:
        if adapter_args.load_adapter or adapter_args.load_lang_adapter:
            raise TrainingSetupError(
                "load_adapter and load_lang_adapter are for the training of adapters: pass train_adapter=True"
                " (--train_adapter), or leave them out."
            )
        return None, None
    loading: LoadArguments = adapter_load_kwargs or {}
    with unchanged_on_error(model, model.adapters_config):
        language = None
        if adapter_args.load_lang_adapter:
            language = model.load_adapter(adapter_args.load_lang_adapter, **loading)
            _compare(model.adapters_config.get(language), adapter_args.lang_adapter_config, language)
        if language == adapter_name:
            raise TrainingSetupError(f"The language adapter and the trained one are both called {language!r}.")
        if adapter_args.load_adapter:
            model.load_adapter(adapter_args.load_adapter, load_as=adapter_name, **loading)
        elif adapter_name not in model.adapters_config:
            model.add_adapter(adapter_name, config=_config(adapter_args.adapter_config, adapter_config_kwargs))
        model.train_adapter(adapter_name)
        model.set_active_adapters(Stack(language, adapter_name) if language else adapter_name)
    return adapter_name, language


def _config(given: str | None, changes: Mapping[str, Json] | None) -> AdapterConfig:
    config = resolve_adapter_config(given)
    return config.replace(**changes) if changes else config


def _compare(config: AdapterConfig, stated: str | None, name: str) -> None:
    """The files of an adapter say what its config is; tell where the options say something else."""
    if stated and resolve_adapter_config(stated) != config:
        logger.warning(
            "lang_adapter_config is %s, but the files of %r say: %s. The files are right.", stated, name, config
        )
