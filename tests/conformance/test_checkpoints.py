"""Whole checkpoints of a sample of model types, and what of a comparison the check cannot be fooled by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from conformance.checks import checkpoint
from conformance.checks.checkpoint import checkpoint_is_read, checkpoint_subjects
from conformance.checks.random_parts import models_to_be_read, random_tensors
from conformance.subjects import Subject

# Types with classes that name tensors in ways of their own, that hold the parts of a base model themselves, or in which a model ties a head.
SAMPLE = ("beit", "clip", "gpt_neox", "kosmos-2.5", "mimi_encoder", "qwen2_vl", "t5", "ultrabert")


def pytest_generate_tests(metafunc: Any) -> None:
    if "subject" in metafunc.fixturenames:
        subjects = [subject for model_type in SAMPLE for subject in checkpoint_subjects(model_type)]
        metafunc.parametrize("subject", [pytest.param(subject, id=subject.architecture) for subject in subjects])


def test_checkpoint_of_every_class_is_read(subject: Subject) -> None:
    checkpoint_is_read(subject)


def test_classes_of_all_tables_of_upstream_are_subjects() -> None:
    names = {subject.architecture for subject in checkpoint_subjects("clip")}
    assert names == {
        "CLIPModel",
        "CLIPForImageClassification",
    }  # the latter stands in a table of heads of another kind
    assert "Qwen2VLForConditionalGeneration" in {s.architecture for s in checkpoint_subjects("qwen2_vl")}


@pytest.mark.parametrize(
    ("lacking", "left_over", "is_found"),
    [
        pytest.param("layers.0.weight", "tower.layers.0.weight", True, id="a part under another prefix"),
        pytest.param("layers.0.weight", "layers.1.weight", False, id="another layer"),
        pytest.param("pooler.weight", "head.weight", False, id="no layers"),
    ],
)
def test_a_part_that_was_not_recognised_is_found(lacking: str, left_over: str, is_found: bool) -> None:
    bert, *_ = checkpoint_subjects("bert")
    read = checkpoint._Read(bert.upstream(), [f"bert.{lacking}"], [left_over], told="")
    assert checkpoint._by_another_name(read) == ({lacking} if is_found else set())


def test_a_base_model_that_stands_elsewhere_than_its_class_says_is_found() -> None:
    (subject,) = (s for s in checkpoint_subjects("gpt_neox") if s.architecture == "GPTNeoXForCausalLM")
    upstream = subject.upstream()
    base = upstream.base_model.state_dict()
    assert checkpoint._base_of(upstream, base).keys() == base.keys()


def test_what_only_the_class_that_wrote_it_ties_may_lack_where_upstream_lacks_it_too() -> None:
    subject, *_ = checkpoint_subjects("bert")
    theirs = subject.upstream()
    read = checkpoint._Read(subject.upstream(), ["bert.pooler.dense.bias"], [], told="")
    for lacking in (set[str](), {"pooler.dense.bias"}):
        with pytest.raises(AssertionError, match=r"not read from the checkpoint: pooler\.dense\.bias"):
            checkpoint._compare(read, theirs, lacking, set())
    theirs.pooler.dense.bias = theirs.embeddings.LayerNorm.bias
    checkpoint._compare(read, theirs, {"pooler.dense.bias"}, set())
    with pytest.raises(AssertionError, match="not read from the checkpoint"):
        checkpoint._compare(read, theirs, set(), set())


def test_a_prediction_without_weights_that_is_lost_in_silence_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """FSMT's decoder projects onto the vocabulary itself; were it not so, no weight would be lost, but what is predicted."""
    (subject,) = (s for s in checkpoint_subjects("fsmt") if s.architecture == "FSMTForConditionalGeneration")
    theirs = subject.upstream()
    with checkpoint._saved(theirs) as folder:
        read = checkpoint._read(checkpoint._auto_class(), folder)
    checkpoint._nothing_is_lost_in_silence(subject, read, theirs)
    with torch.no_grad():
        read.model.get_input_embeddings().weight.mul_(2)
    with pytest.raises(AssertionError, match="nothing says that the adapter model gives no logits"):
        checkpoint._nothing_is_lost_in_silence(subject, read, theirs)


def test_a_class_that_does_not_read_what_it_wrote_is_told_apart() -> None:
    named = {subject.architecture: subject for name in ("pixio", "bert") for subject in checkpoint_subjects(name)}
    assert not checkpoint._is_read_as_written(named["PixioBackbone"].upstream())
    assert checkpoint._is_read_as_written(named["PixioModel"].upstream())
    assert checkpoint._is_read_as_written(named["BertForMaskedLM"].upstream())


def test_classes_of_the_file_that_stand_in_no_table_are_subjects_if_they_can_run() -> None:
    names = {subject.architecture for subject in checkpoint_subjects("dpr")}
    assert names == {"DPRQuestionEncoder", "DPRContextEncoder", "DPRReader"}


class _Part(PreTrainedModel):
    config_class = PreTrainedConfig

    def __init__(self, width: int, **inside: PreTrainedModel) -> None:
        super().__init__(PreTrainedConfig())
        self.dense = torch.nn.Linear(width, width)
        for name, model in inside.items():
            setattr(self, name, model)


class _Other(_Part):
    """Another class."""


@pytest.mark.parametrize(
    ("base", "theirs", "expected"),
    [
        pytest.param(lambda: _Part(2), lambda: _Other(2), [], id="of another class"),
        pytest.param(lambda: _Part(2), lambda: _Part(3), [], id="of another size"),
        pytest.param(lambda: _Part(2), lambda: _Other(2, a=_Part(2), b=_Part(2)), [], id="two of its class"),
        pytest.param(
            lambda: _Part(2, a=_Other(4)), lambda: _Part(3, a=_Other(4)), [], id="in one of another size of that class"
        ),
        pytest.param(lambda: _Part(2), lambda: _Other(3, a=_Part(2)), [""], id="one of its class"),
        pytest.param(lambda: _Other(4, a=_Part(2)), lambda: _Part(2), ["a"], id="what it holds is all of the other"),
    ],
)
def test_a_model_that_is_random_though_it_was_in_the_checkpoint_is_found(
    base: Callable[[], PreTrainedModel], theirs: Callable[[], PreTrainedModel], expected: list[str]
) -> None:
    ours = base()
    assert models_to_be_read(ours, theirs(), random_tensors(ours, theirs(), {})) == expected


def test_what_has_the_values_of_another_place_of_the_same_name_is_read() -> None:
    ours, theirs = _Other(4, a=_Part(2)), _Other(3, b=_Part(2))
    assert random_tensors(ours, theirs, {}) == set(ours.state_dict())
    ours.a.load_state_dict(theirs.b.state_dict())
    assert random_tensors(ours, theirs, {}) == {"dense.weight", "dense.bias"}
    assert random_tensors(ours, theirs, {"dense.bias": ours.dense.bias}) == {"dense.weight"}
