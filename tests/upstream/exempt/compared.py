"""Tests that compare one way to compute attention with another, or experts one by one with all at once."""

from __future__ import annotations

import functools
import inspect

import torch

from conformance import heads
from conformance.outputs import run
from conformance.subjects import BATCH, Subject, model_class
from upstream.exempt.conditions import doubled
from upstream.exempt.table import Exempt, Facts
from upstream.model_tester import hidden_states_of, masks_inputs, needed, patches


def _without_experts(facts: Facts) -> bool:
    return not facts.upstream._can_set_experts_implementation()


def _experts(facts: Facts) -> list[torch.nn.Module]:
    """Those that one of several functions can compute."""
    return [module for module in facts.on_meta.modules() if hasattr(module, "is_concatenated")]  # upstream's decorator


def _has_narrow_experts(facts: Facts) -> bool:
    """Rows of the weights of experts are no whole 16 bytes, at two bytes a number."""
    weights = (
        weight for module in _experts(facts) for weight in module.parameters(recurse=False) if weight.dim() == 3
    )
    return any(2 * weight.shape[-1] % 16 for weight in weights)


def _agrees_in_double(facts: Facts) -> bool:
    """In double precision upstream's eager attention gives what its sdpa attention gives, so that only rounding makes a difference."""
    return _agree_in_double(facts.subject)


@functools.cache
def _agree_in_double(subject: Subject) -> bool:
    kinds = ("eager", "sdpa")
    models = [
        model_class(subject.architecture)._from_config(subject.config(), attn_implementation=kind) for kind in kinds
    ]
    models[1].load_state_dict(models[0].state_dict())
    inputs = {name: doubled(value) for name, value in subject.padded_inputs().items()}
    try:
        eager, sdpa = (run(model.double().eval(), inputs) for model in models)
    except RuntimeError:  # weights that are made in single precision
        return False
    floats = [name for name, value in eager.items() if value.is_floating_point()]
    return all(torch.allclose(eager[name], sdpa[name], atol=1e-9, rtol=1e-9) for name in floats)


def _refuses_masks(facts: Facts) -> bool:
    """The forward has an argument for masked patches, and upstream's model in this configuration fails with it. (Upstream's test
    sets the option for it where the configuration has one. A head that paints masked patches brings the token along.)
    """
    takes = "bool_masked_pos" in inspect.signature(facts.upstream.forward).parameters
    brings = facts.head in heads.HEADS and heads.HEADS[facts.head].masks is not None
    if not takes or brings or hasattr(facts.config, "use_mask_token"):
        return False
    inputs = facts.subject.padded_inputs()
    try:
        facts.subject.upstream()(**inputs, bool_masked_pos=torch.zeros(BATCH, patches(facts.config)).bool())
    except AttributeError:
        return True
    return False


def _counts_in_inputs(facts: Facts) -> bool:
    """An input beside the first says in whole numbers what that consists of, as how many patches an image has (Qwen)."""
    inputs = facts.subject.padded_inputs()
    counts = any(not inputs[name].is_floating_point() for name in needed(facts.subject))
    return counts and not masks_inputs(facts.subject)  # the tester gives enough rows of a mask


def _takes_codes(facts: Facts) -> bool:
    """Tokens of several codebooks at each position."""
    inputs = facts.subject.padded_inputs()
    return any(name in inputs and inputs[name].dim() > 2 for name in ("input_ids", "decoder_input_ids"))


def _masks_too_few(facts: Facts) -> bool:
    """A sound that has fewer features per frame than frames: a mask of so many leaves out the rest."""
    sound = facts.subject.padded_inputs().get("input_features")
    return sound is not None and sound.dim() == 3 and sound.shape[2] < sound.shape[1]


def _streams_come_first(facts: Facts) -> bool:
    """The first dimension of hidden states is no row."""
    states = hidden_states_of(facts.subject)
    return bool(states) and states[0].dim() > 3 and states[0].shape[0] != BATCH


def _without_known_parts(facts: Facts) -> bool:
    """The names are those of upstream's test."""
    base = facts.on_meta.base_model
    towers = ("visual", "image_tower", "vision_tower", "vision_model", "audio_tower", "audio_model")
    has_tower = any(getattr(base, name, None) is not None for name in towers)
    return not (has_tower and any(hasattr(base, name) for name in ("language_model", "model", "text_model")))


