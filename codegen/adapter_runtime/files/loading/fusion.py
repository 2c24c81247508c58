"""A fusion from a folder or the hub into a model: resolve, add, fit, commit. The adapters that it mixes must be there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from adapter_runtime.composition import Fuse
from adapter_runtime.contract.names import check_name
from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.contract.snapshot import unchanged_on_error
from adapter_runtime.errors import AdapterFileError, AdapterMismatchError
from adapter_runtime.files.documents import blamed_on
from adapter_runtime.files.formats.own import read_fusion
from adapter_runtime.files.formats.saved import SavedFusion
from adapter_runtime.files.keys import FUSION_CONTAINER, fusion_owner, of_fusion, renamed
from adapter_runtime.files.loading.commit import Transaction
from adapter_runtime.files.loading.fit import fit, require_same_type
from adapter_runtime.files.loading.head import put_head_beside
from adapter_runtime.files.names import FUSION_FILES
from adapter_runtime.files.options import AS_THEY_ARE, LoadOptions
from adapter_runtime.files.source import Source, local_folder
from adapter_runtime.files.tensors import Tensors
from adapter_runtime.methods.fusion.config import AdapterFusionConfig
from adapter_runtime.methods.fusion.stored import read_fusion_config


@dataclass(frozen=True)
class NewFusion:
    """A fusion as the model shall have it."""

    block: Fuse
    title: str  # what messages call it
    config: AdapterFusionConfig


def load_adapter_fusion(
    model: AdaptedModel, source: Source, set_active: bool = False, options: LoadOptions = AS_THEY_ARE
) -> str:
    """Read a fusion, and the head beside it; see `SetupFilesMixin.load_adapter_fusion`. Returns its name."""
    folder = local_folder(source, FUSION_FILES, options.revision, options.download)
    with unchanged_on_error(model, model.adapters_config), Transaction() as transaction:
        block = put_fusion(model, folder, options, transaction)
        options.run_loaders(folder)
        if set_active:
            model.set_active_adapters(block)
        return block.name


def put_fusion(model: AdaptedModel, folder: Path, options: LoadOptions, transaction: Transaction) -> Fuse:
    """Put the fusion in `folder`, and the head beside it, into a model. Returns its block.

    What goes wrong on the way is to be undone by the caller: with `unchanged_on_error`, around the transaction.
    """
    path = folder / FUSION_FILES.config
    with blamed_on(path):
        saved = read_fusion(model, folder, options)
        fusion = resolve(model, saved, options)
        add(model, fusion)
    name = fusion.block.name
    expected = of_fusion(model.state_dict(keep_vars=True), name)
    if expected:  # a fusion without projections learns nothing; `adapters` writes a layer for it that it never uses
        given = fit(model, tensors_of(saved, name), expected, fusion.title, saved.origin, options)
        transaction.copy(given, expected)
    if options.with_head:
        put_head_beside(model, folder, saved.head, options.load_as, options, transaction)
    return fusion.block


def resolve(model: AdaptedModel, saved: SavedFusion, options: LoadOptions) -> NewFusion:
    """What the model shall get. The model is not changed.

    Raises:
        AdapterFileError: there is no name.
        AdapterMismatchError: the fusion was trained in another kind of model.
        InvalidConfigError: its config makes no sense.
    """
    path = saved.folder / FUSION_FILES.config
    name = saved.name if options.load_as is None else options.load_as
    if name is None:
        raise AdapterFileError(f"{path} gives no name. Give one: load_as=...")
    block = Fuse(*saved.adapter_names, name=check_name(name, "fusion"))
    title = f"Fusion {block.name!r} from {saved.folder}"
    require_same_type(model, saved.origin, title, options.strict)
    return NewFusion(block, title, read_fusion_config(saved.config, str(path)))


def add(model: AdaptedModel, fusion: NewFusion) -> None:
    """Make room for a fusion, unless it is there with the same adapters and config: then its tensors are replaced.

    Raises:
        AdapterMismatchError: it is there with others.
        UnknownAdapterError: an adapter that it mixes is missing.
    """
    name = fusion.block.name
    present = model.adapters_config.fusions.get(name)
    if present is None:
        model.add_adapter_fusion(fusion.block, fusion.config)
    elif tuple(present.adapter_names) != fusion.block.children or dict(present.config) != dict(fusion.config):
        raise AdapterMismatchError(
            f"The model has a fusion {name!r} of other adapters or with another config. Load under a new name"
            f" (load_as=...) or delete it first (delete_adapter_fusion({name!r}))."
        )


def tensors_of(saved: SavedFusion, name: str) -> Tensors:
    """The tensors of the fusion that the file is of, under the names that the fusion `name` gives them.

    Raises:
        AdapterFileError: the file holds no fusion, or several and none of its name.
    """
    owners = sorted({own for key in saved.tensors if (own := fusion_owner(key)) is not None})
    written_as = saved.name
    if not isinstance(written_as, str) or written_as not in owners:
        if len(owners) != 1:
            held = f"several fusions: {'; '.join(owners)}" if owners else "no fusion"
            raise AdapterFileError(f"The weights in {saved.folder} hold {held}.")
        written_as = owners[0]
    return renamed(of_fusion(saved.tensors, written_as), written_as, name, {FUSION_CONTAINER})
