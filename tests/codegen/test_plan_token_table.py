"""Where an invertible adapter stands if no one module gives what enters the first layer: at the table of tokens, or nowhere."""

from __future__ import annotations

from textwrap import indent

import pytest

from adapter_codegen.model import BasePlan, Diagnostic, Method
from adapter_codegen.parse import ModelEntry, parse_module
from adapter_codegen.plan.flow.kinds import Kinds
from adapter_codegen.plan.methods import plan_methods
from adapter_codegen.plan.stream.base import plan_base
from adapter_codegen.plan.stream.lists.candidates import Candidates

HEAD = """
import torch
from torch import nn
from ...modeling_utils import PreTrainedModel
from .configuration_tiny import TinyConfig

class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.q = nn.Linear(2, 2)
        self.o = nn.Linear(2, 2)
    def forward(self, x):
        return self.o(nn.functional.scaled_dot_product_attention(self.q(x), x, x))

class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.attention = Attention(config)
        self.up = nn.Linear(2, 2)
    def forward(self, x):
        x = x + self.attention(x)
        return x + self.up(x)

class ScaledEmbedding(nn.Embedding):
    def forward(self, input_ids):
        return super().forward(input_ids) * self.scale

class OfShape(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.weights = config.weights
    def forward(self, input_ids=None, inputs_embeds=None, past=0):
        if input_ids is not None:
            places = input_ids.ne(1).cumsum(1) + past
        else:
            places = self.places(inputs_embeds, past)
        return self.weights.index_select(0, places.view(-1))
    def places(self, inputs_embeds, past):
        length = inputs_embeds.size()[1]
        return torch.arange(past, past + length, device=inputs_embeds.device).type_as(inputs_embeds)

class OfValues(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.weights = config.weights
    def forward(self, given):
        return self.weights[given[:, :, 0].eq(0).long()]

class TinyPreTrainedModel(PreTrainedModel):
    config: TinyConfig
    base_model_prefix = "tiny"
"""
BUILD = """
        self.embed = nn.Embedding(config.vocab_size, config.size)
        self.positions = nn.Embedding(config.places, config.size)
        self.of_shape = OfShape(config)
        self.of_values = OfValues(config)
        self.up = nn.Linear(2, 2)
        self.norm = nn.LayerNorm(2)
        self.layers = nn.ModuleList([Layer(config) for _ in range(3)])
"""
EMBEDDED = """
        if inputs_embeds is None:
            inputs_embeds = self.embed(input_ids)
"""
ADDED = """
        positions = self.positions(torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device))
        x = inputs_embeds + positions
"""
LAYERS = """
        for layer in self.layers:
            x = layer(x)
        return x
"""


def plan_text(text: str) -> tuple[BasePlan, dict[Method, str], tuple[Diagnostic, ...]]:
    entry = ModelEntry("tiny", "models/tiny/modeling_tiny.py", "TinyConfig", "", "TinyModel", {})
    facts = parse_module(HEAD + text, entry.path)
    plan, doubts = plan_base(facts, entry, Candidates(facts, Kinds(facts)).has_attention)
    assert plan is not None
    return plan, {one.method: one.reason for one in plan_methods(plan, [], doubts)}, doubts


def plan_forward(embedded: str = EMBEDDED, added: str = ADDED, build: str = BUILD) -> tuple[str, str, str]:
    """The place, the factor, and why there is none."""
    plan, reasons, _ = plan_text(
        "class TinyModel(TinyPreTrainedModel):\n"
        f"    def __init__(self, config: TinyConfig):\n        super().__init__(config){build}\n"
        "    def get_input_embeddings(self):\n        return self.embed\n"
        f"    def forward(self, input_ids=None, inputs_embeds=None, pixels=None, position_ids=None):\n{embedded}{added}{LAYERS}"
    )
    assert not plan.embedding_output
    return plan.token_entry, plan.token_scale, reasons[Method.INVERTIBLE]


# Near misses


