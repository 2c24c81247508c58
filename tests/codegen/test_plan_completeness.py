"""Whether a layer has all of its sites, has none because of its structure, or was not understood."""

from __future__ import annotations

import pytest

from adapter_codegen.model import Absence, Level, ModelPlan, Role
from adapter_codegen.plan import plan_model
from adapter_codegen.plan.module import LayerEntry, ModulePlan, plan_module
from adapter_codegen.plan.told.verdicts import NO_VERDICTS
from adapter_codegen.upstream import Release
from plan_snippets import ATTENTION, MLP, STACK, facts_of, layer, plan_of_layer

ATTEND = "x = x + self.attention(self.norm1(x), mask)[0]\n"
FEED = "x = x + self.mlp(self.norm2(x))\n"


def entry_of(plan: ModulePlan, name: str = "Layer") -> LayerEntry:
    return next(entry for entry in plan.entries if entry.plan.class_name == name)


def codes(entry: LayerEntry) -> list[str]:
    return [gap.code for gap in entry.gaps]


def test_a_layer_with_both_sites_lacks_nothing() -> None:
    entry = entry_of(plan_of_layer(f"{ATTEND}{FEED}return x"))
    assert (entry.gaps, entry.second, entry.plan.without) == ((), (), ())


@pytest.mark.parametrize(
    ("forward", "code", "line"),
    [
        pytest.param(f"{ATTEND}return x + x.sum()", "P230", "x + x.sum()", id="no submodule made what is added"),
        pytest.param(f"{ATTEND}return self.mlp(x)", "P234", "self.down(", id="the feed-forward block takes its place"),
        pytest.param(
            f"x = self.attention(x, mask)[0]\n{FEED}return x", "P234", "self.o(", id="the attention takes its place"
        ),
        pytest.param(f"{ATTEND}{FEED}return torch.stack([x, x])", "P234", "torch.stack", id="it is stacked"),
        pytest.param(
            f"{FEED}x = torch.cat([x, self.attention(states)[0]], dim=1)\nreturn x",
            "P235",
            "attend(self",
            id="the attention only gives tokens that are joined to the stream",
        ),
    ],
)
def test_a_layer_is_not_complete_where(forward: str, code: str, line: str) -> None:
    plan = plan_of_layer(forward)
    (gap,) = entry_of(plan).gaps
    assert (gap.code, gap.level) == (code, Level.WARNING)
    assert gap in plan.diagnostics, "it is told like every other warning"
    text = facts_of(ATTENTION, MLP, layer(forward), STACK).text.split("\n")
    assert gap.location is not None and line in text[gap.location.line - 1]
    assert entry_of(plan).plan.without == (), "no reason stands beside what was not followed"


@pytest.mark.parametrize(
    ("forward", "init", "without"),
    [
        pytest.param(f"{ATTEND}return x", "", {Role.OUTPUT: Absence.ONE_SUBLAYER}, id="attention alone"),
        pytest.param(
            f"{ATTEND}x = x + self.second(x, mask)[0]\nreturn x",
            "self.second = Attention(config)",
            {Role.OUTPUT: Absence.NO_FEED_FORWARD},
            id="two attentions",
        ),
        pytest.param(
            f"{ATTEND}return x + self.conv(x)",
            "self.conv = nn.Conv1d(8, 8, 3)",
            {Role.OUTPUT: Absence.MIXES_POSITIONS},
            id="a convolution in the place of the feed-forward block",
        ),
    ],
)
def test_the_structure_gives_the_reason(forward: str, init: str, without: dict[Role, Absence]) -> None:
    entry = entry_of(plan_of_layer(forward, init))
    assert (dict(entry.plan.without), entry.gaps) == (without, ())


BESIDE = """
class Beside(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.into = nn.Linear(8, 16)
        self.conv = nn.Conv1d(16, 16, 3)
        self.out = nn.Linear(16, 8)
        self.mlp = Mlp(config)

    def forward(self, x, mask=None, states=None):
        {}

"""
HYBRID = STACK.replace("Layer(config) for _ in range(2)", "Layer(config) if i else Beside(config) for i in range(2)")


