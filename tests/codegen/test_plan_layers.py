"""Layer classes: which they are, what they hold, and that real models come out as they should."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from adapter_codegen.model import AttentionRoles, Role
from adapter_codegen.parse import ModuleFacts
from adapter_codegen.plan.module import ModulePlan, plan_module
from adapter_codegen.plan.stream.lists.stacks import find_stacks
from plan_snippets import ATTENTION, MLP, STACK, facts_of, layer

TEXT = "x = x + self.attention(self.norm1(x), mask)[0]\nreturn x + self.mlp(self.norm2(x))"


def names(plan: ModulePlan) -> list[str]:
    return [entry.class_name for entry in plan.layers]


def test_a_class_that_is_in_no_list_is_no_layer() -> None:
    assert names(plan_module(facts_of(ATTENTION, MLP, layer(TEXT)))) == []


def test_a_list_of_modules_without_attention_holds_no_layers() -> None:
    stack = STACK.replace("Layer(config)", "Mlp(config)")
    assert names(plan_module(facts_of(ATTENTION, MLP, layer(TEXT), stack))) == []


def test_parts_of_a_layer_that_stand_in_a_list_are_no_layers() -> None:
    init = "self.parts = nn.ModuleList()\nself.parts.append(Attention(config))\nself.parts.append(Mlp(config))"
    text = "x = x + self.parts[0](x, mask)[0]\nreturn x + self.parts[1](x)"
    plan = plan_module(facts_of(ATTENTION, MLP, layer(text, init), STACK))
    assert names(plan) == ["Layer"]
    assert [role.core for role in plan.layers[0].attentions] == ["parts.0"]
    assert plan.layers[0].mlp.last == ("parts.1.down",)


def test_a_group_of_layers_is_no_layer() -> None:
    group = STACK.replace("Stack", "Group")
    stack = STACK.replace("Layer(config)", "Group(config)")
    assert names(plan_module(facts_of(ATTENTION, MLP, layer(TEXT), group, stack))) == ["Layer"]


SEQUENCE = """
class Stack(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layers = nn.Sequential(*[Layer(config) for _ in range(2)])

    def forward(self, states):
        {}
        return states
"""


@pytest.mark.parametrize(
    ("run", "found"),
    [
        pytest.param("for layer in self.layers:\n            states = layer(states)", ["Layer"], id="run through"),
        pytest.param(
            "for _, layer in enumerate(self.layers):\n            states = layer(states)", ["Layer"], id="and counted"
        ),
        pytest.param("states = self.layers(states)", [], id="no: called, as a block of parts is"),
        pytest.param("for _ in range(2):\n            states = self.layers(states)", [], id="no: called in a loop"),
        pytest.param("states = self.layers[0](states)", [], id="no: one of its parts"),
    ],
)
def test_a_sequence_that_is_run_through_one_by_one_is_a_list_of_layers(run: str, found: list[str]) -> None:
    assert names(plan_module(facts_of(ATTENTION, MLP, layer(TEXT), SEQUENCE.format(run)))) == found


MIXED = STACK.replace("Layer(config) for", "Layer(config) if config.full[i] else {other}(config) for")


def test_what_shares_a_list_with_a_layer_is_one_though_it_has_no_place_for_adapters() -> None:
    block = """
class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.mixer = nn.Conv1d(8, 8, 3)

    def forward(self, x):
        return self.mixer(x)
"""
    plan = plan_module(facts_of(ATTENTION, MLP, block, layer(TEXT), MIXED.format(other="Block")))
    assert {entry.class_name: len(entry.bottlenecks) for entry in plan.layers} == {"Block": 0, "Layer": 2}
    blocks = STACK.replace("Layer", "Block").replace("Stack", "Blocks")
    alone = plan_module(facts_of(ATTENTION, MLP, block, layer(TEXT), STACK, blocks))
    assert names(alone) == ["Layer"]


def test_a_module_that_is_built_under_a_condition_is_optional() -> None:
    init = "if config.cross:\n    self.second = Attention(config)"
    text = "x = x + self.attention(x, mask)[0]\nif states is not None:\n    x = x + self.second(x, mask)[0]\nreturn x + self.mlp(x)"
    (plan,) = plan_module(facts_of(ATTENTION, MLP, layer(text, init), STACK)).layers
    assert plan.optional == ("second",)


READER = """
class Reader(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embeddings = nn.Embedding(10, 8)
        self.stack = Stack(config)

    def forward(self, input_ids):
        return self.stack(self.embeddings(input_ids))
"""
MIXING = """
class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.mixer = Mixer(config)
        self.mlp = Mlp(config)

    def forward(self, x):
        x = x + self.mixer(x)[0]
        return x + self.mlp(x)
"""
RECURRENT = """
class Mixer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.into = nn.Linear(8, 16)
        self.out = nn.Linear(16, 8)

    def forward(self, x):
        return self.out(torch.cumsum(self.into(x), dim=1)), None
"""
FOURIER = """
class Mixer(nn.Module):
    def forward(self, x):
        return torch.fft.fftn(x, dim=(1, 2)).real, None
"""
POOLING = """
class Mixer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.conv = nn.Conv1d(8, 8, 3, padding=1)

    def forward(self, x):
        return self.conv(x.transpose(1, 2)).transpose(1, 2), None
"""


@pytest.mark.parametrize("mixer", [RECURRENT, FOURIER], ids=["a recurrence", "a transform without weights"])
def test_layers_of_a_file_without_attention_that_reads_tokens_are_mixers(mixer: str) -> None:
    (plan,) = plan_module(facts_of(mixer, MLP, MIXING, STACK, READER)).layers
    assert not plan.attentions and plan.mlp.first == ("mlp.up",) and plan.mlp.last == ("mlp.down",)
    assert [(role.host, role.location) for role in plan.bottlenecks] == [
        ("attention_adapters", Role.ATTENTION),
        ("output_adapters", Role.OUTPUT),
    ]


def test_a_mixer_that_is_the_only_sublayer_gives_the_output_and_its_projections_are_its_own() -> None:
    alone = MIXING.replace("return x + self.mlp(x)", "return x").replace("self.mlp = Mlp(config)", "pass")
    (plan,) = plan_module(facts_of(RECURRENT, alone, STACK, READER)).layers
    assert [(role.host, role.location) for role in plan.bottlenecks] == [("output_adapters", Role.OUTPUT)]
    assert not plan.mlp.first and not plan.mlp.last


def test_a_convolution_without_projections_takes_the_place_of_no_attention() -> None:
    (plan,) = plan_module(facts_of(POOLING, MLP, MIXING, STACK, READER)).layers
    assert [role.location for role in plan.bottlenecks] == [Role.OUTPUT]


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param((RECURRENT, MLP, MIXING, STACK), id="nothing reads tokens"),
        pytest.param(
            (
                RECURRENT,
                ATTENTION,
                MLP,
                MIXING,
                STACK,
                READER,
                STACK.replace("Stack", "Other").replace("Layer", "Attention"),
            ),
            id="other layers of the file attend",
        ),
        pytest.param((RECURRENT, MLP, MIXING, STACK, READER, MIXING), id="the layer is defined twice"),
        pytest.param(
            (FOURIER, MIXING.replace("Mlp(config)", "nn.Identity()"), STACK, READER), id="nothing is projected"
        ),
    ],
)
def test_layers_without_attention_are_none_where_that_says_too_little(parts: tuple[str, ...]) -> None:
    assert "Layer" not in names(plan_module(facts_of(*parts)))


MIXER = """
class Mixer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.q = nn.Linear(8, 8)
        self.k = nn.Linear(8, 8)
        self.v = nn.Linear(8, 8)
        self.o = nn.Linear(8, 8)

    def forward(self, states, mask=None, **kwargs):
        state = self.k(states).transpose(1, 2) @ self.v(states)
        return self.o(self.q(states) @ state), None

"""
CHOICE = "self.attention = Attention(config) if config.full else Mixer(config)"


def attending_classes(init: str, text: str = TEXT, mixer: str = MIXER) -> list[tuple[str, tuple[str, ...]]]:
    (plan,) = plan_module(facts_of(ATTENTION, mixer, MLP, layer(text, init), STACK)).layers
    return [(roles.core, roles.core_classes) for roles in plan.attentions]


def test_an_attention_with_a_linear_one_in_its_place_names_the_class_that_attends() -> None:
    assert attending_classes(CHOICE) == [("attention", ("Attention",))]


@pytest.mark.parametrize(
    ("init", "text"),
    [
        pytest.param("", TEXT, id="no other class may stand in its place"),
        pytest.param("self.attention = None\nself.attention = Attention(config)", TEXT, id="it is set twice"),
        pytest.param(
            "self.mixer = Mixer(config)",
            "x = x + (self.attention(x, mask)[0] if self.full else self.mixer(x)[0])\nreturn x + self.mlp(x)",
            id="the other one has a name of its own",
        ),
    ],
)
def test_an_attention_that_stands_nowhere_with_another_class_names_none(init: str, text: str) -> None:
    assert attending_classes(init, text) == [("attention", ())]


def test_two_classes_that_both_attend_in_one_place_are_not_named() -> None:
    assert attending_classes(CHOICE, mixer=ATTENTION.replace("class Attention", "class Mixer")) == [("attention", ())]


def test_an_own_output_module_is_the_host_of_its_adapters() -> None:
    output = """
class Output(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, states, before):
        return self.norm(self.dense(states) + before)
"""
    text = "x = x + self.attention(x, mask)[0]\nreturn self.output(self.mlp(x), x)"
    plan = plan_module(facts_of(ATTENTION, MLP, output, layer(text, "self.output = Output(config)"), STACK))
    assert [(role.host, role.location) for role in plan.layers[0].bottlenecks] == [
        ("attention_adapters", Role.ATTENTION),
        ("output", Role.OUTPUT),
    ]
    (site,) = next(entry for entry in plan.classes if entry.name == "Output").residual_sites
    assert (site.host, site.role) == ("", None)


@pytest.fixture(scope="module")
def plans(upstream_facts: Callable[[str], ModuleFacts]) -> Callable[[str], ModulePlan]:
    return lambda model_type: plan_module(upstream_facts(model_type))


def test_llama_is_planned_as_the_sample_has_it(plans: Callable[[str], ModulePlan]) -> None:
    plan = plans("llama")
    (entry,) = plan.layers
    assert entry.attentions == (
        AttentionRoles(
            core="self_attn",
            kind=entry.attentions[0].kind,
            query="self_attn.q_proj",
            key="self_attn.k_proj",
            value="self_attn.v_proj",
            output="self_attn.o_proj",
            head_dim="head_dim",
        ),
    )
    assert [(role.host, role.location) for role in entry.bottlenecks] == [
        ("attention_adapters", Role.ATTENTION),
        ("output_adapters", Role.OUTPUT),
    ]
    assert (entry.mlp.first, entry.mlp.gate, entry.mlp.last) == (
        ("mlp.up_proj",),
        ("mlp.gate_proj",),
        ("mlp.down_proj",),
    )
    assert [entry.name for entry in plan.classes] == ["LlamaAttention", "LlamaDecoderLayer"]
    assert not plan.diagnostics


def test_bert_is_planned_as_the_sample_has_it(plans: Callable[[str], ModulePlan]) -> None:
    plan = plans("bert")
    (entry,) = plan.layers
    assert [(one.core, one.kind.value) for one in entry.attentions] == [
        ("attention.self", "self"),
        ("crossattention.self", "cross"),
    ]
    assert [(role.host, role.location.value) for role in entry.bottlenecks] == [
        ("attention.output", "attention"),
        ("crossattention.output", "cross_attention"),
        ("output", "output"),
    ]
    assert entry.optional == ("crossattention",)
    assert (entry.mlp.first, entry.mlp.last) == (("intermediate.dense",), ("output.dense",))
    copied = {one.name for one in plan.classes}
    assert copied == {"BertSelfAttention", "BertCrossAttention", "BertSelfOutput", "BertOutput"}


@pytest.mark.parametrize(
    ("model_type", "cores", "residuals"),
    [
        pytest.param("mamba", 0, 1, id="a state space has no attention, and takes bottlenecks"),
        pytest.param("resnet", 0, 0, id="a convolutional network has no attention"),
        pytest.param("deberta-v2", 1, 2, id="disentangled scores take a prefix, its output modules bottlenecks"),
        pytest.param("gpt2", 2, 3, id="a fused projection, and a second core in a helper"),
        pytest.param("gemma2", 1, 2, id="norms on both sides of the sublayers"),
        pytest.param("t5", 1, 3, id="sublayers that are modules of their own"),
        pytest.param("bart", 1, 5, id="the norm in the statement after the addition"),
        pytest.param("gpt_neox", 1, 4, id="two ways to add, of which the config chooses one"),
        pytest.param("vit", 1, 2, id="images"),
    ],
)
def test_real_models(plans: Callable[[str], ModulePlan], model_type: str, cores: int, residuals: int) -> None:
    plan = plans(model_type)
    assert (plan.cores, plan.residuals) == (cores, residuals)


SUPER = """
class SubLayer(Layer):
    def forward(self, x, mask=None, states=None):
        x = super().forward(x, mask, states)
        return x + self.mlp(self.norm1(x))
"""


def test_what_runs_behind_super_is_no_place_for_an_edit() -> None:
    stack = STACK.replace("Layer(config)", "SubLayer(config)")
    plan = plan_module(facts_of(ATTENTION, MLP, layer(TEXT), SUPER, stack))
    (sub,) = [one for one in plan.classes if one.name == "SubLayer"]
    assert [site.branch.code for site in sub.residual_sites] == ["self.mlp(self.norm1(x))"]
    assert [one.code for one in plan.diagnostics] == ["P241", "P241"]
    assert "super().forward" in plan.diagnostics[0].message


def test_an_inherited_forward_is_a_place_of_its_heir() -> None:
    heir = "class SubLayer(Layer):\n    pass\n"
    plan = plan_module(facts_of(ATTENTION, MLP, layer(TEXT), heir, STACK.replace("Layer(config)", "SubLayer(config)")))
    assert [(one.name, len(one.residual_sites)) for one in plan.classes][-1] == ("SubLayer", 2)
    assert not plan.diagnostics


def test_a_list_in_one_of_two_holders_is_one_stack() -> None:
    text = STACK.replace("class Stack", "class Other") + STACK
    holder = """
class Whole(nn.Module):
    def __init__(self, config):
        super().__init__()
        if config.stable:
            self.encoder = Other(config)
        else:
            self.encoder = Stack(config)
"""
    facts = facts_of(ATTENTION, MLP, layer("return x + self.attention(self.norm1(x), mask)[0]"), text, holder)
    (found,) = find_stacks(facts, "Whole", lambda name: name in ("Attention", "Layer", "Stack", "Other"))
    assert (found.path, found.classes) == ("encoder.layers", ("Layer",))
    assert set(found.owners) == {"Whole", "Stack", "Other"}


STAGES = """
class Local(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.steps = nn.ModuleList([nn.Conv2d(8, 8, 3)])

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        return x


class Stage(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.before = nn.Conv2d(8, 8, 3)
        self.inner = Stack(config)

    def forward(self, x):
        return self.inner(self.before(x))


class Whole(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.stages = nn.ModuleList([Local(config)])
        self.stages.append(Stage(config))

    def forward(self, x):
        for stage in self.stages:
            x = stage(x)
        return x
"""
IN_WHOLE = ("Attention", "Layer", "Stack", "Stage")


def test_stages_may_hold_what_holds_their_layers_and_some_may_hold_none() -> None:
    facts = facts_of(ATTENTION, MLP, layer(TEXT), STACK, STAGES)
    (found,) = find_stacks(facts, "Whole", lambda name: name in IN_WHOLE)
    assert (found.path, found.classes, found.without) == ("stages.*.inner.layers", ("Layer",), ("Local",))
    assert found.owners == ("Whole", "Stage", "Stack")


def test_where_all_stages_hold_layers_none_is_without() -> None:
    facts = facts_of(ATTENTION, MLP, layer(TEXT), STACK, STAGES.replace("[Local(config)]", "[Stage(config)]"))
    (found,) = find_stacks(facts, "Whole", lambda name: name in IN_WHOLE)
    assert (found.path, found.without) == ("stages.*.inner.layers", ())


def test_a_layer_whose_part_holds_a_list_of_attentions_is_no_stage() -> None:
    held = STACK.replace("Layer(config)", "Attention(config)").replace(
        "states = layer(states)", "states = layer(states)[0]"
    )
    facts = facts_of(ATTENTION, MLP, held, STAGES)
    (found,) = find_stacks(facts, "Whole", lambda name: name in IN_WHOLE)
    assert (found.path, found.classes, found.without) == ("stages", ("Local", "Stage"), ())


def test_a_list_of_other_elements_in_a_part_makes_no_stage_of_a_layer() -> None:
    init = "self.part = Local(config)"
    facts = facts_of(
        ATTENTION, MLP, STAGES, layer("x = x + self.attention(x, mask)[0]\nreturn x + self.part(x)", init), STACK
    )
    (found,) = find_stacks(facts, "Stack", lambda name: name in IN_WHOLE)
    assert (found.path, found.classes) == ("layers", ("Layer",))


WITHIN = """
class Mixing(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.conv = nn.Conv1d(8, 8, 3)
        self.out = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, x, mask=None, beside=None):
        residual = x
        x = x + beside if beside is not None else x
        return residual + self.out(self.conv(self.inner(self.norm(x))))


class Hybrid(nn.Module):
    def __init__(self, shared: Attention, linear: nn.Linear, mixing: Mixing):
        super().__init__()
        self.shared = shared
        self.linear = linear
        self.mixing = mixing

    def forward(self, x, mask=None):
        return self.mixing(x, beside=self.linear(self.shared(x, mask)[0]))


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layers = nn.ModuleList(self.build(config))

    def build(self, config):
        layers = []
        for kind in config.kinds:
            if kind == "hybrid":
                layers.append(Hybrid(Attention(config), nn.Linear(8, 8), Mixing(config)))
            else:
                layers.append(Mixing(config))
        return layers

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x
"""


def test_a_layer_within_a_layer_keeps_its_place_where_it_stands_alone_and_has_none_inside() -> None:
    plan = plan_module(facts_of(ATTENTION, WITHIN))
    found = {entry.plan.class_name: entry for entry in plan.entries}
    assert [role.host for role in found["Mixing"].plan.bottlenecks] == ["output_adapters"]
    assert found["Hybrid"].plan.bottlenecks == ()
    assert [roles.query for roles in found["Hybrid"].plan.attentions] == ["shared.q"]
    for entry in found.values():
        assert any("is used in two roles" in gap.message for gap in entry.gaps)
