"""An adapter from a folder or the hub into a model: resolve, add, fit, commit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.contract.names import check_name
from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.contract.snapshot import unchanged_on_error
from adapter_runtime.contract.values import Json
from adapter_runtime.errors import AdapterFileError, AdapterMismatchError
from adapter_runtime.files.documents import blamed_on
from adapter_runtime.files.formats.saved import SavedAdapter
from adapter_runtime.files.formats.table import read_adapter_files
from adapter_runtime.files.keys import of_adapter, renamed
from adapter_runtime.files.loading.commit import Transaction
from adapter_runtime.files.loading.fit import fit, require_same_type
from adapter_runtime.files.loading.head import put_head_beside
from adapter_runtime.files.loading.leave_out import parts_without, without_layers
from adapter_runtime.files.names import ADAPTER_FILES
from adapter_runtime.files.options import AS_THEY_ARE, LoadOptions
from adapter_runtime.files.source import Source, local_folder
from adapter_runtime.files.tensors import Tensors
from adapter_runtime.methods.common.initialisation import weights_follow
from adapter_runtime.methods.configs.union import members

ConfigChange = Mapping[str, Json] | AdapterConfig | str | None


@dataclass(frozen=True)
class NewAdapter:
    """An adapter as the model shall have it."""

    name: str
    title: str  # what messages call it
    config: AdapterConfig
    tensors: Tensors  # named as in a model with an adapter of this name


def load_adapter(
    model: AdaptedModel,
    source: Source,
    change: ConfigChange = None,
    set_active: bool = False,
    options: LoadOptions = AS_THEY_ARE,
) -> str:
    """Read an adapter, and the head beside it; see `AdapterFilesMixin.load_adapter`.

    Returns:
        The name of the adapter in the model.
    """
    folder = local_folder(source, ADAPTER_FILES, options.revision, options.download)
    with unchanged_on_error(model, model.adapters_config), Transaction() as transaction:
        name = put_adapter(model, folder, change, options, transaction)
        options.run_loaders(folder)
        if set_active:
            model.set_active_adapters(name)
    return name


def put_adapter(
    model: AdaptedModel, folder: Path, change: ConfigChange, options: LoadOptions, transaction: Transaction
) -> str:
    """Put the adapter in `folder`, and the head beside it, into a model. Returns the name of the adapter.

    What goes wrong on the way is to be undone by the caller: with `unchanged_on_error`, around the transaction.
    """
    saved = read_adapter_files(model, folder, options)
    with blamed_on(folder / ADAPTER_FILES.config):
        adapter = resolve(model, saved, change, options)
        add(model, adapter)
    expected = of_adapter(model.state_dict(keep_vars=True), adapter.name)
    left_out = parts_without(model, adapter.name) if _names_parts(change) else ()
    given = fit(
        model, adapter.tensors, expected, adapter.title, saved.origin, options, left_out, _names_modules(change)
    )
    transaction.copy(given, expected)
    if options.with_head:
        put_head_beside(model, folder, saved.head, adapter.name, options, transaction)
    return adapter.name


def resolve(model: AdaptedModel, saved: SavedAdapter, change: ConfigChange, options: LoadOptions) -> NewAdapter:
    """What the model shall get: under which name, and of which config. The model is not changed.

    Raises:
        AdapterFileError: the file says neither, and the caller does not either.
        AdapterMismatchError: the adapter was trained in another kind of model, or at other places.
        InvalidConfigError, UnsupportedMethodError: the config makes no sense here.
    """
    name = saved.name if options.load_as is None else options.load_as
    if name is None:
        raise AdapterFileError(f"{saved.folder / ADAPTER_FILES.config} gives no name. Give one: load_as=...")
    name = check_name(name)  # a name in a file is not trusted more than one in code
    title = f"Adapter {name!r} from {saved.folder}"
    require_same_type(model, saved.origin, title, options.strict)
    config = without_layers(model, _config(saved, change), options.leave_out)
    saved.refuse(config, options.strict)
    if saved.interface is not None:
        model.adapters_base.check_interface(saved.interface.path, saved.interface.document, config, options.strict)
    return NewAdapter(name, saved.title or title, config, renamed(saved.tensors, saved.written_as, name))


def _config(saved: SavedAdapter, change: ConfigChange) -> AdapterConfig:
    """The config in the file, with the changes of the caller."""
    if isinstance(change, (AdapterConfig, str)):
        return AdapterConfig.load(change)
    if saved.config is None:
        raise AdapterFileError(f'{saved.folder / ADAPTER_FILES.config} has no "config". Give one: config=...')
    if not isinstance(saved.config, (str, Mapping)):
        raise TypeError(f'"config" is {saved.config!r}, and should be an object')
    config = AdapterConfig.load(saved.config)
    return config.replace(**change) if change else config


def _names_parts(change: ConfigChange) -> bool:
    """Whether the caller says which parts of the model shall have the adapter."""
    if isinstance(change, (AdapterConfig, str)):
        return any(member.parts is not None for member in members(AdapterConfig.load(change)))
    return change is not None and change.get("parts") is not None


def _names_modules(change: ConfigChange) -> bool:
    """Whether the caller says which modules shall be trained along, so that the file may have others too."""
    return isinstance(change, Mapping) and not isinstance(change, AdapterConfig) and "also_train" in change


def add(model: AdaptedModel, adapter: NewAdapter) -> None:
    """Make room for an adapter, unless it is there with the same config: then its tensors are replaced.

    Raises:
        AdapterMismatchError: it is there with another config, or is merged.
    """
    name = adapter.name
    if name not in model.adapters_config.adapters:
        with weights_follow():
            model.add_adapter(name, adapter.config)
    elif model.adapters_config.get(name) != adapter.config:
        raise AdapterMismatchError(
            f"The model has an adapter {name!r} with another config. Load under a new name (load_as=...) or delete it"
            f" first (delete_adapter({name!r}))."
        )
    elif name in model.merged_adapters():
        raise AdapterMismatchError(
            f"Adapter {name!r} is in the weights of the model, which would keep its old values. Take it out first: "
            "reset_adapter()."
        )