@pytest.mark.parametrize(
    ("forward", "without", "gaps"),
    [
        pytest.param("return x + self.mlp(x)", {Role.ATTENTION: Absence.NO_ATTENTION}, [], id="feed-forward alone"),
        pytest.param(
            "return x + self.out(self.conv(self.into(x)))", {Role.ATTENTION: Absence.MIXER}, [], id="a mixer alone"
        ),
        pytest.param(
            "return x", dict.fromkeys((Role.ATTENTION, Role.OUTPUT), Absence.NOTHING_ADDED), [], id="nothing"
        ),
        pytest.param("return self.mlp(x)", {}, ["P234"], id="no stream that is added to"),
        pytest.param("return x + x.sort().values", {}, ["P230"], id="one kind of layer lacks its output"),
    ],
)
def test_each_kind_of_layer_in_a_list_counts(forward: str, without: dict[Role, Absence], gaps: list[str]) -> None:
    plan = plan_module(facts_of(ATTENTION, MLP, layer(f"{ATTEND}{FEED}return x"), BESIDE.format(forward), HYBRID))
    entry = entry_of(plan, "Beside")
    assert (dict(entry.plan.without), codes(entry)) == (without, gaps)
    assert not entry_of(plan).gaps


SKIPS = """
if self.skips:
    x = self.attention(x, mask)[0]
else:
    x = x + self.attention(x, mask)[0]
"""


@pytest.mark.parametrize(
    ("forward", "init", "gaps"),
    [
        pytest.param(f"{SKIPS}{FEED}return x", "self.skips = config.skips", [], id="for some layers alone"),
        pytest.param(
            f"{SKIPS.replace('x = self.attention', 'x = self.other')}{FEED}return x",
            "self.skips = config.skips\nself.other = Attention(config)",
            ["P234"],
            id="another attention than is added",
        ),
    ],
)
def test_an_attention_may_take_the_place_of_the_stream(forward: str, init: str, gaps: list[str]) -> None:
    assert codes(entry_of(plan_of_layer(forward, init))) == gaps


BEHIND = f"{ATTEND}{FEED}new = torch.zeros_like(x)\nnew[mask] = self.{{}}(x)\nreturn x + new"


@pytest.mark.parametrize(
    ("module", "init", "gaps"),
    [
        pytest.param("more", "self.more = Mlp(config) if config.more else None", [], id="built under a condition"),
        pytest.param("more", "self.more = Mlp(config)", ["P230"], id="always there"),
        pytest.param(
            "more[mask]",
            "self.more = nn.ModuleDict({})\nfor name in config.names:\n    self.more[name] = Mlp(config)",
            [],
            id="named by the config",
        ),
        pytest.param(
            "more[0]", "self.more = nn.ModuleList([Mlp(config) for _ in range(2)])", ["P230"], id="in a mere list"
        ),
    ],
)
def test_what_only_some_configs_ask_for_behind_the_output_is_no_gap(module: str, init: str, gaps: list[str]) -> None:
    plan = plan_of_layer(BEHIND.format(module), init)
    assert codes(entry_of(plan)) == gaps
    assert ("P233" in {found.code for found in plan.diagnostics}) is (not gaps)


ALIGNER = """
class Aligner(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.attention = Attention(config)
        self.{} = Mlp(config)

    def forward(self, x, mask=None):
        {}
        return x + self.more(x)

"""
BOTH = "x = x + self.attention(x, mask)[0]"


@pytest.mark.parametrize(
    ("attends", "hosts", "is_extra"),
    [
        pytest.param(BOTH, 4, False, id="beside an attention, with which it makes a layer of its own"),
        pytest.param("pass", 2, True, id="alone"),
    ],
)
def test_a_feed_forward_block_in_a_module_that_some_configs_ask_for(attends: str, hosts: int, is_extra: bool) -> None:
    body = layer(
        f"{ATTEND}{FEED}if self.aligner is not None:\n    x = self.aligner(x, mask)\nreturn x",
        "self.aligner = Aligner(config) if config.aligns else None",
    )
    plan = plan_module(facts_of(ATTENTION, MLP, ALIGNER.format("more", attends), body, STACK))
    (entry,) = plan.entries
    assert len(entry.plan.bottlenecks) == hosts
    assert ("P233" in {found.code for found in plan.diagnostics}) is is_extra
    assert not entry.gaps


