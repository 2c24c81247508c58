"""Tests of the hidden states that a model gives, and of what captures them."""

from __future__ import annotations

from typing import Any

import torch

from conformance.subjects import Subject
from upstream.exempt.conditions import left_out, models, takes_no_tokens
from upstream.exempt.table import Exempt, Facts
from upstream.model_tester import attentions_of, hidden_states_of, outputs_of


def _captured(facts: Facts) -> dict[str, Any]:
    """What upstream records with hooks: name -> where."""
    return {name: where for model in models(facts) for name, where in (model._can_record_outputs or {}).items()}


def _captures_layers(facts: Facts) -> bool:
    """Some model inside records its hidden states at one class of layers."""
    return any(
        not isinstance((model._can_record_outputs or {}).get("hidden_states", []), list) for model in models(facts)
    )


def _has_several_that_record(facts: Facts) -> bool:
    """More than one model inside records its hidden states, or one gives more of them than its layers do."""
    if len(hidden_states_of(facts.subject)) > len(attentions_of(facts.subject)) + 1:
        return True
    recording = [model for model in models(facts) if "hidden_states" in (model._can_record_outputs or {})]
    return len([model for model in recording if model is not facts.on_meta]) > 1


def _runs_layers_again(facts: Facts) -> bool:
    """There are more hidden states than layers that they are recorded at: these run again, for each frame of a video (VideoMT)."""
    recorded = tuple(where for where in _captured_states(facts) if isinstance(where, type))
    layers = [module for module in facts.on_meta.modules() if recorded and isinstance(module, recorded)]
    return bool(layers) and len(hidden_states_of(facts.subject)) > len(layers) + 1


def _counts_other_layers(facts: Facts) -> bool:
    """The configuration counts more layers than record hidden states: some are of another kind."""
    (recorded,) = _captured_states(facts) if len(_captured_states(facts)) == 1 else (None,)
    if not isinstance(recorded, type):
        return False
    layers = sum(isinstance(module, recorded) for module in facts.on_meta.modules())
    return layers < int(getattr(facts.config, "num_hidden_layers", 0))


def _gives_a_tensor(facts: Facts) -> bool:
    """Upstream's model gives a tensor alone."""
    return not outputs_of(facts.subject)


def _captured_states(facts: Facts) -> list[Any]:
    """Where upstream records hidden states."""
    found = [(model._can_record_outputs or {}).get("hidden_states") for model in models(facts)]
    return [getattr(where, "target_class", where) for where in found if where is not None]


def _gives_states_of_several(facts: Facts) -> bool:
    """As an encoder and a decoder do, and BLIP-2, whose outputs hold those of its parts."""
    return "hidden_states" not in outputs_of(facts.subject)


def _gives_no_states_of_texts(facts: Facts) -> bool:
    """There is neither one stack nor one for texts. (The name is that of upstream's test.)"""
    outputs = outputs_of(facts.subject)
    return _gives_states_of_several(facts) and "hidden_states" not in (outputs.get("text_model_output") or {})


def _first_is_chosen(facts: Facts) -> bool:
    """What upstream's model gives first has no gradient: it is chosen, as which points match."""
    return next(iter(_in_training(facts.subject).values())).grad_fn is None


def _in_training(subject: Subject) -> dict[str, Any]:
    outputs: dict[str, Any] = subject.upstream()(**subject.padded_inputs(), return_dict=True)
    return outputs


def _has_unlike_stacks(facts: Facts) -> bool:
    """The hidden states of the decoder are of another number than those of the encoder, or of another width."""
    encoder, decoder = (outputs_of(facts.subject).get(f"{name}_hidden_states") for name in ("encoder", "decoder"))
    if not encoder or not decoder:
        return False
    return len(encoder) != len(decoder) or encoder[0].shape[-1] != decoder[0].shape[-1]


def _has_parallel_streams(facts: Facts) -> bool:
    """Each token has states of several residual streams."""
    states = hidden_states_of(facts.subject)
    return not takes_no_tokens(facts) and bool(states) and states[0].dim() > 3


def _gives_no_states_of_encoder(facts: Facts) -> bool:
    """The configuration says that there is an encoder, and the outputs have no states by its name."""
    return facts.config.is_encoder_decoder and "encoder_hidden_states" not in outputs_of(facts.subject)


def _records_nothing(facts: Facts) -> bool:
    """Hidden states can be asked for, and there are none."""
    return outputs_of(facts.subject).get("hidden_states") == ()


def _nests_states(facts: Facts) -> bool:
    """Hidden states are lists of lists, one of each tower (BridgeTower)."""
    states = outputs_of(facts.subject).get("hidden_states")
    return bool(states) and not all(isinstance(state, torch.Tensor) for state in states)


def _works_lengths_out(facts: Facts) -> bool:
    """A decoder that is given no tokens, and makes as many states of them as its weights say."""
    inputs = facts.subject.padded_inputs()
    return facts.config.is_encoder_decoder and "input_ids" in inputs and "decoder_input_ids" not in inputs


