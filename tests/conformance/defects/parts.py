"""Defects of models that read several things, and of those that are made of several models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import BartForConditionalGeneration, CLIPModel

from adapter_runtime.call.context import AdapterSetup
from adapter_runtime.methods.reft import places as reft_places
from adapter_runtime.model.parts.composite import ModelUsingSubmodelsAdaptersMixin
from conformance.defects.planting import Defect, around, instead
from conformance.subjects import method_subjects

(CLIP,) = method_subjects("clip")
(BART,) = method_subjects("bart")
(PE_VIDEO,) = method_subjects("pe_video")  # its text is read by a ModernBERT
METHODS = ("double_seq_bn", "prefix_tuning_flat", "lora", "loreft")


def _without_adapters(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with AdapterSetup(None):
        return original(*args, **kwargs)


def _without_a_root(use: Any, self: Any, paths: Any) -> None:
    use(self, paths)
    for part in self.adapter_parts().values():
        part.get_submodule("").__dict__.pop("_root", None)


PARTS = {
    "wrapping: a part does not know to which whole it belongs": Defect(
        around(ModelUsingSubmodelsAdaptersMixin, "use_parts", _without_a_root),
        "wrapping",
        subject=PE_VIDEO,
        message="do not belong",
    ),
    "apart: an image takes the padding of a text that is as long": Defect(
        instead(reft_places, "_reads_tokens", lambda tower: True),
        "apart",
        ("loreft",),
        CLIP,
        message="with padding in a text",
    ),
    "features: adapters rest past the forward": Defect(
        around(CLIPModel, "get_image_features", _without_adapters),
        "features",
        METHODS,
        CLIP,
        message="get_image_features",
    ),
    "decoding: adapters of the encoder rest where generate calls it by itself": Defect(
        around(BartForConditionalGeneration, "_prepare_text_encoder_decoder_kwargs_for_generation", _without_adapters),
        "decoding",
        METHODS,
        BART,
    ),
}