def test_the_output_itself_is_no_extra_even_if_only_some_configs_ask_for_it() -> None:
    forward = f"{ATTEND}new = torch.zeros_like(x)\nnew[mask] = self.more(x)\nreturn x + new"
    assert codes(entry_of(plan_of_layer(forward, "self.more = Mlp(config) if config.more else None"))) == ["P230"]


@pytest.mark.parametrize(
    ("returned", "has_second"),
    [
        pytest.param("return x, states", True, id="returned behind the first"),
        pytest.param("return x + self.mlp(x + states), states", False, id="read by the first"),
    ],
)
def test_attention_on_a_second_stream_is_told_apart(returned: str, has_second: bool) -> None:
    forward = f"{ATTEND}{FEED}states = states + self.other(states)[0]\n{returned}"
    entry = entry_of(plan_of_layer(forward, "self.other = Attention(config)"))
    assert [found.code for found in entry.second] == ["P236"] * has_second
    assert not entry.gaps


LAYOUT = "layout = states + self.second(self.norm2(states))\n"


@pytest.mark.parametrize(
    ("lines", "second"),
    [
        pytest.param(f"{LAYOUT}return x, layout", ["P238"], id="returned behind the first"),
        pytest.param(f"{LAYOUT}outputs = (x,)\noutputs += (layout,)\nreturn outputs", ["P238"], id="put into a tuple"),
        pytest.param(f"{LAYOUT}return x, torch.zeros_like(x)", [], id="no: not returned"),
        pytest.param(f"{LAYOUT}x = x + self.third(x + layout)\nreturn x, layout", [], id="no: read by the first"),
        pytest.param("return x, states + mask", [], id="no: nothing of a sublayer is added"),
        pytest.param("return x, self.second(x) + states", [], id="no: a bias, and no stream"),
        pytest.param("return x, x", [], id="no: the first again"),
    ],
)
def test_a_second_stream_without_attention_of_its_own_is_told(lines: str, second: list[str]) -> None:
    plan = plan_of_layer(f"{ATTEND}{FEED}{lines}", "self.second = Mlp(config)\nself.third = Mlp(config)")
    entry = entry_of(plan)
    assert [found.code for found in entry.second] == second
    assert not entry.gaps
    assert [role.host for role in entry.plan.bottlenecks][:2] == ["attention_adapters", "output_adapters"]


@pytest.mark.parametrize(
    ("shortcut", "gaps"),
    [
        pytest.param("x = self.proj(n)", [], id="of what the sublayer reads"),
        pytest.param("x = self.proj(n).view(2, 3, -1, 16).max(dim=1).values", [], id="and pooled"),
        pytest.param("x = torch.tanh(self.proj(n))", ["P230"], id="no: with another step behind it"),
        pytest.param("x = self.proj(states)", ["P230"], id="no: of something else"),
    ],
)
def test_a_projection_may_take_the_place_of_the_stream(shortcut: str, gaps: list[str]) -> None:
    wider = f"n = self.norm1(x)\nif self.wider:\n    {shortcut}\nx = x + self.attention(n, mask)[0]\n"
    plan = plan_of_layer(f"{wider}{FEED}return x", "self.wider = config.wider\nself.proj = nn.Linear(8, 16)")
    assert codes(entry_of(plan)) == gaps


@pytest.mark.parametrize(
    ("wider", "gaps"),
    [
        pytest.param("self.proj(x)", [], id="of the stream"),
        pytest.param("torch.tanh(self.proj(x))", ["P234"], id="no: with another step behind it"),
        pytest.param("self.proj(states)", ["P234"], id="no: of something else"),
    ],
)
def test_a_projection_may_take_the_place_of_the_stream_between_sublayers(wider: str, gaps: list[str]) -> None:
    between = f"if self.wider:\n    x = {wider}\n"
    init = "self.wider = config.wider\nself.proj = nn.Linear(8, 16)"
    assert codes(entry_of(plan_of_layer(f"{ATTEND}{between}{FEED}return x", init))) == gaps


