"""Heads that give the first of their logits: a projection that pads the vocabulary, and a limit that a module of its own keeps."""

from __future__ import annotations

import pytest

from adapter_codegen.parse import parse_module
from adapter_codegen.plan.heads.logits.chain import Chain, Step, head_chain
from adapter_codegen.plan.heads.logits.options import surroundings
from adapter_codegen.plan.heads.unclear import Unclear

PATH = "models/tiny/modeling_tiny.py"
HEAD = """
import torch
from torch import nn
from ...modeling_utils import PreTrainedModel
from ...modeling_outputs import CausalLMOutputWithPast

class TinyPreTrainedModel(PreTrainedModel):
    base_model_prefix = "model"

class TinyModel(TinyPreTrainedModel):
    def forward(self, input_ids): ...

class Cap(nn.Module):
    def __init__(self, {taken}):
        super().__init__()
        {kept}
    def forward(self, x):
        return torch.tanh(x / self.limit) * self.limit

class Head(TinyPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.model = TinyModel(config)
        self.lm_head = nn.Linear(config.size, config.vocab_size, bias=False)
        self.learned = nn.Parameter(torch.zeros(2))
        self.cap = {cap}

    def forward(self, input_ids, labels=None, words=None):
        x = self.model(input_ids)[0]
        logits = self.lm_head(x)
        size = self.config.text.size
        {after}
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels)
        return CausalLMOutputWithPast(loss=loss, logits=logits)
"""
CUT = "\n            logits = logits[..., :size]"
ASKED = f"if size is not None and size < logits.shape[-1]:{CUT}"


def chain(after: str, cap: str = "None", taken: str = "limit", kept: str = "self.limit = limit") -> Chain:
    text = HEAD
    for name, code in {"after": after, "cap": cap, "taken": taken, "kept": kept}.items():
        text = text.replace("{" + name + "}", code)
    return head_chain(parse_module(text, PATH), "Head", "TinyModel", "model")


def keys(found: Chain, step: Step) -> list[str]:
    return [link.key for link in found.links if link.step is step]


@pytest.mark.parametrize(
    "after",
    [
        pytest.param("logits = logits[..., :size]", id="as many as the config says"),
        pytest.param("logits = logits[:, :, : self.config.text.size]", id="of three dimensions"),
        pytest.param("logits = logits.float()[..., :size].contiguous()", id="in another type"),
        pytest.param(ASKED, id="where there are more"),
        pytest.param(f"if size is not None:{CUT}", id="where it is given"),
        pytest.param(f"if size <= logits.shape[-1]:{CUT}", id="where there are as many"),
        pytest.param(f"if self.config.text.size < logits.float().shape[-1]:{CUT}", id="asked by another name"),
    ],
)
def test_the_first_logits_are_kept(after: str) -> None:
    assert keys(chain(after), Step.CUT) == ["text.size"]


@pytest.mark.parametrize(
    "after",
    [
        pytest.param("logits = logits[..., size:]", id="the last ones"),
        pytest.param("logits = logits[..., 1:size]", id="not from the first on"),
        pytest.param("logits = logits[..., :size:2]", id="every second"),
        pytest.param("logits = logits[..., : size - 1]", id="fewer than the config says"),
        pytest.param("logits = logits[..., :words]", id="as many as a call says"),
        pytest.param("logits = logits[..., :4]", id="a number of its own"),
        pytest.param("logits = logits[:, 1:, :size]", id="of some positions"),
        pytest.param(f"if size is None:{CUT}", id="where it is not given"),
        pytest.param(f"if size > logits.shape[-1]:{CUT}", id="where there are fewer"),
        pytest.param(f"if size < logits.shape[1]:{CUT}", id="where there are more positions"),
        pytest.param(f"if size < x.shape[-1]:{CUT}", id="where states are wider"),
        pytest.param(f"if self.config.other < logits.shape[-1]:{CUT}", id="where another number is smaller"),
        pytest.param(f"if size is not None and words is not None:{CUT}", id="where a call says so, too"),
        pytest.param(f"if size is not None or size < 3:{CUT}", id="where one of two holds"),
        pytest.param(
            "if size is not None:\n            logits = logits[..., :size] + 1", id="with a number on top of it"
        ),
        pytest.param(
            "other = logits * 2\n        if size is not None:\n            logits = other[..., :size]",
            id="of other logits than without the condition",
        ),
    ],
)
def test_other_parts_of_the_logits_are_not_given(after: str) -> None:
    with pytest.raises(Unclear):
        chain(after)


@pytest.mark.parametrize(
    ("after", "options"),
    [
        pytest.param(
            "logits = self.cap(logits)\n        logits = logits[..., :size]",
            {"kept_tokens_key": "text.size", "softcap_key": "limit"},
            id="behind a limit",
        ),
        pytest.param(
            "logits = logits[..., :size]\n        logits = self.cap(logits)",
            {"kept_tokens_key": "text.size", "softcap_key": "limit"},
            id="in front of it, which is the same",
        ),
        pytest.param("logits = logits[..., :size][..., : self.config.other]", None, id="two of them"),
        pytest.param("logits = logits[..., :size] + self.learned", None, id="in front of what is added"),
    ],
)
def test_where_logits_are_cut(after: str, options: dict[str, object] | None) -> None:
    around = surroundings(chain(after, cap="Cap(config.limit)").links, is_language_model=True)
    assert (around and around.options) == options


def test_states_that_are_cut_are_no_logits_that_are() -> None:
    links = chain("logits = self.lm_head(x[..., :size])").links
    assert surroundings(links, is_language_model=True) is None


CAPPED = "logits = self.cap(logits)"


@pytest.mark.parametrize(
    ("cap", "taken", "kept"),
    [
        pytest.param("Cap(config.text.limit)", "limit", "self.limit = limit", id="by its place"),
        pytest.param("Cap(size=2, limit=config.text.limit)", "size, limit", "self.limit = limit", id="by its name"),
    ],
)
def test_a_limit_that_a_module_keeps_is_that_of_its_construction(cap: str, taken: str, kept: str) -> None:
    assert keys(chain(CAPPED, cap, taken, kept), Step.CAP) == ["text.limit"]


@pytest.mark.parametrize(
    ("cap", "taken", "kept"),
    [
        pytest.param("Cap(config.limit + 1)", "limit", "self.limit = limit", id="a number made of a field"),
        pytest.param("Cap(30.0)", "limit", "self.limit = limit", id="a number of no config"),
        pytest.param("Cap()", "limit=30.0", "self.limit = limit", id="a default"),
        pytest.param("Cap(*config.limits)", "limit", "self.limit = limit", id="behind a star"),
        pytest.param("Cap(config.limit)", "limit", "self.limit = limit * 2", id="kept as another number"),
        pytest.param(
            "Cap(config.limit)", "limit", "limit = limit or 30.0\n        self.limit = limit", id="changed before"
        ),
        pytest.param(
            "Cap(config.limit)", "limit", "self.limit = limit\n        self.limit = 2 * self.limit", id="set twice"
        ),
        pytest.param("Cap(config.limit)", "limit", "self.limit = limit\n        self.limit *= 2", id="changed behind"),
        pytest.param(
            "Cap(config.limit)",
            "limit",
            "self.limit = limit\n\n    def widen(self):\n        self.limit = 1",
            id="set elsewhere",
        ),
    ],
)
def test_another_number_of_a_module_is_no_limit_of_the_config(cap: str, taken: str, kept: str) -> None:
    with pytest.raises(Unclear):
        chain(CAPPED, cap, taken, kept)