@pytest.mark.parametrize(
    "added",
    [
        pytest.param("x = inputs_embeds + self.of_values(inputs_embeds)", id="positions are made of the values"),
        pytest.param(
            "x = inputs_embeds + self.of_values(input_ids if input_ids is not None else inputs_embeds)",
            id="of the values where no tokens are given",
        ),
        pytest.param("x = inputs_embeds + self.positions(inputs_embeds.argmax(-1))", id="looked up by the values"),
        pytest.param("x = inputs_embeds + self.up(inputs_embeds)", id="a projection of the same is added"),
        pytest.param("x = inputs_embeds * inputs_embeds.sigmoid() + pixels", id="they are multiplied by themselves"),
        pytest.param("x = torch.where(inputs_embeds == 0, pixels, inputs_embeds)", id="they are compared"),
        pytest.param("x = self.unknown(inputs_embeds) + pixels", id="what a module does that is not known"),
    ],
)
def test_what_is_added_must_not_be_made_of_the_values_of_embeddings(added: str) -> None:
    place, _, reason = plan_forward(
        added=f"        {added}\n", build=BUILD + "        self.unknown = config.unknown()\n"
    )
    assert place == "" and "does not let an invertible adapter stand at embed" in reason


@pytest.mark.parametrize(
    "made",
    [
        pytest.param("self.norm(self.embed(input_ids))", id="a norm of tokens alone"),
        pytest.param("self.up(self.embed(input_ids))", id="a projection of tokens alone"),
        pytest.param("self.embed(input_ids) + pixels", id="something is added to tokens alone"),
        pytest.param("self.embed(input_ids) * pixels", id="a factor that is no attribute"),
        pytest.param("self.embed(input_ids) * self.one * self.two", id="two factors"),
        pytest.param("self.embed(input_ids) / self.scale", id="a quotient"),
    ],
)
def test_given_embeddings_must_be_treated_like_those_of_tokens(made: str) -> None:
    place, _, reason = plan_forward(EMBEDDED.replace("self.embed(input_ids)", made))
    assert place == "" and "does not let an invertible adapter stand" in reason


def test_given_embeddings_must_not_be_changed_alone() -> None:
    changed = f"{EMBEDDED}        else:\n            inputs_embeds = self.norm(inputs_embeds)\n"
    place, _, reason = plan_forward(changed)
    assert place == "" and "does not let an invertible adapter stand" in reason


@pytest.mark.parametrize(
    ("embedded", "added"),
    [
        pytest.param(
            "        inputs_embeds = self.positions(position_ids)\n", ADDED, id="a table that embeds no tokens"
        ),
        pytest.param("        inputs_embeds = self.up(pixels)\n", ADDED, id="no tokens enter the layers"),
    ],
)
def test_a_table_of_something_else_is_none_of_tokens(embedded: str, added: str) -> None:
    place, _, reason = plan_forward(embedded, added)
    assert place == "" and reason


def test_two_tables_of_the_same_class_leave_no_choice() -> None:
    build = BUILD.replace("self.embed =", "self.first = nn.Embedding(config.vocab_size, 2)\n        self.embed =")
    embedded = "        inputs_embeds = self.first(input_ids) + self.positions(input_ids)\n"
    place, _, reason = plan_forward(embedded, ADDED, build)
    assert place == "" and "does not let an invertible adapter stand" in reason


def test_tokens_that_another_module_embeds_by_the_table_do_not_pass_its_owner() -> None:
    plan, reasons, _ = plan_text(
        inside(
            own="        inputs_embeds = self.decoder.embed(input_ids)\n",
            call="self.decoder(inputs_embeds=inputs_embeds)",
        )
    )
    assert plan.token_entry == "" and "does not let an invertible adapter stand" in reasons[Method.INVERTIBLE]


