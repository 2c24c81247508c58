"""Heads that read a mean of positions: which means are known, and how frames of sounds are counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapter_codegen.model import BasePlan, Location, Parameter, StackPlan, StaticHead
from adapter_codegen.parse import ModelEntry, parse_module
from adapter_codegen.plan.heads.flexible import plan_flexible_heads, pooling
from adapter_codegen.plan.heads.static import plan_static_heads
from adapter_codegen.upstream import Release, open_release

CONFIG = "class TinyConfig(PreTrainedConfig):\n    size: int = 2\n"
HEAD = """
import torch
from torch import nn
from ...modeling_utils import PreTrainedModel
from ...modeling_outputs import SequenceClassifierOutput

class TinyPreTrainedModel(PreTrainedModel):
    base_model_prefix = "tiny"
    def lengths(self, samples):
        return samples // 2
    def frames(self, length, attention_mask):
        real = self.lengths(attention_mask.cumsum(dim=-1)[:, -1])
        attention_mask = torch.zeros((2, length))
        attention_mask[(torch.arange(2), real - 1)] = 1
        return attention_mask.flip([-1]).cumsum(-1).flip([-1]).bool()
    def guessed(self, length, attention_mask):
        return attention_mask[:, ::2]

class TinyModel(TinyPreTrainedModel):
    def __init__(self, config): ...
    def forward(self, values, attention_mask=None): ...