EXEMPT: tuple[Exempt, ...] = (
    Exempt(
        "eager_matches_batched_and_grouped_inference_* moe_models_record_router_logits",
        "the model has no experts",
        "does not support grouped_mm|no sparse experts",
        _without_experts,
    ),
    Exempt(
        "moe_models_record_router_logits",
        "upstream looks for experts in the text of the module of the class, and an AdapterModel's holds none",
        "no sparse experts",
    ),
    Exempt(
        "output_router_logits_from_config",
        "the configuration cannot ask for the choices of routers",
        "no `output_router_logits`",
        lambda facts: not hasattr(facts.config.get_text_config(decoder=True), "output_router_logits"),
    ),
    Exempt(
        "eager_matches_sdpa_inference_*",
        "upstream's test narrows the window of all layers at once, and the configuration has one for each",
        "'sliding_window' is a per-layer attribute",
        lambda facts: facts.config.is_heterogeneous,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "eager_matches_sdpa_inference_*_output_attentions",
        "upstream has no argument of that name in the forward: attention weights are captured",
        "does not support output_attentions|does not support SDPA",
        lambda facts: not facts.sdpa or "output_attentions" not in inspect.signature(facts.tested.forward).parameters,
    ),
    Exempt(
        "eager_matches_sdpa_inference_* sdpa_can_dispatch_non_composite_models",
        "upstream has no sdpa for the model",
        "does not support SDPA",
        lambda facts: not facts.sdpa,
    ),
    Exempt(
        "eager_matches_sdpa_inference_*",
        "the test masks patches, for which upstream's model has no token in this configuration",
        "NoneType",
        _refuses_masks,
    ),
    Exempt(
        "eager_matches_sdpa_inference_*_[fb]*16_* eager_matches_batched_and_grouped_inference_*_[fb]*16",
        "torch's grouped product takes rows of whole 16 bytes, which experts of the instance do not have in half precision",
        "strides should be multiple of 16 bytes",
        _has_narrow_experts,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "sdpa_can_dispatch_non_composite_models",
        "the configuration has parts, for which upstream has another test",
        "does not support SDPA",
        lambda facts: bool(facts.config.sub_configs),
    ),
    Exempt(
        "sdpa_can_dispatch_composite_models",
        "upstream looks for a tower and a language model by a few names, which its model does not call them by",
        "does not have both a non-text modality tower and a language sub-model",
        _without_known_parts,
    ),
    Exempt(
        "eager_matches_batched_and_grouped_inference_*",
        "upstream looks for experts in the text of the module of the class, and those there are of another model",
        "Expected 'mock' to have been called",
        lambda facts: not _experts(facts),
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "eager_matches_batched_and_grouped_inference_*_[fb]*16 eager_matches_sdpa_inference_*_[fb]*16_*",
        "upstream's model computes something in float32, which meets weights in half precision",
        "same dtype",
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "eager_matches_sdpa_inference_*",
        "upstream's test lengthens inputs by any whole numbers, and here these say what the other inputs consist of",
        "is invalid for input of size|split_with_sizes expects|must match the size of tensor|ZeroDivisionError",
        _counts_in_inputs,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "eager_matches_sdpa_inference_*",
        "upstream's test masks as many frames as each has features, so that nothing of a sound is left, or nothing that is made of it",
        "^ValueError: mean relative difference",
        _masks_too_few,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "eager_matches_sdpa_inference_*",
        "upstream's test leaves padded places out by the first dimension of states, and that is of several streams",
        "^ValueError: mean relative difference for hidden_states",
        _streams_come_first,
        of_upstream=True,
    ),
    Exempt(
        "eager_matches_sdpa_inference_*",
        "rounding grows in upstream's model beyond what its test allows: in double precision eager and sdpa attention agree",
        "^ValueError: mean relative difference",
        _agrees_in_double,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "eager_matches_sdpa_inference_*",
        "upstream's own class gives other states by its eager than by its sdpa attention for these inputs",
        "^ValueError: mean relative difference for hidden_states",
        of_upstream=True,
    ),
    Exempt(
        "eager_matches_sdpa_inference_*",
        "the configuration of a part lacks a field that upstream's forward reads with these inputs",
        "^AttributeError: '.*Config' object has no attribute",
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "eager_matches_sdpa_inference_*",
        "upstream's test gives a model whose first input is no row of tokens a mask over what the last dimension of that counts",
        "size of tensor",
        lambda facts: facts.tested.main_input_name != "input_ids" or _takes_codes(facts),
        of_upstream=True,
    ),
)