@pytest.mark.parametrize(
    ("kept", "gaps"),
    [
        pytest.param("x if x.shape[-1] == self.size else None", ["P230"], id="by the width of what is given"),
        pytest.param("x if x.size(-1) == 8 else None", ["P230"], id="by a call"),
        pytest.param("x if self.keeps else None", [], id="by what the layer is"),
        pytest.param("x if x.shape[-1] == self.size else self.shortcut(x)", [], id="a projection takes its place"),
    ],
)
def test_what_is_added_only_where_the_widths_allow_it_has_no_site(kept: str, gaps: list[str]) -> None:
    """Fun-ASR-Nano's first layer is given as many features as a sound has: no host would run there."""
    forward = f"kept = {kept}\nx = self.attention(self.norm1(x), mask)[0]\nif kept is not None:\n    x = kept + x\n"
    plan = plan_of_layer(f"{forward}{FEED}return x", init="self.shortcut = nn.Linear(4, 8)")
    assert codes(entry_of(plan)) == gaps


def test_a_projection_alone_is_no_stream() -> None:
    entry = entry_of(plan_of_layer(f"x = self.proj(x)\n{ATTEND}{FEED}return x", "self.proj = nn.Linear(8, 8)"))
    assert codes(entry) == ["P234"]


def test_what_is_less_something_is_the_same_work() -> None:
    """As in blocks that subtract what they normalise, to add the difference alone."""
    entry = entry_of(plan_of_layer(f"{ATTEND}return x + (self.mlp(x) - self.norm2(x))"))
    assert (entry.gaps, entry.plan.without) == ((), ())
    assert codes(entry_of(plan_of_layer(f"{ATTEND}return x + (self.norm2(x) - self.mlp(x))"))) == ["P230"]


# Whole models --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_type", "states"),
    [
        ("llama", {"layers": True}),
        ("nemotron_h", {"layers": True}),
        ("sam", {"vision_encoder.layers": True, "mask_decoder.transformer.layers": True}),
        ("d_fine", {"encoder.aifi.*.layers": True, "decoder.layers": True}),
        ("higgs_audio_v2", {"model.layers": False}),
        ("wav2vec2-bert", {"encoder.layers": True, "adapter.layers": True}),
    ],
)
def test_stacks_of_upstream(release: Release, model_type: str, states: dict[str, bool]) -> None:
    plan = plan_model(release, model_type, verdicts=NO_VERDICTS)
    assert isinstance(plan, ModelPlan)
    assert {stack.path: stack.is_complete for stack in plan.base.stacks} == states


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        pytest.param(
            "higgs_audio_v2", "Not every layer of the stack model.layers has its sites. ", id="the main stack"
        ),
        pytest.param("wav2vec2-bert", "", id="a stack that only some configs ask for"),
        pytest.param("grounding-dino", "", id="a second stream of a stack that is not main"),
        pytest.param("canary", "", id="an encoder elsewhere, a decoder here"),
    ],
)
def test_a_main_stack_that_is_not_complete_costs_the_bottlenecks(
    release: Release, model_type: str, reason: str
) -> None:
    plan = plan_model(release, model_type, verdicts=NO_VERDICTS)
    assert isinstance(plan, ModelPlan)
    (support,) = (entry for entry in plan.methods if entry.method.value == "bottleneck")
    assert (support.supported, support.reason[: len(reason)]) == (not reason, reason)
    assert support.supported or support.location is not None


def test_stacks_of_parts_of_the_same_file_are_counted_and_those_of_others_are_not(release: Release) -> None:
    plan = plan_model(release, "idefics3", verdicts=NO_VERDICTS)
    assert isinstance(plan, ModelPlan)
    assert (plan.base.stacks, plan.base.streams) == ((), {"vision_model.encoder.layers": ""})


def test_a_second_stream_is_counted_beside_a_part(release: Release) -> None:
    plan = plan_model(release, "grounding-dino", verdicts=NO_VERDICTS)
    assert isinstance(plan, ModelPlan)
    assert {path: not reason for path, reason in plan.base.streams.items()} == {
        "encoder.layers": True,
        "decoder.layers": True,
        "encoder.layers (second)": False,
    }