class Head(TinyPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.tiny = TinyModel(config)
        self.narrow = nn.Linear(config.size, config.narrow_size)
        self.wide = nn.Linear(config.size, config.size)
        self.out = nn.Linear(config.narrow_size, config.num_labels)
        self.direct = nn.Linear(config.size, config.num_labels)
        self.norm = nn.LayerNorm(config.size)
        self.by_flag = nn.LayerNorm(config.size) if config.averages else None
        self.act = nn.GELU()
        self.weights = nn.Parameter(torch.ones(3))
    def forward(self, values, attention_mask=None, labels=None):
        outputs = self.tiny(values, attention_mask=attention_mask)
        x = outputs[0]
        {body}
        return SequenceClassifierOutput(logits=logits)
"""
MASKED = """
        x = self.narrow(x)
        if attention_mask is None:
            x = {whole}
        else:
            mask = self.{maker}(x.shape[1], attention_mask)
            x[~mask.unsqueeze(-1).repeat(1, 1, 2)] = {fill}
            x = x.sum(dim={dim}) / {count}
        logits = self.out(x)"""
USUAL = {
    "whole": "x.mean(dim=1)",
    "maker": "frames",
    "fill": "0.0",
    "dim": "1",
    "count": "mask.sum(dim=1).view(-1, 1)",
}
BASE = BasePlan(
    class_name="TinyModel",
    location=Location("", 1, 0, 1, 0),
    pretrained_class="TinyPreTrainedModel",
    prefix="tiny",
    stacks=(StackPlan("layers", ("Layer",)),),
    parameters=(Parameter("values", "", "", "positional"),),
)


def masked(**options: str) -> str:
    return MASKED.format(**{**USUAL, **options})


@pytest.fixture
def release(tmp_path: Path) -> Release:
    files = {"__init__.py": '__version__ = "1"', "models/auto/x": "", "models/tiny/configuration_tiny.py": CONFIG}
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return open_release(tmp_path)


def beside(first: str = "x[:, 0]", rest: str = "x[:, 1:].mean(dim=1)", dim: str = "1") -> str:
    return f"logits = self.direct(torch.cat([{first}, {rest}], dim={dim}))"


def planned(release: Release, body: str, task: str) -> StaticHead:
    path = "models/tiny/modeling_tiny.py"
    entry = ModelEntry("tiny", path, "TinyConfig", "models/tiny/configuration_tiny.py", "TinyModel", {task: ("Head",)})
    facts = parse_module(HEAD.replace("{body}", body), path)
    (head,) = plan_static_heads(release, entry, facts, BASE, plan_flexible_heads(entry, BASE))
    return head


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("logits = self.direct(x.mean(dim=0))", id="a mean over the batch"),
        pytest.param("logits = self.direct(x.mean(dim=-1))", id="a mean over channels"),
        pytest.param("logits = self.direct(x.mean())", id="a mean of everything"),
        pytest.param("logits = self.direct(x.mean(dim=(1, 2)))", id="a mean over two dimensions"),
        pytest.param("logits = self.direct(x.sum(dim=1))", id="a sum"),
        pytest.param("logits = self.direct(x.amax(dim=1))", id="the largest"),
        pytest.param("logits = self.direct(x[:, 2:].mean(dim=1))", id="a mean without two tokens"),
        pytest.param("logits = self.direct(x[:, 1:-1].mean(dim=1))", id="a mean without both ends"),
        pytest.param("logits = self.direct(x[:, ::2].mean(dim=1))", id="a mean of every other position"),
        pytest.param("logits = self.direct(x[1:].mean(dim=1))", id="a mean without the first row"),
        pytest.param("logits = self.direct(self.norm(x).mean(dim=1))", id="a norm before the mean"),
        pytest.param("logits = self.out(self.act(self.narrow(x)).mean(dim=1))", id="an activation before the mean"),
        pytest.param("logits = self.direct((x * self.weights).mean(dim=1))", id="a weighted mean"),
        pytest.param("logits = self.direct(x.mean(dim=1).mean(dim=1))", id="two means"),
        pytest.param(beside("x[:, 1]"), id="the second beside a mean"),
        pytest.param(beside(rest="x.mean(dim=1)"), id="beside a mean of all, which the first is in"),
        pytest.param(beside(rest="x[:, 2 + self.config.size :].mean(dim=1)"), id="beside a mean without two and more"),
        pytest.param(beside(rest="x[:, 1 - self.config.size :].mean(dim=1)"), id="beside a mean of the last ones"),
        pytest.param(
            beside(rest="x[:, 1 + self.count :].mean(dim=1)"), id="beside a mean without as many as nothing says"
        ),
        pytest.param(
            "logits = self.direct(x[:, 1 + self.config.size : -1].mean(dim=1))", id="a mean without the last"
        ),
        pytest.param(beside(rest="x[:, 1:].amax(dim=1)"), id="beside the largest"),
        pytest.param(beside(rest="outputs[1][:, 1:].mean(dim=1)"), id="beside a mean of something else"),
        pytest.param(beside(rest="x[:, 1:].mean(dim=1), x[:, 2]"), id="three side by side"),
        pytest.param(beside(dim="0"), id="one below the other"),
        pytest.param(beside().replace("torch.cat", "torch.stack"), id="as another dimension"),
        pytest.param(
            "x = self.narrow(x)\n        " + beside().replace("direct", "out"), id="a projection before both"
        ),
        pytest.param(
            "logits = self.direct(torch.cat([x[:, 1:].mean(dim=1), x[:, 0]], dim=1))", id="the mean in front"
        ),
        pytest.param(masked(whole="x.mean(dim=2)"), id="frames: without a mask another mean"),
        pytest.param(masked(whole="x[:, 0]"), id="frames: without a mask the first"),
        pytest.param(masked(dim="2"), id="frames: a sum over channels"),
        pytest.param(masked(fill="1.0"), id="frames: padding becomes ones"),
        pytest.param(masked(count="x.shape[1]"), id="frames: divided by all"),
        pytest.param(masked(maker="guessed"), id="frames: a mask that counts none"),
        pytest.param(
            masked().replace("attention_mask is None", "attention_mask is not None"), id="frames: the other way round"
        ),
    ],
)
@pytest.mark.parametrize("task", ["audio_classification", "video_classification"])
def test_other_ways_to_one_vector_are_not_converted(release: Release, body: str, task: str) -> None:
    assert planned(release, body, task).head_type == ""


@pytest.mark.parametrize(
    ("body", "reads"),
    [
        pytest.param("logits = self.direct(x.mean(dim=1))", "mean", id="a method"),
        pytest.param("logits = self.direct(x.mean(1))", "mean", id="by position"),
        pytest.param("logits = self.direct(torch.mean(x, dim=1))", "mean", id="a function"),
        pytest.param("logits = self.direct(torch.mean(x[:, 1:, :], dim=1))", "rest", id="without the class token"),
        pytest.param("logits = self.direct(x[:, 1:].mean(dim=1))", "rest", id="the same in two dimensions"),
        pytest.param("logits = self.direct(self.norm(x.mean(1)))", "mean", id="a norm behind the mean"),
        pytest.param("logits = self.direct(x[:, 0])", "first", id="the first"),
        pytest.param(beside(), "both", id="the first and the mean of the rest"),
        pytest.param(beside(first="x[:, 0, :]", dim="-1"), "both", id="the same in three dimensions"),
        pytest.param(masked(), "frames", id="frames that are real"),
        pytest.param(masked().replace("self.narrow", "self.wide"), "frames", id="a projection of the same width"),
    ],
)
def test_what_a_head_reads(release: Release, body: str, reads: str) -> None:
    head = planned(release, body, "audio_classification")
    assert (head.head_type, head.reads) == ("audio_classification", reads)
    assert pooling(BASE, (head.head_type,), (reads,)) == reads


@pytest.mark.parametrize(
    "body",
    [
        beside(rest="x[:, 1 + self.config.size :].mean(dim=1)"),
        "logits = self.direct(x[:, 1 + self.config.size :].mean(dim=1))",
    ],
)
def test_a_mean_may_leave_out_as_many_as_the_config_says(release: Release, body: str) -> None:
    assert planned(release, body, "audio_classification").skips == "size"
    assert planned(release, body.replace("1 + self.config.size :", "1:"), "audio_classification").skips == ""


def test_frames_are_counted_by_the_method_that_masks_ask(release: Release) -> None:
    head = planned(release, masked(), "audio_classification")
    assert head.frames == "lengths"
    assert head.layers == (None, "narrow", None, "out")
    assert dict(head.config)["projection_size_key"] == "narrow_size"


def test_a_text_is_never_averaged(release: Release) -> None:
    """`adapters` reads the first token, and padding would count."""
    assert planned(release, "logits = self.direct(x.mean(dim=1))", "sequence_classification").head_type == ""


def test_a_norm_that_is_there_by_a_flag_of_the_config_asks_for_it(release: Release) -> None:
    body = """
        if self.by_flag is not None:
            x = self.by_flag(x.mean(1))
        else:
            x = x[:, 0]
        logits = self.direct(x)"""
    head = planned(release, body, "video_classification")
    assert dict(head.config)["requires"] == {"averages": True}
    assert (head.reads, head.layers) == ("mean", ("by_flag", None, "direct"))


def test_the_way_that_a_flag_leaves_open_is_taken_where_the_other_is_not_understood(release: Release) -> None:
    body = """
        if self.config.weighted:
            x = torch.stack(outputs[2], dim=1).sum(dim=1)
        else:
            x = outputs[0]
        logits = self.direct(x)"""
    head = planned(release, body, "audio_frame_classification")
    assert dict(head.config)["requires"] == {"weighted": False}