def test_one_table_that_a_model_itself_embeds_the_tokens_of_both_halves_by_is_none() -> None:
    halves = TWO_HALVES.replace("return self.decoder.embed", "return self.embed").replace("{embedded}", "").replace(
        "        self.encoder = Encoder(config)", "        self.embed = nn.Embedding(8, 8)\n        self.encoder = Encoder(config)"
    )  # fmt: skip
    halves = halves.replace("self.decoder(decoder_input_ids,", "self.decoder(None,").replace(
        "        if encoder_outputs is None",
        "        if inputs_embeds is None:\n            inputs_embeds = self.embed(input_ids)\n"
        "        if decoder_inputs_embeds is None:\n            decoder_inputs_embeds = self.embed(decoder_input_ids)\n"
        "        if encoder_outputs is None",
    )
    takes = "input_ids=None, inputs_embeds=None"
    named = {"build": BUILD, "added": ADDED, "layers": LAYERS, "enters": ADDED, "reads": takes, "takes": takes}
    plan, reasons, _ = plan_text(halves.format(given="inputs_embeds=inputs_embeds", **named))
    assert plan.token_embeddings == "embed" and plan.token_entry == ""
    assert "does not let an invertible adapter stand at embed" in reasons[Method.INVERTIBLE]


# What is a place


@pytest.mark.parametrize(
    "added",
    [
        pytest.param(ADDED, id="positions that are counted"),
        pytest.param("x = inputs_embeds + self.positions(position_ids)", id="positions that are given"),
        pytest.param("x = inputs_embeds + self.of_shape(input_ids, inputs_embeds, 3)", id="positions of the shape"),
        pytest.param("x = self.up(inputs_embeds) + self.positions(position_ids)", id="projected before"),
        pytest.param("x = self.norm(inputs_embeds * self.scale) + pixels", id="scaled and normalised, both alike"),
        pytest.param("x = torch.cat([pixels, inputs_embeds], dim=1) + pixels", id="an image stands in front"),
    ],
)
def test_the_table_is_the_place_where_positions_are_added_to_what_it_gives(added: str) -> None:
    added = added if added.startswith("\n") else f"        {added}\n"
    assert plan_forward(added=added) == ("embed", "", "")


def test_a_table_of_a_class_with_a_factor_of_its_own() -> None:
    build = BUILD.replace("self.embed = nn.Embedding", "self.embed = ScaledEmbedding")
    assert plan_forward(build=build) == ("embed", "", "")


def test_a_factor_of_tokens_alone_is_known() -> None:
    embedded = EMBEDDED.replace("self.embed(input_ids)", "self.embed(input_ids) * self.scale")
    assert plan_forward(embedded) == ("embed", "scale", "")


def test_a_factor_that_both_get_in_branches_of_their_own() -> None:
    embedded = """
        if input_ids is not None:
            inputs_embeds = self.embed(input_ids) * self.scale
        elif inputs_embeds is not None:
            inputs_embeds = inputs_embeds * self.scale
        else:
            raise ValueError
"""
    assert plan_forward(embedded) == ("embed", "", "")
    place, _, reason = plan_forward(embedded.replace("inputs_embeds * self.scale", "inputs_embeds * self.other"))
    assert place == "" and "does not let an invertible adapter stand" in reason


def test_one_module_that_gives_all_is_still_the_place() -> None:
    plan, reasons, _ = plan_text(
        "class TinyModel(TinyPreTrainedModel):\n"
        f"    def __init__(self, config: TinyConfig):\n        super().__init__(config){BUILD}\n"
        "    def get_input_embeddings(self):\n        return self.embed\n"
        f"    def forward(self, input_ids=None, inputs_embeds=None, position_ids=None):\n{EMBEDDED}"
        f"        x = self.norm(inputs_embeds + self.positions(position_ids))\n{LAYERS}"
    )
    assert (plan.embedding_output, plan.token_entry, reasons[Method.INVERTIBLE]) == ("norm", "", "")


def inside(own: str = "", call: str = "self.decoder(input_ids, inputs_embeds=inputs_embeds)") -> str:
    """A model whose layers and table are in a decoder inside of it."""
    return (
        "class Decoder(TinyPreTrainedModel):\n"
        f"    def __init__(self, config: TinyConfig):\n        super().__init__(config){BUILD}\n"
        f"    def forward(self, input_ids=None, inputs_embeds=None):\n{EMBEDDED}{ADDED}{LAYERS}\n"
        "class TinyModel(TinyPreTrainedModel):\n"
        "    def __init__(self, config: TinyConfig):\n"
        "        super().__init__(config)\n"
        "        self.decoder = Decoder(config)\n"
        "    def get_input_embeddings(self):\n        return self.decoder.embed\n"
        f"    def forward(self, input_ids=None, inputs_embeds=None):\n{own}        return {call}\n"
    )


