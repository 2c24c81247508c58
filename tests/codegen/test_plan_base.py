"""The base model: where its layers are, what feeds them, what takes over from them."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import dedent, indent

import pytest

from adapter_codegen.model import BasePlan, Diagnostic, Method
from adapter_codegen.parse import AutoMappings, ModelEntry, ModuleFacts, parse_module
from adapter_codegen.plan.flow.kinds import Kinds
from adapter_codegen.plan.stream.base import plan_base
from adapter_codegen.plan.stream.lists.candidates import Candidates

HEAD = """
import torch
from torch import nn
from ...modeling_utils import PreTrainedModel
from ...modeling_outputs import BaseModelOutput
from ..auto import AutoModel
from .configuration_tiny import TinyConfig, TinyVisionConfig

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

class TinyPreTrainedModel(PreTrainedModel):
    config: TinyConfig
    base_model_prefix = "tiny"
"""

BUILD = """
        self.embed = nn.Embedding(config.vocab_size, config.size)
        self.drop = nn.Dropout(0.1)
        self.layers = nn.ModuleList([Layer(config) for _ in range(3)])
        self.norm = nn.LayerNorm(2)
"""
RUN = """
        if inputs_embeds is None:
            inputs_embeds = self.embed(input_ids)
        x = inputs_embeds
        for layer in self.layers:
            x = layer(x)
        return BaseModelOutput(last_hidden_state=self.norm(x))
