"""ReFT in the table of methods."""

from __future__ import annotations

from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.methods.common.activations import check_activation
from adapter_runtime.methods.reft import places
from adapter_runtime.methods.reft.config import DiReftConfig, LoReftConfig, NoReftConfig, ReftConfig
from adapter_runtime.methods.spec import MethodSpec, NotedFile


def _edits_ends_of_several(model: AdaptedModel, config: ReftConfig) -> bool:
    has_several = model.config.is_encoder_decoder or len(model.adapters_base.adapter_parts()) > 1
    return has_several and config.suffix_positions > 0


def _check(config: ReftConfig) -> None:
    if config.non_linearity is not None:
        check_activation(config)


REFT = MethodSpec[ReftConfig](
    name="reft",
    configs=(ReftConfig,),
    named={"loreft": LoReftConfig(), "noreft": NoReftConfig(), "direft": DiReftConfig()},
    check=_check,
    place=places.place,
    count_places=places.count_places,
    wishes=places.wishes,
    containers=frozenset({"refts"}),
    remove_empty=places.remove_empty,
    without_layers=places.without_layers,
    noted_files=(
        NotedFile(
            _edits_ends_of_several,
            "finds the last positions of a decoder, or of an image, by the padding of what the encoder, or the text part, reads. Here each is"
            " told its own",
        ),
    ),
)