def test_the_table_of_a_decoder_inside() -> None:
    plan, reasons, doubts = plan_text(inside())
    assert (plan.token_entry, reasons[Method.INVERTIBLE]) == ("decoder.embed", "")
    assert [doubt.methods for doubt in doubts if Method.PROMPT_TUNING in doubt.methods] == [(Method.PROMPT_TUNING,)]


TWO_HALVES = """
class Encoder(TinyPreTrainedModel):
    def __init__(self, config: TinyConfig):
        super().__init__(config){build}
    def forward(self, {reads}):{enters}{layers}

class Decoder(TinyPreTrainedModel):
    def __init__(self, config: TinyConfig):
        super().__init__(config){build}
    def forward(self, input_ids=None, inputs_embeds=None, encoder_hidden_states=None):{embedded}{added}{layers}

class TinyModel(TinyPreTrainedModel):
    def __init__(self, config: TinyConfig):
        super().__init__(config)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
    def get_input_embeddings(self):
        return self.decoder.embed
    def forward(self, {takes}, decoder_input_ids=None, decoder_inputs_embeds=None, encoder_outputs=None):
        if encoder_outputs is None:
            encoder_outputs = self.encoder({given})
        return self.decoder(decoder_input_ids, inputs_embeds=decoder_inputs_embeds, encoder_hidden_states=encoder_outputs)
"""


@pytest.mark.parametrize(
    ("reads", "enters", "takes", "given", "expected"),
    [
        pytest.param(
            "sounds",
            "\n        x = self.up(sounds) + self.positions.weight\n",
            "sounds=None",
            "sounds",
            "decoder.embed",
            id="the encoder hears",
        ),
        pytest.param(
            "input_ids=None, inputs_embeds=None",
            indent(EMBEDDED + ADDED, ""),
            "input_ids=None, inputs_embeds=None",
            "input_ids, inputs_embeds=inputs_embeds",
            "encoder.embed",
            id="the encoder reads",
        ),
    ],
)
def test_of_two_halves_the_first_that_tokens_reach(
    reads: str, enters: str, takes: str, given: str, expected: str
) -> None:
    named = {"build": BUILD, "embedded": EMBEDDED, "added": ADDED, "layers": LAYERS}
    plan, reasons, _ = plan_text(TWO_HALVES.format(reads=reads, enters=enters, takes=takes, given=given, **named))
    assert (plan.token_entry, reasons[Method.INVERTIBLE]) == (expected, "")


# Features


def plan_features(features: str, method: str = "get_image_features") -> str:
    """Why no invertible adapter can stand at the table; "" = it can."""
    _, reasons, _ = plan_text(
        "class TinyModel(TinyPreTrainedModel):\n"
        f"    def __init__(self, config: TinyConfig):\n        super().__init__(config){BUILD}\n"
        "    def get_input_embeddings(self):\n        return self.embed\n"
        f"    def {method}(self, pixels):\n        return {features}\n"
        f"    def forward(self, input_ids=None, inputs_embeds=None, pixels=None):\n{EMBEDDED}        x = inputs_embeds\n{LAYERS}"
    )
    return reasons[Method.INVERTIBLE]


@pytest.mark.parametrize("looked_up", ["self.get_input_embeddings()(pixels.long())", "self.embed(pixels.long())"])
def test_features_that_are_embeddings_of_tokens_let_no_invertible_adapter_stand_at_the_table(looked_up: str) -> None:
    assert "Features are looked up in embed here" in plan_features(looked_up)


@pytest.mark.parametrize(
    ("features", "method"),
    [
        pytest.param("self.up(pixels)", "get_image_features", id="made without the table"),
        pytest.param("self.positions(pixels.long())", "get_image_features", id="of another table"),
        pytest.param("self.get_input_embeddings().weight", "get_image_features", id="the table is not asked"),
        pytest.param(
            "self.get_input_embeddings()(pixels)",
            "get_placeholder_mask",
            id="compared with what is given, no features",
        ),
    ],
)
def test_other_features_let_it_stand_there(features: str, method: str) -> None:
    assert plan_features(features, method) == ""
