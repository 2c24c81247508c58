"""Numbers of configs in heads: those that upstream's methods give, and what a module is given by the one that makes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapter_codegen.parse import ModelEntry, parse_module
from adapter_codegen.plan.heads.logits.chain import Chain, Step, head_chain
from adapter_codegen.plan.heads.logits.configs.decoders import decoder_config
from adapter_codegen.plan.heads.logits.configs.text_config import text_config
from adapter_codegen.plan.heads.logits.factors import OF_DECODER, OF_TEXT
from adapter_codegen.plan.heads.logits.options import read_bias
from adapter_codegen.plan.heads.logits.passing import passes_on
from adapter_codegen.plan.heads.unclear import Unclear
from adapter_codegen.upstream import open_release

PATH = "models/tiny/modeling_tiny.py"
HEAD = """
import torch
from torch import nn
from ...modeling_utils import PreTrainedModel
from ...modeling_outputs import CausalLMOutputWithPast

class TinyPreTrainedModel(PreTrainedModel):
    base_model_prefix = "model"

class Decoder(TinyPreTrainedModel):
    def forward(self, input_ids): ...

class TinyModel(TinyPreTrainedModel):
    def __init__(self, config):
        self.encoder = Decoder(config.encoder)
        self.decoder = Decoder(config.decoder)
    def forward(self, input_ids): ...

class Out(nn.Module):
    def __init__(self, size, words, bias=False):
        super().__init__()
        {in_out}
        self.proj = nn.Linear(size, words, bias=bias)
    def forward(self, x):
        return self.proj(x)

class Head(TinyPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.model = TinyModel(config)
        self.lm_head = nn.Linear(config.size, config.vocab_size, bias=False)
        self.out = {out}
        self.cap = {cap}

    def forward(self, input_ids, labels=None, logits_to_keep=0, other=0):
        x = self.model(input_ids)[0]
        {before}
        logits = {logits}
        {after}
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels)
        return CausalLMOutputWithPast(loss=loss, logits=logits)
