"""Prefix tuning in the table of methods."""

from __future__ import annotations

from adapter_runtime.methods.common.activations import check_activation
from adapter_runtime.methods.prefix_tuning import peft, places
from adapter_runtime.methods.prefix_tuning.config import PrefixTuningConfig
from adapter_runtime.methods.spec import MethodSpec, RefusedFile, not_of_single_layers


def _check(config: PrefixTuningConfig) -> None:
    if not config.flat:  # else nothing runs it
        check_activation(config)


PREFIX_TUNING = MethodSpec[PrefixTuningConfig](
    name="prefix_tuning",
    configs=(PrefixTuningConfig,),
    named={"prefix_tuning": PrefixTuningConfig(), "prefix_tuning_flat": PrefixTuningConfig(flat=True)},
    check=_check,
    place=places.place,
    count_places=places.count_places,
    wishes=places.wishes,
    containers=frozenset({"prefix_gates", "prefix_tunings"}),
    prepare_model=places.prepare_model,
    prepare_layer=places.prepare_layer,
    is_claimed=places.is_claimed,
    computed_once=places.computed_once,
    without_layers=not_of_single_layers,
    peft=(peft.FORMAT,),
    refused_files=(
        RefusedFile(
            frozenset({"t5", "mt5"}),
            lambda config: True,
            "moves the relative positions of all keys by the length of a prefix",
        ),
    ),
    interface_refusal=(
        "prefix tuning puts keys and values into the midst of an attention, where no module begins or ends that a hook could "
        "be set on. Generate the model instead: adapter-codegen add-model."
    ),
)