"""


def entry(base: str = "TinyModel") -> ModelEntry:
    return ModelEntry("tiny", "models/tiny/modeling_tiny.py", "TinyConfig", "", base, {})


def plan_text(text: str, head: str = HEAD) -> tuple[BasePlan | None, tuple[Diagnostic, ...]]:
    facts = parse_module(head + dedent(text), entry().path)
    return plan_base(facts, entry(), Candidates(facts, Kinds(facts)).has_attention)


def plan_forward(build: str, run: str, head: str = HEAD) -> tuple[BasePlan | None, tuple[Diagnostic, ...]]:
    return plan_text(
        "class TinyModel(TinyPreTrainedModel):\n"
        "    def __init__(self, config: TinyConfig):\n"
        f"        super().__init__(config)\n{build}\n"
        f"    def forward(self, input_ids=None, inputs_embeds=None, pixels=None, **kwargs):\n{run}\n",
        head,
    )


def planned(build: str, run: str) -> BasePlan:
    plan, _ = plan_forward(build, run)
    assert plan is not None
    return plan


@pytest.mark.parametrize(
    ("text", "code"),
    [
        pytest.param("class TinyOther(TinyPreTrainedModel): ...", "P101", id="the class is not there"),
        pytest.param("class TinyModel(TinyPreTrainedModel): ...", "P101", id="it has no forward"),
        pytest.param(
            "class TinyModel(TinyPreTrainedModel):\n"
            "    def __init__(self, config):\n"
            "        super().__init__(config)\n"
            "        self.layers = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])\n"
            "    def forward(self, x): return self.layers[0](x)\n",
            "P102",
            id="its layers hold no attention",
        ),
    ],
)
def test_a_model_without_layers_to_adapt_is_refused_with_the_reason(text: str, code: str) -> None:
    plan, (diagnostic,) = plan_text(text)
    assert plan is None
    assert diagnostic.code == code
    assert diagnostic.remedy


BLOCKS = (
    "class TinyModel(TinyPreTrainedModel):\n"
    "    def __init__(self, config):\n"
    "        super().__init__(config)\n"
    "        self.blocks = nn.ModuleList([Block(config) for _ in range(3)])\n"
    "    def forward(self, input_ids): return input_ids\n"
)
BLOCK = "class Block(nn.Module):\n    def forward(self, x): return x\n"
OTHER = "class Other(nn.Module): ...\n"


@pytest.mark.parametrize(
    ("text", "is_why"),
    [
        pytest.param(BLOCK + BLOCKS, False, id="once"),
        pytest.param(BLOCK + OTHER + OTHER + BLOCKS, False, id="another class is defined twice"),
        pytest.param(
            f"if is_there():\n    from there import Base\n    class Block(Base): ...\nelse:\n{indent(BLOCK, '    ')}{BLOCKS}",
            True,
            id="twice",
        ),
    ],
)
def test_layers_of_a_class_that_is_defined_twice_are_refused_for_that(text: str, is_why: bool) -> None:
    plan, (diagnostic,) = plan_text(text)
    assert plan is None and diagnostic.code == "P102"
    assert ("Block that is defined twice" in diagnostic.message) is is_why


def test_methods_after_the_embeddings_are_refused_where_no_module_gives_the_input() -> None:
    plan, (doubt,) = plan_forward(BUILD, RUN.replace("x = inputs_embeds", "x = pixels"))
    assert plan is not None
    assert (plan.embedding_output, plan.token_entry) == ("", "")
    assert doubt.code == "P103"
    assert doubt.methods == (Method.PROMPT_TUNING, Method.INVERTIBLE)


@pytest.mark.parametrize(
    "after",
    [
        pytest.param("inputs_embeds + self.drop.bias", id="an addition enters the first layer"),
        pytest.param("inputs_embeds if kwargs else self.drop(pixels)", id="one of two modules"),
    ],
)
def test_a_prompt_alone_is_refused_where_more_than_what_the_table_gives_enters_the_layers(after: str) -> None:
    plan, (doubt,) = plan_forward(BUILD, RUN.replace("x = inputs_embeds", f"x = {after}"))
    assert plan is not None
    assert (plan.embedding_output, plan.token_entry) == ("", "embed")
    assert (doubt.code, doubt.methods) == ("P103", (Method.PROMPT_TUNING,))


@pytest.mark.parametrize(
    ("entering", "is_refused"),
    [
        pytest.param("self.drop(inputs_embeds)", False, id="what was embedded"),
        pytest.param(
            "self.drop(torch.where(pixels > 0, inputs_embeds, pixels))", False, id="that with an image in it"
        ),
        pytest.param("self.drop(self.norm.bias)", False, id="nothing of the arguments shows"),
        pytest.param("inputs_embeds", False, id="the table itself"),
        pytest.param("self.drop(pixels)", True, id="an image, beside the tokens of something else"),
    ],
)
def test_invertible_adapters_are_refused_where_no_tokens_come_into_the_entrance(
    entering: str, is_refused: bool
) -> None:
    plan, doubts = plan_forward(BUILD, RUN.replace("x = inputs_embeds", f"x = {entering}"))
    assert plan is not None and plan.embedding_output
    found = [doubt for doubt in doubts if Method.INVERTIBLE in doubt.methods]
    assert bool(found) is is_refused
    if is_refused:
        assert found[0].methods == (Method.INVERTIBLE,) and "made of pixels" in found[0].message


def test_the_usual_decoder() -> None:
    plan = planned(BUILD, RUN)
    assert [(stack.path, stack.layer_classes, stack.shared) for stack in plan.stacks] == [
        ("layers", ("Layer",), False)
    ]
    assert (plan.token_embeddings, plan.embedding_output, plan.final_norm) == ("embed", "embed", "norm")
    assert (plan.pretrained_class, plan.prefix) == ("TinyPreTrainedModel", "tiny")
    assert [(p.name, p.default, p.kind) for p in plan.parameters] == [
        ("input_ids", "None", "positional"),
        ("inputs_embeds", "None", "positional"),
        ("pixels", "None", "positional"),
        ("kwargs", "", "kwargs"),
    ]


@pytest.mark.parametrize(
    ("origin", "found"),
    [
        pytest.param("elsewhere", "PreTrainedModel", id="another class of that name"),
        pytest.param("...modeling_utils", "TinyPreTrainedModel", id="of upstream's module"),
        pytest.param("transformers", "TinyPreTrainedModel", id="of the package, as SuperGlue's file has it"),
    ],
)
def test_the_class_of_the_family_stands_below_upstreams_wherever_that_is_imported_from(
    origin: str, found: str
) -> None:
    plan, _ = plan_forward(BUILD, RUN, head=HEAD.replace("from ...modeling_utils import", f"from {origin} import"))
    assert plan is not None and plan.pretrained_class == found


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param("x = inputs_embeds", "x = self.drop(inputs_embeds)", "drop", id="a module after the embedding"),
        pytest.param("x = inputs_embeds", "x = self.drop(inputs_embeds + pixels)", "drop", id="a module after a sum"),
        pytest.param("x = inputs_embeds", "x = (inputs_embeds * 3).to(pixels.dtype)", "embed", id="scaled and cast"),
        pytest.param("x = inputs_embeds", "x = self.up(inputs_embeds)", "embed", id="projected to another width"),
        pytest.param(
            "return BaseModelOutput(last_hidden_state=self.norm(x))",
            "return BaseModelOutput(last_hidden_state=self.drop(self.norm(x)))",
            "embed",
            id="a module that runs in another place as well does not count",
        ),
    ],
)
def test_the_module_whose_output_enters_the_first_layer(before: str, after: str, expected: str) -> None:
    run = RUN.replace(before, after)
    if "self.drop(self.norm" in after:
        run = run.replace("x = inputs_embeds", "x = self.drop(inputs_embeds)")
    assert planned(f"{BUILD}        self.up = nn.Linear(2, 3)\n", run).embedding_output == expected


@pytest.mark.parametrize(
    ("called", "expected"),
    [
        pytest.param("layer(x, values)", "embed", id="another table is given beside the stream"),
        pytest.param("layer(x, values=self.norm(values) if self.training else None)", "embed", id="by name, at times"),
        pytest.param("layer(x + values, values)", "values", id="the first table is in the stream, too"),
    ],
)
def test_a_table_of_what_layers_are_given_beside_their_stream_holds_no_token_embeddings(
    called: str, expected: str
) -> None:
    build = f"{BUILD}        self.values = nn.Embedding(config.vocab_size, 7)\n"
    run = f"        values = self.values(input_ids)\n{RUN.replace('layer(x)', called)}"
    assert planned(build, run).token_embeddings == expected


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        pytest.param("last_hidden_state=x", "", id="there is none"),
        pytest.param("last_hidden_state=self.drop(x), other=self.norm(pixels)", "", id="a norm of something else"),
        pytest.param("last_hidden_state=self.norm(self.drop(x))", "norm", id="after dropout"),
        pytest.param("last_hidden_state=self.norm(x[:, 0])", "norm", id="of a part"),
    ],
)
def test_the_norm_after_the_last_layer(after: str, expected: str) -> None:
    run = RUN.replace("last_hidden_state=self.norm(x)", after)
    assert planned(BUILD, run).final_norm == expected


@pytest.mark.parametrize(
    ("loop", "shared"),
    [
        pytest.param("for layer in self.layers:\n            x = layer(x)", False, id="over the list"),
        pytest.param("for i, layer in enumerate(self.layers):\n            x = layer(x)", False, id="enumerated"),
        pytest.param("for layer in self.layers[: kwargs.n]:\n            x = layer(x)", False, id="over a slice"),
        pytest.param("for i in range(3):\n            x = self.layers[i](x)", False, id="by the counter"),
        pytest.param("for i in range(9):\n            x = self.layers[i % 3](x)", True, id="modulo its length"),
        pytest.param(
            "for i in range(9):\n            j = int(i / 3)\n            x = self.layers[j](x)", True, id="by group"
        ),
    ],
)
def test_layers_that_run_more_than_once_are_shared(loop: str, shared: bool) -> None:
    run = RUN.replace("for layer in self.layers:\n            x = layer(x)", loop)
    plan = planned(BUILD, run)
    assert [stack.shared for stack in plan.stacks] == [shared]
    assert plan.embedding_output == "embed"


GROUPS = """
class Group(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.inner = nn.ModuleList([Layer(config) for _ in range(2)])
    def forward(self, x):
        for layer in self.inner:
            x = layer(x)
        return x

class Parts(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.inner = nn.ModuleList([Attention(config), nn.Linear(2, 2)])
    def forward(self, x):
        return self.inner[1](self.inner[0](x))

class TinyModel(TinyPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.layers = nn.ModuleList([{element}(config) for _ in range(3)])
    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x
"""


@pytest.mark.parametrize(
    ("element", "path", "classes"),
    [
        pytest.param("Parts", "layers", ("Parts",), id="a list inside a layer holds its parts"),
        pytest.param("Group", "layers.*.inner", ("Layer",), id="a list inside a group holds layers"),
    ],
)
def test_a_list_in_a_list(element: str, path: str, classes: tuple[str, ...]) -> None:
    plan, _ = plan_text(GROUPS.replace("{element}", element))
    assert plan is not None
    assert [(stack.path, stack.layer_classes) for stack in plan.stacks] == [(path, classes)]


HOLDER = """
class Encoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layers = nn.ModuleList([Layer(config) for _ in range(3)])
    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

class Wide(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.encoder = Encoder(config)
    def forward(self, x):
        return self.encoder(x)

class Narrow(nn.Module):
    def __init__(self, config):
        super().__init__()
        {narrow}
    def forward(self, x):
        return self.{name}(x)
"""


@pytest.mark.parametrize(
    ("narrow", "held", "optional"),
    [
        pytest.param("proj = Linear(2, 2)", "Wide(config) if config.wide else Narrow(config)", "holder.encoder", id="a class lacks it"),
        pytest.param("encoder = Encoder(config)", "Wide(config) if config.wide else Narrow(config)", "", id="both classes have it"),
        pytest.param("proj = Linear(2, 2)", "Wide(config)", "", id="one class"),
        pytest.param("proj = Linear(2, 2)", "Wide(config) if config.wide else None", "holder", id="none"),
    ],
)  # fmt: skip
def test_what_of_the_path_to_a_list_some_models_lack(narrow: str, held: str, optional: str) -> None:
    name, _, value = narrow.partition(" = ")
    made = f"self.{name} = {value.replace('Linear', 'nn.Linear')}"
    plan, _ = plan_text(
        HOLDER.replace("{narrow}", made).replace("{name}", name)
        + "class TinyModel(TinyPreTrainedModel):\n"
        + "    def __init__(self, config: TinyConfig):\n        super().__init__(config)\n"
        + f"        self.embed = nn.Embedding(config.vocab_size, 2)\n        self.holder = {held}\n"
        + "    def forward(self, input_ids):\n        return self.holder(self.embed(input_ids))\n"
    )
    assert plan is not None
    assert [(stack.path, stack.optional) for stack in plan.stacks] == [("holder.encoder.layers", optional)]


COMPOSITE = """
class Tower(TinyPreTrainedModel):
    def __init__(self, config: {config}):
        super().__init__(config)
        self.proj = nn.Linear(2, 2)
        self.layers = nn.ModuleList([Layer(config) for _ in range(3)])
    def forward(self, x):
        x = self.proj(x)
        for layer in self.layers:
            x = layer(x)
        return x

class TinyModel(TinyPreTrainedModel):
    def __init__(self, config: TinyConfig):
        super().__init__(config)
        self.vision = Tower(config)
        self.text = {text}
    def forward(self, x):
        return self.text(self.vision(x))
"""


@pytest.mark.parametrize(
    ("config", "text", "expected"),
    [
        pytest.param("TinyConfig", "Tower(config)", [], id="parts that share the config are no models of their own"),
        pytest.param("TinyVisionConfig", "Tower(config)", ["vision", "text"], id="towers"),
        pytest.param("TinyConfig", "AutoModel.from_config(c)", ["text"], id="an auto class"),
    ],
)
def test_whole_models_inside(config: str, text: str, expected: list[str]) -> None:
    plan, _ = plan_text(COMPOSITE.replace("{config}", config).replace("{text}", text))
    assert plan is not None
    assert [model.path for model in plan.models] == expected


def test_a_model_whose_other_models_are_no_parts_is_refused_with_their_reasons() -> None:
    tower = COMPOSITE.replace("{config}", "TinyVisionConfig").replace("{text}", "nn.Linear(2, 2)")
    plan, (refusal,) = plan_text(tower.replace("nn.ModuleList([Layer(config) for _ in range(3)])", "nn.Linear(2, 2)"))
    assert plan is None
    assert (refusal.code, refusal.message) == (
        "P102",
        "TinyModel holds no module list whose elements hold attention, and no other model that could (vision: Tower has no layers).",
    )


@pytest.mark.parametrize(
    ("model_type", "stacks", "embeddings", "output", "norm"),
    [
        ("llama", ["layers"], "embed_tokens", "embed_tokens", "norm"),
        ("bert", ["encoder.layer"], "embeddings.word_embeddings", "embeddings", ""),
        ("gpt2", ["h"], "wte", "drop", "ln_f"),
        ("t5", ["encoder.block", "decoder.block"], "shared", "encoder.embed_tokens", "decoder.final_layer_norm"),
        ("albert", ["encoder.albert_layer_groups.*.albert_layers"], "embeddings.word_embeddings", "embeddings", ""),
        ("bart", ["encoder.layers", "decoder.layers"], "shared", "encoder.layernorm_embedding", ""),
        ("vit", ["layers"], "", "embeddings", "layernorm"),
        ("whisper", ["encoder.layers", "decoder.layers"], "decoder.embed_tokens", "", "decoder.layer_norm"),
    ],
)
def test_upstream_base_models(
    mappings: AutoMappings,
    upstream_facts: Callable[[str], ModuleFacts],
    model_type: str,
    stacks: list[str],
    embeddings: str,
    output: str,
    norm: str,
) -> None:
    facts = upstream_facts(model_type)
    plan, _ = plan_base(facts, mappings.entry(model_type), Candidates(facts, Kinds(facts)).has_attention)
    assert plan is not None
    assert [stack.path for stack in plan.stacks] == stacks
    assert (plan.token_embeddings, plan.embedding_output, plan.final_norm) == (embeddings, output, norm)
    assert plan.is_encoder_decoder == (model_type in {"t5", "bart", "whisper"})
    assert [stack.shared for stack in plan.stacks] == [model_type == "albert"] * len(stacks)


ENCODER_DECODER = """
class Part(TinyPreTrainedModel):
    def __init__(self, config: TinyConfig):
        super().__init__(config)
        self.embed = nn.Embedding(8, 8)
        self.layers = nn.ModuleList([Layer(config) for _ in range(3)])
    def forward(self, input_ids=None, {parameters}encoder_hidden_states=None):
        x = {embeddings}
        for layer in self.layers:
            x = layer(x)
        return x

class TinyModel(TinyPreTrainedModel):
    def __init__(self, config: TinyConfig):
        super().__init__(config)
        self.shared = nn.Embedding(8, 8)
        self.encoder = {encoder}(config)
        self.decoder = Part(config)
    def get_input_embeddings(self):
        return self.shared
    def forward(self, input_ids=None, decoder_input_ids=None, encoder_outputs=None, inputs_embeds=None):
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids)
        return self.decoder(decoder_input_ids, encoder_hidden_states=encoder_outputs)
"""
EMBEDS = ("inputs_embeds=None, ", "self.embed(input_ids) if inputs_embeds is None else inputs_embeds")


def against_prompts(diagnostics: tuple[Diagnostic, ...]) -> list[tuple[str, tuple[Method, ...]]]:
    return [(one.message, one.methods) for one in diagnostics if one.code == "P105"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("", "", id="the model takes embeddings in the place of tokens"),
        pytest.param(
            "x = layer(x)", "x = layer(x, mask=input_ids.ne(0))", id="layers get what was made of the tokens"
        ),
        pytest.param("x = layer(x)", "x = layer(x, pixels)", id="layers get another argument"),
    ],
)
def test_a_prompt_goes_in_as_embeddings(before: str, after: str) -> None:
    _, diagnostics = plan_forward(BUILD, RUN.replace(before, after))
    assert against_prompts(diagnostics) == []


def test_a_prompt_does_not_go_into_a_model_that_takes_no_embeddings() -> None:
    text = (
        "class TinyModel(TinyPreTrainedModel):\n"
        f"    def __init__(self, config: TinyConfig):\n        super().__init__(config)\n{BUILD}\n"
        "    def forward(self, input_ids=None):\n"
        "        x = self.embed(input_ids)\n"
        "        for layer in self.layers:\n            x = layer(x)\n        return x\n"
    )
    plan, diagnostics = plan_text(text)
    assert plan is not None and plan.embedding_output == "embed"
    ((message, methods),) = against_prompts(diagnostics)
    assert "TinyModel takes no inputs_embeds" in message
    assert methods == (Method.PROMPT_TUNING,)


def test_a_prompt_behind_a_module_that_holds_the_table_needs_no_way_in() -> None:
    text = """
    class Embeddings(nn.Module):
        def __init__(self, config):
            super().__init__()
            self.words = nn.Embedding(8, 8)
        def forward(self, input_ids):
            return self.words(input_ids)

    class TinyModel(TinyPreTrainedModel):
        def __init__(self, config: TinyConfig):
            super().__init__(config)
            self.embeddings = Embeddings(config)
            self.layers = nn.ModuleList([Layer(config) for _ in range(3)])
        def get_input_embeddings(self):
            return self.embeddings.words
        def forward(self, input_ids=None):
            x = self.embeddings(input_ids)
            for layer in self.layers:
                x = layer(x)
            return x
    """
    plan, diagnostics = plan_text(text)
    assert plan is not None and (plan.token_embeddings, plan.embedding_output) == ("embeddings.words", "embeddings")
    assert against_prompts(diagnostics) == []


@pytest.mark.parametrize(
    ("before", "after", "scale"),
    [
        pytest.param("", "", "", id="there is none"),
        pytest.param("x = inputs_embeds", "x = inputs_embeds * self.scale", "", id="both are multiplied"),
        pytest.param("self.embed(input_ids)", "self.embed(input_ids).to(pixels.device)", "", id="they are moved"),
        pytest.param("self.embed(input_ids)", "self.embed(input_ids) * self.scale", "scale", id="only tokens are"),
        pytest.param("self.embed(input_ids)", "self.scale * self.embed(input_ids)", "scale", id="the other way round"),
        pytest.param(
            "self.embed(input_ids)", "self.embed(input_ids) * self.config.scale", "config.scale", id="by a field"
        ),
    ],
)
def test_by_what_tokens_are_multiplied_and_given_embeddings_not(before: str, after: str, scale: str) -> None:
    plan, diagnostics = plan_forward(BUILD, RUN.replace(before, after) if before else RUN)
    assert plan is not None and plan.token_scale == scale
    assert against_prompts(diagnostics) == []


@pytest.mark.parametrize(
    "made",
    [
        pytest.param("self.embed(input_ids) + pixels", id="something is added"),
        pytest.param("self.embed(input_ids) * pixels", id="by no attribute"),
        pytest.param("self.embed(input_ids) / self.scale", id="a quotient"),
        pytest.param("self.norm(self.embed(input_ids))", id="a norm"),
    ],
)
def test_a_prompt_does_not_go_in_where_something_else_is_made_of_tokens_alone(made: str) -> None:
    plan, diagnostics = plan_forward(BUILD, RUN.replace("self.embed(input_ids)", made))
    assert plan is not None and plan.token_scale == ""
    if plan.embedding_output:
        assert [methods for _, methods in against_prompts(diagnostics)] == [(Method.PROMPT_TUNING,)]


def test_a_prompt_does_not_go_into_layers_that_read_the_tokens_themselves() -> None:
    _, diagnostics = plan_forward(BUILD, RUN.replace("x = layer(x)", "x = layer(x, ids=input_ids)"))
    ((message, methods),) = against_prompts(diagnostics)
    assert "layers read input_ids" in message and methods == (Method.PROMPT_TUNING,)


ASIDE = """
        self.rotary = Rotary()
        self.others = nn.Embedding(config.vocab_size, 4)
        self.side = nn.Linear(2, 2)
"""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param("x = layer(x, self.rotary(x, torch.arange(input_ids.shape[1])))", "", id="angles of positions"),
        pytest.param("x = layer(x, self.side(pixels))", "", id="what is made of an image"),
        pytest.param("x = layer(x, self.side(self.embed(input_ids)))", "", id="what is made of the stream"),
        pytest.param("x = layer(x) + self.side(x)", "", id="what comes out of the stream is added behind a layer"),
        pytest.param("x = layer(x, self.others(input_ids))", "also read what is made", id="another table of tokens"),
        pytest.param("x = layer(x, self.side(kwargs))", "", id="arguments that are not known"),
        pytest.param(
            "x = layer(x) + self.side(pixels)", "has an entry for each position", id="what an image gives is added"
        ),
    ],
)
def test_a_prompt_does_not_go_in_where_layers_read_more_of_each_token(line: str, expected: str) -> None:
    _, diagnostics = plan_forward(BUILD + ASIDE, RUN.replace("x = layer(x)", line))
    found = [message for message, _ in against_prompts(diagnostics)]
    assert len(found) == bool(expected) and all(expected in message for message in found)


NAMED = """
    class Embeddings(nn.Module):
        def __init__(self, config):
            super().__init__()
            self.words = {table}
        def forward(self, input_ids):
            return self.words(input_ids)

    class TinyModel(TinyPreTrainedModel):
        _input_embed_layer = "words"
        def __init__(self, config: TinyConfig):
            super().__init__(config)
            self.embeddings = Embeddings(config)
            self.layers = nn.ModuleList([Layer(config) for _ in range(3)])
        def forward(self, input_ids=None):
            x = self.embeddings(input_ids)
            for layer in self.layers:
                x = layer(x)
            return x, x[{picked}]
"""


@pytest.mark.parametrize(
    ("table", "path"),
    [
        pytest.param("nn.Embedding(8, 8)", "embeddings.words", id="the table of tokens that the class names"),
        pytest.param("nn.Conv2d(3, 8, 4)", "", id="what it names embeds patches"),
    ],
)
def test_the_table_that_upstreams_own_getter_finds_by_its_name(table: str, path: str) -> None:
    plan, _ = plan_text(NAMED.format(table=table, picked=":, 0"))
    assert plan is not None and plan.token_embeddings == path


@pytest.mark.parametrize(
    ("picked", "expected"),
    [
        pytest.param(":, 0", False, id="the first position"),
        pytest.param("torch.arange(input_ids.shape[0]), -1", False, id="the last one of each row"),
        pytest.param("torch.arange(input_ids.shape[0]), input_ids.argmax(-1)", True, id="that of a token"),
    ],
)
def test_a_prompt_does_not_go_in_where_tokens_say_which_position_is_pooled(picked: str, expected: bool) -> None:
    _, diagnostics = plan_text(NAMED.format(table="nn.Embedding(8, 8)", picked=picked))
    found = [message for message, _ in against_prompts(diagnostics)]
    assert [message.startswith("The tokens say which positions") for message in found] == [True] * expected


def test_a_prompt_does_not_go_in_beside_layers_that_read_boxes() -> None:
    text = """
    class Embeddings(nn.Module):
        def __init__(self, config):
            super().__init__()
            self.words = nn.Embedding(8, 8)
        def forward(self, input_ids, {boxes}):
            return self.words(input_ids)

    class TinyModel(TinyPreTrainedModel):
        def __init__(self, config: TinyConfig):
            super().__init__(config)
            self.embeddings = Embeddings(config)
            self.side = nn.Linear(4, 8)
            self.layers = nn.ModuleList([Layer(config) for _ in range(3)])
        def get_input_embeddings(self):
            return self.embeddings.words
        def forward(self, input_ids=None, bbox=None):
            x = self.embeddings(input_ids, {boxes})
            for layer in self.layers:
                x = layer(x, {beside})
            return x
    """
    _, in_embeddings = plan_text(text.format(boxes="bbox", beside="None"))
    assert against_prompts(in_embeddings) == []
    _, in_layers = plan_text(
        text.format(boxes="None", beside="self.side(bbox * 2)").replace("input_ids, None)", "input_ids)")
    )
    ((message, _),) = against_prompts(in_layers)
    assert "also read what is made of each token" in message


@pytest.mark.parametrize(
    ("encoder", "parameters", "embeddings", "expected"),
    [
        pytest.param("Part", *EMBEDS, [], id="the encoder takes embeddings"),
        pytest.param("Part", "", "self.embed(input_ids)", ["The forward of Part"], id="it takes none"),
        pytest.param("nn.Conv1d", *EMBEDS, ["The encoder of TinyModel"], id="only the decoder takes them"),
    ],
)
def test_the_prompt_of_an_encoder_decoder_goes_into_its_encoder(
    encoder: str, parameters: str, embeddings: str, expected: list[str]
) -> None:
    text = ENCODER_DECODER.replace("{encoder}", encoder).replace("{parameters}", parameters)
    plan, diagnostics = plan_text(text.replace("{embeddings}", embeddings))
    assert plan is not None and plan.is_encoder_decoder
    assert [message.partition(" takes")[0] for message, _ in against_prompts(diagnostics)] == expected
