"""How much a head drops, and which labels of it count, as upstream's classes write it."""

from __future__ import annotations

import pytest

from adapter_codegen.parse import parse_module
from adapter_codegen.plan.flow.tracer import trace
from adapter_codegen.plan.heads.logits.losses.labels import skips_padding
from adapter_codegen.plan.heads.logits.rates import dropout_rates

HEAD = """
from torch import nn

class Inner(nn.Module):
    def __init__(self, config, width, rate=0.3):
        super().__init__()
        self.drop = nn.Dropout({inner})

class Head(nn.Module):
    def __init__(self, config):
        super().__init__()
        {before}
        self.inner = Inner(config.text_config, 8, {handed})
        self.drop = nn.Dropout({rate})
"""
CHAIN = """if getattr(config, "classifier_dropout", None) is not None:
            rate = config.classifier_dropout
        elif getattr(config, "hidden_dropout", None) is not None:
            rate = config.hidden_dropout
        else:
            rate = 0.1"""
BOTH = """if hasattr(config, "a") and config.a is not None:
            rate = config.a
        else:
            rate = config.b"""
OTHER = """if config.is_wide:
            rate = config.a
        else:
            rate = config.b"""
CROSSED = """if getattr(config, "a", None) is not None:
            rate = config.b
        else:
            rate = config.a"""


def rates(
    path: str = "drop", rate: str = "0.2", before: str = "pass", inner: str = "0.2", handed: str = "0.2"
) -> object:
    text = HEAD.format(rate=rate, before=before, inner=inner, handed=handed)
    facts = parse_module(text, "models/tiny/modeling_tiny.py")
    owner = facts.classes["Inner" if path.startswith("inner") else "Head"]
    return dropout_rates(facts, facts.classes["Head"], path, owner.submodules["drop"])


@pytest.mark.parametrize(
    ("rate", "before", "expected"),
    [
        pytest.param("0.2", "pass", (0.2,), id="a number"),
        pytest.param("", "pass", (0.5,), id="torch's own"),
        pytest.param("p=config.a", "pass", ("a",), id="by keyword"),
        pytest.param("inplace=True", "pass", (), id="not the rate"),
        pytest.param("config.a.b", "pass", ("a.b",), id="a field of a config in it"),
        pytest.param("config.a if config.a is not None else config.b", "pass", ("a", "b"), id="one, else another"),
        pytest.param("config.b if config.a is None else config.a", "pass", ("a", "b"), id="the other way round"),
        pytest.param("config.a if config.a is None else config.b", "pass", (), id="the one that is missing"),
        pytest.param("config.a if config.c is not None else config.b", "pass", (), id="another one is asked for"),
        pytest.param("config.a if config.a else config.b", "pass", (), id="zero is another one"),
        pytest.param('getattr(config, "a", 0.1)', "pass", ("a", 0.1), id="a default"),
        pytest.param('getattr(other, "a", 0.1)', "pass", (), id="of no config"),
        pytest.param("config.a / 2", "pass", (), id="half of it"),
        pytest.param("rate", CHAIN, ("classifier_dropout", "hidden_dropout", 0.1), id="upstream's generic head"),
        pytest.param("rate", BOTH, ("a", "b"), id="there, and not None"),
        pytest.param("rate", OTHER, (), id="a condition on something else"),
        pytest.param("rate", CROSSED, (), id="asks for one and takes the other"),
        pytest.param("rate", "rate = config.a; rate = compute()", (), id="made anew"),
        pytest.param("rate", "rate = config.a", ("a",), id="a local name"),
        pytest.param("rate", "pass", (), id="a name of nowhere"),
    ],
)
def test_a_rate_is_read_from_the_constructor(rate: str, before: str, expected: tuple[object, ...]) -> None:
    assert rates(rate=rate, before=before) == expected


@pytest.mark.parametrize(
    ("inner", "handed", "expected"),
    [
        pytest.param("config.a", "0.2", ("text_config.a",), id="of the config that it is made with"),
        pytest.param("rate", "config.a", ("a",), id="handed on"),
        pytest.param("rate", "rate=config.a", ("a",), id="handed on by keyword"),
        pytest.param("rate", "unknown", (), id="handed on, of nowhere"),
        pytest.param("other", "config.a", (), id="another name"),
    ],
)
def test_a_rate_inside_of_a_part_of_the_head(inner: str, handed: str, expected: tuple[object, ...]) -> None:
    assert rates("inner.drop", inner=inner, handed=handed) == expected


