"""Losses of the last positions of the logits, with as many labels: an image stands before the text."""

from __future__ import annotations

import pytest

from adapter_codegen.parse import parse_module
from adapter_codegen.plan.heads.logits.chain import Chain, head_chain

HEAD = """
import torch
from torch import nn
from ...modeling_utils import PreTrainedModel
from ...modeling_outputs import CausalLMOutputWithPast

class TinyPreTrainedModel(PreTrainedModel):
    base_model_prefix = "model"

class TinyModel(TinyPreTrainedModel):
    def forward(self, input_ids): ...

class Head(TinyPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.model = TinyModel(config)
        self.lm_head = nn.Linear(config.size, config.vocab_size, bias=False)

    def forward(self, input_ids, labels=None, other=None, **kwargs):
        x = self.model(input_ids)[0]
        logits = self.lm_head(x)
        loss = None
        shift_labels = {popped}
        if labels is not None:
            count = self.model.image_positions
            if {test}:
                shifted = {front}
                shift_labels = {after}
            else:
                shifted = logits[:, count:, :]
            loss = self.loss_function({loss})
        return CausalLMOutputWithPast(loss=loss, logits=logits)
"""
POPPED, TEST = 'kwargs.pop("shift_labels", None)', "shift_labels is None"
FRONT, AFTER = "logits[:, count:-1, :].contiguous()", "labels[:, 1:].contiguous()"
LOSS = "logits=shifted, labels=None, vocab_size=3, shift_labels=shift_labels"


def chain(popped: str = POPPED, test: str = TEST, front: str = FRONT, after: str = AFTER, loss: str = LOSS) -> Chain:
    text = HEAD.format(popped=popped, test=test, front=front, after=after, loss=loss)
    return head_chain(parse_module(text, "models/tiny/modeling_tiny.py"), "Head", "TinyModel", "model")


@pytest.mark.parametrize(
    "code",
    [
        pytest.param({}, id="GIT"),
        pytest.param({"front": "logits.float()[:, 4:-1]", "after": "labels.to(x.device)[:, 1:]"}, id="in other words"),
        pytest.param({"popped": 'kwargs.get("shift_labels", None)'}, id="asked for without taking it"),
        pytest.param(
            {"loss": "logits=logits[:, count:-1], shift_labels=labels[:, 1:]"}, id="without labels that are shifted"
        ),
    ],
)
def test_a_loss_of_the_last_positions(code: dict[str, str]) -> None:
    found = chain(**code)
    assert found.compares_end and not found.is_compared_whole


@pytest.mark.parametrize(
    "code",
    [
        pytest.param({"front": "logits[:, count:, :]"}, id="the last logit with a label"),
        pytest.param({"front": "logits[:, count:-2, :]"}, id="without two of them"),
        pytest.param({"front": "logits[:, count:-1:2, :]"}, id="every second"),
        pytest.param({"front": "logits[:, :, count:-1]"}, id="words and no positions"),
        pytest.param({"front": "logits[1:, count:-1, :]"}, id="some of the rows"),
        pytest.param({"front": "logits[:, count:-1, :2]"}, id="some of the words"),
        pytest.param({"front": "(logits * 2)[:, count:-1, :]"}, id="other logits than it gives"),
        pytest.param({"front": "x[:, count:-1, :]"}, id="no logits"),
        pytest.param({"after": "labels[:, 2:]"}, id="labels of the one after the next"),
        pytest.param({"after": "labels[:, :-1]"}, id="labels that are read"),
        pytest.param({"after": "labels"}, id="labels that are not shifted"),
        pytest.param({"after": "labels[:, 1:-1]"}, id="without the last label"),
        pytest.param({"after": "other[:, 1:]"}, id="no labels"),
        pytest.param({"after": "shift(labels)[:, 1:]"}, id="labels that a function makes"),
        pytest.param({"test": "shift_labels is not None"}, id="where they are given"),
        pytest.param({"test": "other is None"}, id="where something else is missing"),
        pytest.param({"popped": "shift(labels)"}, id="where the class made none"),
        pytest.param({"popped": 'kwargs.pop("other", None)'}, id="by another name of the call"),
        pytest.param({"popped": 'kwargs.pop("shift_labels", labels)'}, id="with another default than none"),
        pytest.param({"loss": LOSS.replace("None", "labels")}, id="with all labels besides"),
        pytest.param({"loss": "shifted, None, 3, shift_labels"}, id="by places, which are the loss's affair"),
        pytest.param(
            {"loss": LOSS.replace("logits=shifted", "logits=logits[:, 1:-1]")}, id="logits without the condition"
        ),
    ],
)
def test_another_part_of_the_logits_is_no_end(code: dict[str, str]) -> None:
    assert not chain(**code).compares_end


def test_a_loss_of_all_logits_is_of_no_end() -> None:
    found = chain(loss="logits=logits, labels=labels")
    assert found.is_compared_whole and not found.compares_end
