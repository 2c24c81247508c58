"""Tests of which kinds of attention a model can have, and of the attention weights that it gives."""

from __future__ import annotations

from upstream.exempt.conditions import left_out, models
from upstream.exempt.table import Exempt, Facts
from upstream.model_tester import ModelTester, attentions_of, outputs_of


def _has_part_without_choice(facts: Facts) -> bool:
    """Upstream's file of a model inside has attention of one kind only."""
    return not all(model._can_set_attn_implementation() for model in models(facts))


def _gives_weights_with_states_only(facts: Facts) -> bool:
    """Upstream's model fails where attention weights are asked for without hidden states, and not with these."""
    inputs = facts.subject.padded_inputs()
    try:
        facts.subject.upstream()(**inputs, output_attentions=True)
    except TypeError:
        return bool(facts.attentions)
    return False


def _holds_configs_of_one_class(facts: Facts) -> bool:
    """A model inside a part has a configuration of the class of another part's (VibeVoice's two encoders of sounds)."""
    config = facts.on_meta.config
    parts = [getattr(config, name) for name in config.sub_configs]
    inside = [model.config for model in models(facts) if not any(model.config is part for part in (config, *parts))]
    return any(type(one) is type(part) for one in inside for part in parts)


def _has_part_without_sdpa(facts: Facts) -> bool:
    return not all(model._supports_sdpa for model in models(facts))


def _reads_fewer(facts: Facts) -> bool:
    """The cross attention is over other positions than that of the encoder: an adapter of upstream's made fewer of them (SeamlessM4T
    v2), or the encoder's is local (LED)."""
    outputs = outputs_of(facts.subject)
    cross, own = outputs.get("cross_attentions"), attentions_of(facts.subject)
    return bool(cross) and bool(own) and facts.config.is_encoder_decoder and cross[0].shape[-1] != own[0].shape[-1]


def _crosses_from_streams(facts: Facts) -> bool:
    """The cross attention is of more queries than the decoder has states, as of several streams behind one another (ProphetNet)."""
    outputs = outputs_of(facts.subject)
    cross, states = outputs.get("cross_attentions"), outputs.get("decoder_hidden_states")
    return bool(cross) and bool(states) and cross[0].shape[-2] > states[0].shape[-2]


def _attends_in_pieces(facts: Facts) -> bool:
    """An attention is over other positions than all hidden states, as over those of one frame (TimeSformer)."""
    weights, tester = attentions_of(facts.subject), ModelTester(facts.subject.model_type)
    if hasattr(tester, "chunk_length"):  # upstream's test knows those that are cut like this
        return False
    return bool(weights) and weights[0].shape[-2] != getattr(tester, "encoder_seq_length", tester.seq_length)


def _without_window(facts: Facts) -> bool:
    if facts.config.is_heterogeneous:  # each layer has a window of its own
        return False
    return not (hasattr(facts.config, "sliding_window") and hasattr(facts.config, "use_sliding_window"))


EXEMPT: tuple[Exempt, ...] = (
    Exempt(
        "can_set_attention_dynamically*",
        "upstream's modeling file has attention of one kind only",
        "does not support setting its attention",
        lambda facts: not facts.upstream._can_set_attn_implementation(),
    ),
    Exempt(
        "can_set_attention_dynamically can_set_attention_dynamically_composite_model",
        "upstream's modeling file of a model inside has attention of one kind only",
        "Parts of this model cannot set attention dynamically",
        _has_part_without_choice,
    ),
    Exempt(
        "can_set_attention_dynamically",
        "upstream has no sdpa for the model, or for one inside of it",
        "don't support sdpa",
        _has_part_without_sdpa,
    ),
    Exempt(
        "attn_implementation_composite_models sdpa_can_dispatch_composite_models can_set_attention_dynamically_composite_model "
        "internal_model_config_and_subconfig_are_same",
        "the configuration has no parts",
        "not (a )?composite|does not support SDPA|No subconfigs|does not support attentions",
        lambda facts: not facts.config.sub_configs,
    ),
    Exempt(
        "attention_outputs attn_implementation_composite_models eager_matches_sdpa_inference_* sdpa_can_dispatch_*models "
        "sliding_window_mask",
        "the model gives no attention weights",
        "not (output|support) (output_)?attentions",
        lambda facts: not facts.attentions,
    ),
    Exempt(
        "attention_outputs model_outputs_equivalence",
        "upstream's model reads its attention weights out of its hidden states, and fails where these are not asked for",
        "'NoneType' object is not subscriptable",
        _gives_weights_with_states_only,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "attention_outputs",
        "upstream's decoder attends to the encoder from several streams at once, which the test counts as one",
        "Lists differ",
        lambda facts: _crosses_from_streams(facts) and bool(left_out(facts)),
    ),
    Exempt(
        "attention_outputs",
        "upstream looks for as many queries as there are hidden states, and attention is over pieces of these",
        "Lists differ",
        _attends_in_pieces,
    ),
    Exempt(
        "attention_outputs",
        "what upstream hands out as attention weights is what its attention gives, of all rows behind one another",
        "Lists differ",
        lambda facts: facts.attentions and attentions_of(facts.subject)[0].dim() < 3,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "attention_outputs",
        "upstream's decoder reads other positions than the attention of its encoder",
        "Lists differ",
        _reads_fewer,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "attention_outputs",
        "upstream's model of an encoder and a decoder gives more than the outputs that the test counts",
        r"^AssertionError: \d+ != \d+$",
        lambda facts: facts.config.is_encoder_decoder and not left_out(facts),
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt("sliding_window_mask", "no option switches a sliding window", "sliding window mask", _without_window),
    Exempt(
        "sliding_window_mask",
        "upstream's test reads one window of a configuration whose layers have several",
        "is a per-layer attribute",
        lambda facts: facts.config.is_heterogeneous,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "sliding_window_mask",
        "upstream's test changes the width of a head, and not the sections that positions turn",
        "split_with_sizes expects",
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "attention_outputs",
        "upstream's model fails where the config of a part asks for attention weights, which that reads at a place of a tuple",
        "tuple index out of range",
        lambda facts: bool(facts.config.sub_configs),
        of_upstream=True,
    ),
    Exempt(
        "attn_implementation_composite_models",
        "upstream's test writes to the text part of the configuration of an encoder-decoder without one, and that is a copy",
        "False is not true",
        lambda facts: facts.config.is_encoder_decoder,
        of_upstream=True,
    ),
    Exempt(
        "internal_model_config_and_subconfig_are_same",
        "upstream's test takes the configuration of a model inside a part for that of another part of the same class",
        "False is not true",
        _holds_configs_of_one_class,
        of_upstream=True,
    ),
    Exempt(
        "can_set_attention_dynamically_composite_model",
        "upstream has no sdpa for the model, or for one inside of it",
        "does not support an attention implementation through",
        _has_part_without_sdpa,
        of_upstream=True,
    ),
)
