"""What upstream adds behind a layer and can be without has no host; all else that is without one is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from transformers import Gemma4Config

from conformance import extensions
from conformance.breaking import edit_generated
from conformance.checks.branches import hosts_receive_branches
from conformance.emitted import modeling_module
from conformance.methods import method
from conformance.subjects import method_subjects

# With its own adapters, which it has for languages.
SUBJECT = replace(
    method_subjects("wav2vec2")[0],
    changes=(("do_stable_layer_norm", True), ("adapter_attn_dim", 4), ("num_hidden_layers", 1)),
)
OWN = "hidden_states = hidden_states + self.adapter_layer(hidden_states)"
BOTTLENECKS = method("double_seq_bn")


def test_an_adapter_of_upstream_behind_the_output_needs_no_host() -> None:
    hosts_receive_branches(SUBJECT, BOTTLENECKS)


def test_the_feed_forward_block_in_front_of_it_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    define = "\n\ndef sum_of(x, residual, norm):\n    return residual + x\n"
    _edit(monkeypatch, lambda text: text.replace("self.output_adapters(", "sum_of(") + define)
    with pytest.raises(AssertionError, match="adds what no host is given"):
        hosts_receive_branches(SUBJECT, BOTTLENECKS)


def test_a_module_that_does_not_read_what_the_host_gave_is_a_branch(monkeypatch: pytest.MonkeyPatch) -> None:
    _edit(monkeypatch, lambda text: text.replace(OWN, OWN.replace("(hidden_states)", "(attn_residual)")))
    with pytest.raises(AssertionError, match="adds what no host is given"):
        hosts_receive_branches(SUBJECT, BOTTLENECKS)


def test_a_module_that_upstream_always_has_is_a_branch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extensions, "_removable", lambda subject: ())
    with pytest.raises(AssertionError, match="adds what no host is given"):
        hosts_receive_branches(SUBJECT, BOTTLENECKS)


def test_a_field_that_takes_a_sublayer_away_too_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = frozenset(name for name, _ in SUBJECT.upstream().named_parameters())
    monkeypatch.setattr(extensions, "_removable", lambda subject: (everything,))
    with pytest.raises(AssertionError, match="adds what no host is given"):
        hosts_receive_branches(SUBJECT, BOTTLENECKS)


def _edit(patch: pytest.MonkeyPatch, edit: Callable[[str], str]) -> None:
    edit_generated(patch, modeling_module("wav2vec2"), edit)


def test_fields_of_a_config_inside_of_another_are_emptied_too_and_others_stay() -> None:
    config = Gemma4Config(text_config={"hidden_size_per_layer_input": 4})
    found = list(extensions._emptied(config))
    without = [one for one in found if not one.text_config.hidden_size_per_layer_input]
    assert without and all(one.text_config.hidden_size == config.text_config.hidden_size for one in without)
    assert config.text_config.hidden_size_per_layer_input == 4
