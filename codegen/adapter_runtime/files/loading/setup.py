"""A setup from a folder or the hub into a model: all of its adapters, fusions and heads, or none of them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from adapter_runtime.composition import AdapterCompositionBlock
from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.contract.snapshot import unchanged_on_error
from adapter_runtime.errors import AdapterFileError
from adapter_runtime.files import heads as head_files
from adapter_runtime.files.formats.blocks import fused_names
from adapter_runtime.files.formats.own import read_head
from adapter_runtime.files.formats.setups import SavedHeads, head_names, read_setup
from adapter_runtime.files.loading.adapter import put_adapter
from adapter_runtime.files.loading.commit import Transaction
from adapter_runtime.files.loading.fusion import put_fusion
from adapter_runtime.files.loading.head import put_head
from adapter_runtime.files.names import ADAPTER_FILES, FUSION_FILES, HEAD_FILES, child_folder
from adapter_runtime.files.options import AS_THEY_ARE, LoadOptions
from adapter_runtime.files.source import Source, local_folder, local_setup
from adapter_runtime.heads.protocol import is_flexible
from adapter_runtime.methods.fusion.api import fusions_in

logger = logging.getLogger(__name__)


def load_adapter_setup(
    model: AdaptedModel, source: Source, set_active: bool = False, options: LoadOptions = AS_THEY_ARE
) -> tuple[AdapterCompositionBlock, SavedHeads]:
    """See `SetupFilesMixin.load_adapter_setup`."""
    root = local_setup(source, options.revision, options.download)
    block, heads = read_setup(root)
    with unchanged_on_error(model, model.adapters_config), Transaction() as transaction:
        _put_adapters(model, root, block, options, transaction)
        _put_fusions(model, root, block, options, transaction)
        _put_heads(model, root, heads, options, transaction)
        options.run_loaders(root)
        if set_active:
            model.set_active_adapters(block)
            if is_flexible(model) and head_names(heads):
                model.active_head = heads if isinstance(heads, AdapterCompositionBlock) else head_names(heads)
    return block, heads


def _put_adapters(
    model: AdaptedModel, root: Path, block: AdapterCompositionBlock, options: LoadOptions, transaction: Transaction
) -> None:
    """Put the adapters of a composition, from the folders of their names, into a model."""
    for name in dict.fromkeys(block.names()):
        folder = local_folder(child_folder(root, name), ADAPTER_FILES)
        put_adapter(model, folder, None, options.for_part(load_as=name), transaction)


def _put_fusions(
    model: AdaptedModel, root: Path, block: AdapterCompositionBlock, options: LoadOptions, transaction: Transaction
) -> None:
    """Put the fusions of a composition, from the folders of their names, into a model."""
    for fuse in fusions_in(block):
        folder = local_folder(child_folder(root, fuse.name, "fusion"), FUSION_FILES)
        found = put_fusion(model, folder, options.for_part(load_as=fuse.name, with_head=False), transaction)
        if found.children != fused_names(fuse):
            raise AdapterFileError(
                f"{folder} holds a fusion of {', '.join(map(str, found))}, but the setup needs one of"
                f" {', '.join(fused_names(fuse))}."
            )


def _put_heads(
    model: AdaptedModel, root: Path, heads: SavedHeads, options: LoadOptions, transaction: Transaction
) -> None:
    """Put heads into a model: the head of an upstream class from `root` itself, others from the folders of their names."""
    if heads is not None and heads is not False and head_files.is_bare(model):
        own = head_files.upstream_class_name(model)
        logger.warning("The setup in %s has heads, which a %s cannot hold: they are left out.", root, own)
        return
    inner = replace(options.for_part(), id2label=options.id2label)
    if heads is True:
        put_head(model, read_head(local_folder(root, HEAD_FILES), inner), inner, transaction)
    for name in head_names(heads):
        folder = local_folder(child_folder(root, name, "head"), HEAD_FILES)
        put_head(model, read_head(folder, inner), replace(inner, load_as=name), transaction)