LOSS = """
from torch import nn

class Head(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.out = nn.Linear(8, 8)

    def forward(self, x, labels=None, attention_mask=None, other_mask=None):
        logits = self.out(x)
        if attention_mask is not None:
            shift_mask = {mask}
            shift_logits = {logits}[{picked}].contiguous()
            shift_labels = {labels}[shift_mask {test}].contiguous()
        else:
            shift_logits = logits[..., :-1, :].contiguous()
            shift_labels = labels[..., 1:].contiguous()
        loss_fct = nn.CrossEntropyLoss()
        return loss_fct(shift_logits.view(-1, 8), shift_labels.view(-1).to(x.device))
"""
SHIFTED, TEST, CUT = "attention_mask[..., 1:]", ".to(x.device) != 0", "labels[..., 1:]"
END, FRONT = "attention_mask[:, -(logits.shape[1] - 1) :]", "logits[..., :-1, :]"


@pytest.mark.parametrize(
    ("mask", "test", "labels", "expected"),
    [
        pytest.param(SHIFTED, TEST, CUT, True, id="Qwen2-Audio"),
        pytest.param("attention_mask[:, 1:]", "!= 0", "labels[:, 1:]", True, id="the same in other words"),
        pytest.param(SHIFTED, ".to(x.device) == 0", CUT, None, id="padding alone"),
        pytest.param(SHIFTED, "!= 1", CUT, None, id="other numbers"),
        pytest.param("attention_mask[..., :-1]", TEST, CUT, None, id="by what is read, not by what is predicted"),
        pytest.param("attention_mask[..., 2:]", TEST, CUT, None, id="cut otherwise"),
        pytest.param(END, TEST, CUT, True, id="Granite Speech"),
        pytest.param("attention_mask[:, -logits.shape[1] :]", TEST, CUT, None, id="one more of its end"),
        pytest.param("attention_mask[:, logits.shape[1] - 1 :]", TEST, CUT, None, id="as many from its start"),
        pytest.param("attention_mask[:, : -(logits.shape[1] - 1)]", TEST, CUT, None, id="all but as many of its end"),
        pytest.param("attention_mask[:, -(logits.shape[1] - 2) :]", TEST, CUT, None, id="two fewer"),
        pytest.param("attention_mask[:, -(logits.shape[2] - 1) :]", TEST, CUT, None, id="as many as words"),
        pytest.param("attention_mask[:, -(x.shape[1] - 1) :]", TEST, CUT, None, id="as many as something else has"),
        pytest.param("attention_mask[1:, 1:]", TEST, CUT, None, id="of other rows"),
        pytest.param("other_mask[..., 1:]", TEST, CUT, None, id="another mask"),
        pytest.param(SHIFTED, TEST, "labels[..., :-1]", None, id="labels cut otherwise"),
    ],
)
def test_a_loss_that_leaves_out_padding(mask: str, test: str, labels: str, expected: bool | None) -> None:
    text = LOSS.format(mask=mask, test=test, labels=labels, logits=FRONT, picked=f"shift_mask {test}")
    assert skips(text) is expected


@pytest.mark.parametrize(
    ("logits", "picked"),
    [
        pytest.param("logits[..., 1:, :]", f"shift_mask {TEST}", id="logits of the label's own place"),
        pytest.param("logits[..., :-1]", f"shift_mask {TEST}", id="without a word"),
        pytest.param("logits[..., :-2, :]", f"shift_mask {TEST}", id="without two of them"),
        pytest.param("logits", f"shift_mask {TEST}", id="all logits"),
        pytest.param("logits[..., :-1, :]", "other_mask[..., 1:] != 0", id="by another mask than the labels"),
        pytest.param("logits[..., :-1, :]", "attention_mask[..., :-1] != 0", id="by what is read"),
        pytest.param("x[..., :-1, :]", f"shift_mask {TEST}", id="of another length than the mask is cut to"),
        pytest.param("logits", ":, :-1", id="labels alone"),
    ],
)
def test_logits_are_picked_as_labels_are(logits: str, picked: str) -> None:
    text = LOSS.format(mask=END, test=TEST, labels=CUT, logits=logits, picked=picked)
    assert skips(text) is None


def test_a_loss_of_all_positions() -> None:
    text = LOSS.format(mask=SHIFTED, test=TEST, labels=CUT, logits=FRONT, picked=f"shift_mask {TEST}")
    assert (
        skips(text.replace("if attention_mask is not None:", "if False:").replace(f"[shift_mask {TEST}]", "")) is False
    )


def skips(text: str) -> bool | None:
    flow = trace(parse_module(text, "models/tiny/modeling_tiny.py"), "Head")
    assert flow is not None
    return skips_padding(flow.values)