EXEMPT: tuple[Exempt, ...] = (
    Exempt(
        "capture_outputs_decorator",
        "upstream's forward collects the outputs itself",
        "No usage of the `capture_outputs`",
        lambda facts: not _captured(facts),
    ),
    Exempt(
        "can_capture_specific_layers_hidden_states",
        "upstream's forward collects the hidden states itself, or records them at several classes",
        "Cannot capture hidden states",
        lambda facts: not _captures_layers(facts),
    ),
    Exempt(
        "can_capture_specific_layers_hidden_states",
        "upstream looks for hidden states of one stack, and the outputs hold those of several",
        "does not propagate hidden states",
        lambda facts: _gives_no_states_of_texts(facts) and not _gives_a_tensor(facts),
    ),
    Exempt(
        "hidden_states_output retain_grad_hidden_states_attentions model_outputs_equivalence capture_outputs_decorator",
        "timm's model inside gives no hidden states, or no attention weights, and upstream's says so where they are asked for",
        "'output_hidden_states' option cannot be set for this timm model|Cannot set `output_attentions` for timm models",
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "hidden_states_output retain_grad_hidden_states_attentions",
        "upstream looks for hidden states of one stack, and the outputs hold those of several, or none",
        "has no attribute 'hidden_states'|'?NoneType'? (object is not subscriptable|has no len)",
        lambda facts: not facts.config.is_encoder_decoder and _gives_states_of_several(facts),
    ),
    Exempt(
        "hidden_states_output",
        "upstream looks for as many states in the decoder as in the encoder, and as wide ones",
        r"^AssertionError: (\d+ != \d+$|Lists differ)",
        _has_unlike_stacks,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "hidden_states_output",
        "upstream's decoder gives its last states alone where the configuration asks, and not the call",
        r"^AssertionError: 1 != \d+$",
        lambda facts: facts.config.is_encoder_decoder,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "hidden_states_output",
        "upstream's model makes as many states for its decoder as its weights say, which are others in each test",
        "Lists differ",
        _works_lengths_out,
        of_upstream=True,
    ),
    Exempt(
        "hidden_states_output retain_grad_hidden_states_attentions attention_outputs",
        "upstream looks for what an encoder gives, which the configuration speaks of and the outputs have by other names",
        "has no attribute 'encoder_(hidden_states|attentions)'",
        _gives_no_states_of_encoder,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "capture_outputs_decorator",
        "a forward of upstream's that captures outputs runs a tower that captures them, too, which upstream's test forbids",
        "capture_outputs` several time in a chain",
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "hidden_states_output retain_grad_hidden_states_attentions",
        "upstream looks for one list of hidden states, and each tower has its own",
        "'tuple' object has no attribute '(shape|retain_grad)'",
        _nests_states,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "can_capture_specific_layers_hidden_states",
        "upstream looks for one list of hidden states, and each tower has its own",
        "is not None",
        _nests_states,
        of_upstream=True,
    ),
    Exempt(
        "can_capture_specific_layers_hidden_states hidden_states_output retain_grad_hidden_states_attentions",
        "upstream's model records the outputs of layers that it does not have, and so none",
        "^AssertionError: 0 != 1$|tuple index out of range|has no attribute 'text_model_output'",
        _records_nothing,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "can_capture_specific_layers_hidden_states",
        "upstream's model puts states of several stacks together, or gives others than those of the one that is told to keep a few",
        "is not None|^AssertionError: None mismatch",
        _has_several_that_record,
        of_upstream=True,
    ),
    Exempt(
        "can_capture_specific_layers_hidden_states model_outputs_equivalence",
        "upstream's model gives a tensor alone, of which the test reads outputs by name, or asks for a tuple of outputs",
        r"Tensor\.__contains__ only supports|'(Tensor|tuple)' object has no attribute '(to_tuple|last_hidden_state)'",
        _gives_a_tensor,
        of_upstream=True,
    ),
    Exempt(
        "can_capture_specific_layers_hidden_states",
        "upstream's configuration counts layers of another kind, which record no states, where the test asks for the last one",
        "^AssertionError: None mismatch",
        _counts_other_layers,
        of_upstream=True,
    ),
    Exempt(
        "can_capture_specific_layers_hidden_states",
        "upstream's layers run several times, and those that are not kept are counted in the first time alone",
        "^AssertionError: None mismatch",
        _runs_layers_again,
        of_upstream=True,
    ),
    Exempt(
        "retain_grad_hidden_states_attentions",
        "what upstream's model gives first is chosen, as which points match, and has no gradient",
        "element 0 of tensors does not require grad",
        _first_is_chosen,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "retain_grad_hidden_states_attentions",
        "the first states or weights that upstream hands out are copies, or of no part that the first output is computed from",
        "^AssertionError: unexpectedly None",
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "retain_grad_hidden_states_attentions",
        "upstream's model gives several maps where the test looks for one tensor",
        "'tuple' object has no attribute 'flatten'",
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "retain_grad_hidden_states_attentions",
        "upstream's model does not train without targets, which the test does not give",
        "labels must be provided",
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "hidden_states_output",
        "upstream looks for one state of each token, and each has several",
        "Lists differ",
        _has_parallel_streams,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "attention_outputs hidden_states_output retain_grad_hidden_states_attentions",
        "upstream's model of any two does not ask these for what its config says",
        "NoneType",
        lambda facts: facts.config.is_encoder_decoder,
        of_upstream=True,
    ),
    Exempt(
        "retain_grad_hidden_states_attentions",
        "upstream's first states are inputs, constants (DETR's queries), or computed without a gradient (HRM's cycles)",
        "can't retain_grad on Tensor that has requires_grad=False",
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "hidden_states_output attention_outputs",
        "upstream's own class gives outputs of other sizes than its test looks for",
        "^AssertionError: ",
        lambda facts: not left_out(facts),
        of_upstream=True,
        word_for_word=True,
    ),
)
