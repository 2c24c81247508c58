"""What else a config can decide: by numbers that it leaves open, and that a class with sites asks for; and by texts."""

from __future__ import annotations

import ast

import pytest

from conformance.branches import asked_whether_open, compared_texts, subjects_of_all_branches
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


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param("self.kind", {}, id="it is read"),
        pytest.param("self.kind == other", {"kind": set()}, id="it is compared with what is no literal"),
        pytest.param("self.width == 3", {"width": set()}, id="it is compared with a number"),
        pytest.param("kind == 'full'", {}, id="no attribute"),
        pytest.param("self.kind in KINDS", {}, id="it is looked for in what is no list"),
        pytest.param("'full' in self.kinds", {}, id="it is a list itself"),
        pytest.param("'full' in [self.kind]", {}, id="it is in a list itself"),
        pytest.param("self.kind is 'full'", {}, id="it is that object"),
        pytest.param("'a' < self.kind < 'c'", {}, id="it is in between"),
        pytest.param("self.kind == 'full'", {"kind": {"full"}}, id="equal"),
        pytest.param("'full' != self.config.kind", {"kind": {"full"}}, id="unequal, the other way round"),
        pytest.param("self.kind in ['full', 'near']", {"kind": {"full", "near"}}, id="one of a list"),
        pytest.param("self.kind not in ('full', 3)", {"kind": {"full"}}, id="none of a tuple"),
        pytest.param("x and not self.kind in {'full'}", {"kind": {"full"}}, id="within a longer test"),
    ],
)
def test_texts_that_a_field_is_compared_to(text: str, found: dict[str, set[str]]) -> None:
    assert dict(compared_texts(ast.parse(text))) == found


def test_other_texts_are_tried_where_a_site_stands_under_them_and_upstream_runs() -> None:
    labels = [subject.label for subject in subjects_of_all_branches("timesformer")]
    assert labels == ["encoder", "encoder, attention_type=joint_space_time", "encoder, attention_type=space_only"]


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
