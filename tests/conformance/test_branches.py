"""What else a config can decide: numbers that it leaves open, and that a class with sites asks for."""

from __future__ import annotations

import ast

import pytest

from conformance.branches import asked_whether_open, subjects_of_all_branches
from conformance.breaking import edit_generated
from conformance.checks.union import every_method_together
from conformance.emitted import modeling_module


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        pytest.param("x = config.pad", set(), id="it is read"),
        pytest.param("x = config.pad > 0", set(), id="it is compared with a number"),
        pytest.param("x = self.pad is not None", set(), id="no field"),
        pytest.param("x = config.pad is not None", {"pad"}, id="asked"),
        pytest.param("x = 1 if self.config.pad is None else 2", {"pad"}, id="asked the other way round"),
    ],
)
def test_fields_that_are_asked_whether_they_are_left_open(text: str, fields: set[str]) -> None:
    assert asked_whether_open(ast.parse(text)) == fields


def test_only_whole_numbers_are_tried() -> None:
    assert [subject.label for subject in subjects_of_all_branches("llama")] == ["decoder"]
    labels = [subject.label for subject in subjects_of_all_branches("moonshine")]
    assert labels == ["encoder-decoder", "encoder-decoder, pad_head_dim_to_multiple_of=3"]


def test_the_union_finds_that_a_prefix_goes_in_behind_the_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    *_, padded = subjects_of_all_branches("moonshine")
    every_method_together(padded)
    edit_generated(monkeypatch, modeling_module("moonshine"), _behind_padding)
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        every_method_together(padded)


def _behind_padding(text: str) -> str:
    """The call that puts a prefix in, moved to upstream's call of the attention."""
    begin, end = text.index("# >>> adapters"), text.index("# <<< adapters")
    edit, rest = text[begin:end], text[end:]
    call = "attn_output, attn_weights = attention_interface("
    return text[:begin] + rest.replace(call, f"{edit}{call}", 1)
