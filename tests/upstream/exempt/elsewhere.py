"""Tests that upstream runs on other machines, or for classes of its own tables alone."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from upstream.exempt.table import Exempt, Facts
from upstream.model_tester import ModelTester


def _without(package: str) -> Callable[[Facts], bool]:
    return lambda facts: importlib.util.find_spec(package) is None


def _without_device(facts: Facts) -> bool:
    from transformers.testing_utils import torch_device  # importing it takes seconds

    return torch_device == "cpu"


def _has_more_layers(facts: Facts) -> bool:
    """More than upstream allows the instances of its own tests. (Its number.)"""
    layers: object = ModelTester(facts.subject.model_type).num_hidden_layers
    return (
        isinstance(layers, int) and layers > 2
    )  # LXMERT's configuration counts them by kinds, which upstream leaves out


EXEMPT: tuple[Exempt, ...] = (
    Exempt(
        "can_load_with_device_context_manager can_load_with_global_device_set cpu_offload disk_offload_* "
        "flex_attention_with_grads sdpa_can_compile_dynamic sdpa_can_dispatch_on_flash",
        "it needs an accelerator",
        "test requires accelerator",
        _without_device,
    ),
    Exempt("model_parallelism", "it needs several accelerators", "requires multiple accelerators", _without_device),
    Exempt("flash_attn_kernels_mps_*", "it needs an Apple device", "requires MPS"),
    Exempt("*_with_deepspeed*", "it needs deepspeed", "requires deepspeed", _without("deepspeed")),
    Exempt(
        "flash_attn_kernels_inference_equivalence kernels_can_load_without_crashing",
        "it needs the package kernels",
        "requires the kernels library",
        _without("kernels"),
    ),
    Exempt("flash_attn_[234]_*", "it needs Flash Attention", "requires Flash Attention", _without("flash_attn")),
    Exempt("torch_compile_for_training", "upstream runs it only with RUN_SLOW", "is slow"),
    Exempt(
        "num_layers_is_small",
        "it holds upstream's own instances to two layers; ours has more, as one of every stage (Swin) or kind of layer",
        r"^AssertionError: (assert \d+ <= 2\n|$)",
        _has_more_layers,
    ),
    Exempt(
        "model_is_small",
        "the least instance that runs everything is larger than upstream allows: it has a size that no field decides",
        "is too big for the common tests",
        of_upstream=True,
    ),
    Exempt(
        "causal_lm_loss_honors_shift_labels encoder_decoder_loss_no_double_shift",
        "upstream runs it for classes in its own tables; our checks compare the losses of converted heads with upstream's",
        "language modeling head to check",
    ),
    Exempt(
        "model_rope_* vision_axial_rope",
        "it makes upstream's base class alone, and an AdapterModel is none",
        "no `base_model_class`",
    ),
)
