"""Defects of models that read several things, and of those that are made of several models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import BartForConditionalGeneration, GenerationMixin

from adapter_runtime.call import repeating
from adapter_runtime.call.arguments import hidden_states_of, with_hidden_states
from adapter_runtime.call.context import AdapterSetup
from adapter_runtime.methods.invertible.layer import InvertibleAdapters
from adapter_runtime.methods.prompt_tuning import reserving
from adapter_runtime.methods.reft import places as reft_places
from adapter_runtime.model.parts.composite import ModelUsingSubmodelsAdaptersMixin
from conformance.adapted import initialised
from conformance.defects.embeddings import MASK_AT_THE_WRONG_END
from conformance.defects.planting import Defect, Plant, all_of, around, instead
from conformance.defects.reft import ON_LEFT_PADDING, ON_RIGHT_PADDING
from conformance.defects.sequence import READS_ALL, UNMASKED
from conformance.subjects import BATCH, method_subjects

(CLIP,) = method_subjects("clip")
(GIT,) = method_subjects("git")  # one model with layers for images and for a text
(BART,) = method_subjects("bart")
(LLAVA,) = method_subjects("llava")  # generates with an image in the text
(GEMMA3,) = method_subjects("gemma3")  # a decoder, in which an image is read in both directions
(PE_VIDEO,) = method_subjects("pe_video")  # its text is read by a ModernBERT
METHODS = ("double_seq_bn", "prefix_tuning_flat", "lora", "loreft")


def _without_adapters(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with AdapterSetup(None):
        return original(*args, **kwargs)


def _coupled_wherever_a_table_is_read(self: InvertibleAdapters, module: Any, args: Any, output: Any) -> Any:
    """A root looks its tokens up before it calls the part at whose entry they are coupled."""
    return with_hidden_states(output, self.couple(hidden_states_of(output)))


def _in_its_forward(change: Callable[..., Any]) -> Plant:
    """In the forward of LLaVA after `init`, and not in upstream's."""
    return lambda patch: around(type(initialised(LLAVA)), "forward", change)(patch)


def _of_no_images(original: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
    """Where a row has two."""
    if len(kwargs.get("pixel_values", ())) == 2 * BATCH:
        kwargs["pixel_values"] = torch.zeros_like(kwargs["pixel_values"])
    return original(self, *args, **kwargs)


def _of_another_text(original: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
    """Where there are no images."""
    if "pixel_values" not in kwargs:
        kwargs["input_ids"] = kwargs["input_ids"].flip(1)
    return original(self, *args, **kwargs)


def _side_by_side(repeat: Any, name: str, value: Any, rows: int, copies: int, whole: bool) -> Any:
    if isinstance(value, torch.Tensor) and value.dim() > 0 and len(value) not in (1, rows):
        return value.repeat_interleave(copies, dim=0)
    return repeat(name, value, rows, copies, whole)


def _without_a_root(use: Any, self: Any, paths: Any) -> None:
    use(self, paths)
    for part in self.adapter_parts().values():
        part.get_submodule("").__dict__.pop("_root", None)


PARTS = {
    "reference: a part whose table the whole reads couples twice": Defect(
        instead(InvertibleAdapters, "after_embeddings", _coupled_wherever_a_table_is_read),
        "reference",
        ("inv", "seq_bn_inv"),
        LLAVA,
    ),
    "reference: a part whose table the whole reads never couples": Defect(
        all_of(
            instead(InvertibleAdapters, "coupled_inputs", lambda self, given, scale=None: given),
            instead(InvertibleAdapters, "at_exit", lambda self, outputs: outputs),
        ),
        "reference",
        ("inv", "seq_bn_inv"),
        LLAVA,
    ),
    "identity: a second image in a row is not seen": Defect(
        _in_its_forward(_of_no_images), "identity", subject=LLAVA, message="two images in a row"
    ),
    "identity: a row without images is another one": Defect(
        _in_its_forward(_of_another_text),
        "identity",
        subject=LLAVA,
        message="without images",
    ),
    "parallel: the copies of images of which a row has two stand side by side": Defect(
        around(repeating, "_repeat", _side_by_side), "parallel", METHODS, LLAVA, message="Parallel, two images"
    ),
    "decoding: adapters of a tower rest where generate calls it by itself": Defect(
        around(GenerationMixin, "_prepare_multimodal_encoder_kwargs_for_generation", _without_adapters),
        "decoding",
        METHODS,
        LLAVA,
        message="no cache",
    ),
    "decoding: later steps do not count a prompt that the whole reserves": Defect(
        around(
            reserving, "_moved", lambda moved, call, positions: moved(call, positions) if call.is_first else positions
        ),
        "decoding",
        ("prompt_tuning",),
        LLAVA,
        message="eager, cache",
    ),
    "decoding: an adapter that is not active runs in generate": Defect(
        around(
            ModelUsingSubmodelsAdaptersMixin,
            "activate",
            lambda activate, self, block, skip: activate(self, block, skip) if block is not None else None,
        ),
        "decoding",
        (*METHODS, "inv", "prompt_tuning"),
        LLAVA,
        message="no adapter",
    ),
    "wrapping: a part does not know to which whole it belongs": Defect(
        around(ModelUsingSubmodelsAdaptersMixin, "use_parts", _without_a_root),
        "wrapping",
        subject=PE_VIDEO,
        message="do not belong",
    ),
    "apart: an image takes the padding of a text that is as long": Defect(
        instead(reft_places, "_reads_tokens", lambda tower, around: True),
        "apart",
        ("loreft",),
        GIT,
        message="with padding in a text",
    ),
    "padding: an adapter reads all of a row with an image in it": Defect(
        READS_ALL, "padding", UNMASKED, LLAVA, message="rows with more than text"
    ),
    "padding: ReFT edits the padding of a row with an image in it": Defect(
        ON_LEFT_PADDING, "padding", ("loreft", "noreft", "direft"), LLAVA, message="padding left"
    ),
    "padding: ReFT edits the padding behind a row with an image in it": Defect(
        ON_RIGHT_PADDING, "padding", ("noreft",), LLAVA, message="padding right"
    ),
    "padding: the mask of a row with an image does not count the prompt that the whole reserves": Defect(
        MASK_AT_THE_WRONG_END, "padding", ("prompt_tuning",), LLAVA, message="rows with more than text"
    ),
    "padding: adapters read all of a text beside an image": Defect(
        READS_ALL, "padding", ("double_seq_bn", "lora"), CLIP, message="padding right"
    ),
    "causal: an adapter reads all of a row with an image in it": Defect(
        READS_ALL, "causal", ("double_seq_bn", "lora", "loreft"), GEMMA3
    ),
    "features: adapters rest past the forward": Defect(
        lambda patch: around(type(initialised(CLIP)), "get_image_features", _without_adapters)(patch),
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
