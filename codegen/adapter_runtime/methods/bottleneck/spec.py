"""Bottleneck adapters in the table of methods."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_runtime.call.context import ComputedOnce
from adapter_runtime.contract.protocol import AdaptedBaseModel
from adapter_runtime.methods.bottleneck import described, places
from adapter_runtime.methods.bottleneck.config import (
    BnConfig,
    CompacterConfig,
    CompacterPlusPlusConfig,
    DoubleSeqBnConfig,
    DoubleSeqBnInvConfig,
    ParBnConfig,
    SeqBnConfig,
    SeqBnInvConfig,
)
from adapter_runtime.methods.common.activations import check_activation
from adapter_runtime.methods.common.gates import leave_sequences
from adapter_runtime.methods.common.shared_parameters import (
    prepare_shared_parameters,
    shared_parameters_of,
)
from adapter_runtime.methods.spec import MethodSpec, RefusedFile


def _shared_products(model: AdaptedBaseModel, name: str) -> Iterator[ComputedOnce]:
    """The weights of hypercomplex layers that all layers of an adapter share."""
    return shared_parameters_of(model).products_of(name)


BOTTLENECK = MethodSpec[BnConfig](
    name="bottleneck",
    configs=(BnConfig,),
    named={
        "seq_bn": SeqBnConfig(),
        "double_seq_bn": DoubleSeqBnConfig(),
        "par_bn": ParBnConfig(),
        "scaled_par_bn": ParBnConfig(scaling="learned"),
        "seq_bn_inv": SeqBnInvConfig(),
        "double_seq_bn_inv": DoubleSeqBnInvConfig(),
        "compacter": CompacterConfig(),
        "compacter++": CompacterPlusPlusConfig(),
        # names of earlier releases of `adapters`, still found in its tutorials
        "pfeiffer": SeqBnConfig(),
        "houlsby": DoubleSeqBnConfig(),
        "parallel": ParBnConfig(),
        "scaled_parallel": ParBnConfig(scaling="learned"),
        "pfeiffer+inv": SeqBnInvConfig(),
        "houlsby+inv": DoubleSeqBnInvConfig(),
    },
    is_asked_for=places.are_asked_for,
    check=check_activation,
    place=places.place,
    count_places=places.count_places,
    wishes=places.wishes,
    containers=frozenset({"adapters"}),
    prepare_model=prepare_shared_parameters,
    prepare_layer=places.prepare_layer,
    is_claimed=places.is_claimed,
    remove_empty=leave_sequences,
    computed_once=_shared_products,
    described_roles=described.roles_of,
    hook_layer=described.hook_layer,
    check_described=described.check,
    generated_differs=described.generated_differs,
    refused_files=(
        RefusedFile(
            frozenset({"albert"}),
            lambda config: config.mh_adapter,
            "gives the adapter after attention its two inputs in exchanged places",
        ),
    ),
)