"""
METHODS: dict[str, str | None] = {OF_TEXT: "text_config", OF_DECODER: "decoder"}
CAPPED = "    logits = logits / cap\n            logits = torch.tanh(logits)\n            logits = logits * cap"


def chain(methods: dict[str, str | None] = METHODS, /, **code: str) -> Chain:
    given = {"in_out": "", "out": "None", "cap": "None", "before": "", "logits": "self.lm_head(x)", "after": ""} | code
    text = HEAD
    for name, written in given.items():
        text = text.replace("{" + name + "}", written)
    return head_chain(parse_module(text, PATH), "Head", "TinyModel", "model", methods=methods)


def caps(found: Chain) -> list[str]:
    return [link.key for link in found.links if link.step is Step.CAP]


@pytest.mark.parametrize(
    ("cap", "after", "field"),
    [
        pytest.param(
            "None",
            f"cap = self.config.get_text_config().cap\n        if cap is not None:\n        {CAPPED}",
            "text_config.cap",
            id="of the text config",
        ),
        pytest.param(
            "None",
            f'cap = getattr(self.config.get_text_config(), "cap", None)\n        if cap is not None:\n        {CAPPED}',
            "text_config.cap",
            id="if it has one",
        ),
        pytest.param(
            "None",
            f"if (cap := self.config.get_text_config().cap) is not None:\n        {CAPPED}",
            "text_config.cap",
            id="named in the condition",
        ),
        pytest.param(
            "None",
            f"if (cap := self.get_decoder().config.cap) is not None:\n        {CAPPED}",
            "decoder.cap",
            id="of the decoder",
        ),
        pytest.param(
            "self.config.get_text_config().cap",
            "logits = torch.tanh(logits / self.cap) * self.cap",
            "text_config.cap",
            id="kept when the head is made",
        ),
    ],
)
def test_a_limit_that_a_method_of_upstreams_gives(cap: str, after: str, field: str) -> None:
    assert caps(chain(cap=cap, after=after)) == [field]


@pytest.mark.parametrize(
    ("cap", "after"),
    [
        pytest.param(
            "None",
            f"cap = self.config.get_text_config(decoder=True).cap\n        if cap is not None:\n        {CAPPED}",
            id="a method that is told which config",
        ),
        pytest.param(
            "None",
            f'cap = getattr(self.config.get_text_config(), "cap", 30.0)\n        if cap is not None:\n        {CAPPED}',
            id="a default that no config says",
        ),
        pytest.param(
            "None",
            f"cap = self.config.get_text_config().cap\n        if labels is not None:\n        {CAPPED}",
            id="where something else is given",
        ),
        pytest.param(
            "None",
            f"cap = self.model.config.get_text_config().cap\n        if cap is not None:\n        {CAPPED}",
            id="of the config of a model inside",
        ),
        pytest.param(
            "None",
            f"cap = self.get_encoder().config.cap\n        if cap is not None:\n        {CAPPED}",
            id="of an encoder",
        ),
        pytest.param(
            "self.model.config.get_text_config().cap",
            "logits = torch.tanh(logits / self.cap) * self.cap",
            id="kept of the config of a model inside",
        ),
    ],
)
def test_a_limit_that_follows_from_anything_else_is_not_known(cap: str, after: str) -> None:
    with pytest.raises(Unclear) as why:
        chain(cap=cap, after=after)
    assert why.value.node is not None


def test_a_method_whose_config_is_not_known_gives_no_limit() -> None:
    after = f"if (cap := self.config.get_text_config().cap) is not None:\n        {CAPPED}"
    with pytest.raises(Unclear, match="no config decides"):
        chain({OF_TEXT: None}, after=after)


@pytest.mark.parametrize(
    ("test", "is_known"),
    [
        pytest.param("self.cap is not None", True, id="the number itself is asked for"),
        pytest.param("labels is not None", False, id="something else is asked for"),
    ],
)
def test_a_factor_that_may_be_missing(test: str, is_known: bool) -> None:
    code: dict[str, str] = {
        "cap": "config.text_config.scale",
        "after": f"if {test}:\n            logits = logits * self.cap",
    }
    if not is_known:
        with pytest.raises(Unclear):
            chain(**code)
        return
    assert [(link.terms, link.key) for link in chain(**code).links if link.step is Step.SCALE] == [
        ((("text_config.scale", 1.0),), "text_config.scale")
    ]


@pytest.mark.parametrize(
    ("before", "is_plain"),
    [
        pytest.param("x = slice_logits_to_keep(x, logits_to_keep)", True, id="what the caller asks for"),
        pytest.param("x = slice_logits_to_keep(x, other)", False, id="by another argument"),
        pytest.param("x = slice_logits_to_keep(input_ids, logits_to_keep)", False, id="of another tensor"),
        pytest.param(
            "x = slice_logits_to_keep(self.out(x), logits_to_keep)", False, id="of what a module makes of it"
        ),
        pytest.param("x = x[:, :logits_to_keep]", False, id="cut in another way"),
    ],
)
def test_positions_that_the_base_model_may_have_cut_already(before: str, is_plain: bool) -> None:
    code = {"before": f"if x.shape[1] == input_ids.shape[1]:\n            {before}", "out": "nn.Linear(2, 2)"}
    if is_plain:
        assert [link.step for link in chain(**code).links] == [Step.LINEAR]
        return
    with pytest.raises(Unclear):
        chain(**code)


@pytest.mark.parametrize(
    ("out", "in_out", "bias"),
    [
        pytest.param("Out(config.size, 3)", "", {"bias": False}, id="the default"),
        pytest.param("Out(config.size, 3, True)", "", {"bias": True}, id="by position"),
        pytest.param("Out(config.size, 3, bias=True)", "", {"bias": True}, id="by keyword"),
        pytest.param(
            "Out(config.size, 3, bias=config.b)", "", {"bias": True, "bias_key": "b"}, id="a field of the config"
        ),
        pytest.param("Out(config.size, 3, bias=3 > 2)", "", None, id="a computation"),
        pytest.param("Out(*sizes)", "", None, id="a star hides which is which"),
        pytest.param("Out(config.size, 3)", "bias = True", None, id="written anew inside"),
    ],
)
def test_a_bias_that_the_module_around_a_projection_is_given(
    out: str, in_out: str, bias: dict[str, object] | None
) -> None:
    assert read_bias(chain(out=out, in_out=in_out, logits="self.out(x)").links[0]) == bias


def entry(path: str) -> ModelEntry:
    return ModelEntry("tiny", PATH, "TinyConfig", path, "TinyModel", {})


@pytest.mark.parametrize(
    ("body", "path"),
    [
        pytest.param(
            "sub_configs_defaults = {'text_config': AutoConfig, 'vision_config': X}", "text_config", id="one"
        ),
        pytest.param("sub_configs = {'decoder': X, 'encoder': X}", "decoder", id="a decoder's"),
        pytest.param("sub_configs = {'vision_config': X}", "", id="none of those names"),
        pytest.param("size: int = 2", "", id="no configs inside"),
        pytest.param("sub_configs = {'text_config': X, 'decoder': X}", None, id="two, where upstream's raises"),
        pytest.param("sub_configs = {'x': X}\n    decoder: str = ''", None, id="a name of a field that is no config"),
        pytest.param("sub_configs = {'text_config': X}\n    generator: int = 1", None, id="one, and such a field"),
        pytest.param(
            "sub_configs = {'text_config': X}\n    def get_text_config(self): ...", None, id="a method of its own"
        ),
    ],
)
@pytest.mark.parametrize("base", ["PreTrainedConfig", "OtherConfig"])
def test_which_config_is_that_of_the_text(tmp_path: Path, body: str, path: str | None, base: str) -> None:
    file = "models/tiny/configuration_tiny.py"
    for name, text in {
        "__init__.py": '__version__ = "1"',
        "models/auto/x": "",
        file: f"class TinyConfig({base}):\n    {body}\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    known = path if base == "PreTrainedConfig" else None  # a class of another file may have more
    assert text_config(open_release(tmp_path), entry(file)) == known


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        pytest.param("", "", "decoder", id="that of the decoder"),
        pytest.param("self.decoder = Decoder(config.decoder)", "self.decoder = Decoder(config)", "", id="the whole"),
        pytest.param("self.decoder = Decoder(config.decoder)", "self.decoder = Decoder(made)", None, id="made anew"),
        pytest.param("self.decoder =", "self.layers =", None, id="no module of such a name"),
        pytest.param("def forward(self, input_ids): ...\n\nclass Out", "def get_decoder(self): ...\n\nclass Out", None, id="a method of its own"),
        pytest.param("self.out =", "self.text_model =", None, id="another module that is found first"),
    ],
)  # fmt: skip
def test_which_config_is_that_of_the_decoder(old: str, new: str, path: str | None) -> None:
    assert old in HEAD
    facts = parse_module(HEAD.replace(old, new, 1).replace("{out}", "Out(2, 3, bias=True)"), PATH)
    assert decoder_config(facts.classes["Head"], facts.classes["TinyModel"]) == path


@pytest.mark.parametrize(
    ("body", "is_plain"),
    [
        pytest.param("return super().forward(input_ids=input_ids, pixels=pixels, **kwargs)", True, id="all under their names"),
        pytest.param('"""Doc."""\n        return super().forward(input_ids=input_ids, pixels=pixels, **kwargs)', True, id="behind a docstring"),
        pytest.param("return super().forward(input_ids=input_ids, **kwargs)", False, id="one is left out"),
        pytest.param("return super().forward(input_ids=pixels, pixels=input_ids, **kwargs)", False, id="exchanged"),
        pytest.param("return super().forward(input_ids=input_ids, pixels=pixels)", False, id="the others are left out"),
        pytest.param("return super().forward(input_ids=input_ids, pixels=pixels, more=1, **kwargs)", False, id="one more"),
        pytest.param("return super().forward(input_ids, pixels=pixels, **kwargs)", False, id="by position"),
        pytest.param("return super().other(input_ids=input_ids, pixels=pixels, **kwargs)", False, id="another method"),
        pytest.param("return self.forward(input_ids=input_ids, pixels=pixels, **kwargs)", False, id="not the inherited one"),
        pytest.param("return super(A, self).forward(input_ids=input_ids, pixels=pixels, **kwargs)", False, id="of a class that is named"),
        pytest.param("pixels = 2 * pixels\n        return super().forward(input_ids=input_ids, pixels=pixels, **kwargs)", False, id="something is done before"),
        pytest.param("return super().forward(input_ids=input_ids, pixels=pixels, **kwargs)[0]", False, id="a part of what it gives"),
    ],
)  # fmt: skip
def test_a_forward_that_hands_on(body: str, is_plain: bool) -> None:
    text = f"class Head(A):\n    def forward(self, input_ids, pixels=None, **kwargs):\n        {body}\n"
    assert passes_on(parse_module(text, PATH).classes["Head"].functions["forward"]) is is_plain
