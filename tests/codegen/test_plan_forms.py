"""What the hidden states of layers are, where they are no rows of positions; and what that means for ReFT."""

from __future__ import annotations

from textwrap import dedent, indent

import pytest

from adapter_codegen.model import Method, ModelPlan, StreamForm
from adapter_codegen.parse import ModelEntry
from adapter_codegen.plan import plan_model
from adapter_codegen.plan.flow.kinds import Kinds
from adapter_codegen.plan.module import plan_module
from adapter_codegen.plan.stream.base import plan_base
from adapter_codegen.plan.stream.lists.candidates import Candidates
from adapter_codegen.plan.told.verdicts import NO_VERDICTS
from adapter_codegen.upstream import open_release
from plan_snippets import ATTENTION, MLP, STACK, facts_of, layer, plan_of_attention

ATTENDED = "x = x + self.attention(self.norm1(x), mask)[0]\nreturn x + self.mlp(self.norm2(x))"
CALL = """
attend = ALL_ATTENTION_FUNCTIONS.get_interface("eager", eager_attention_forward)
return self.o(attend(self, query, key, value, mask, scaling=1.0)[0]), None
"""
BY_ROWS = """
shape = (*states.shape[:-1], -1, self.head_dim)
query, key, value = (project(states).view(shape).transpose(1, 2) for project in (self.q, self.k, self.v))
query = self.q(states).view(shape).transpose(1, 2)
"""


def form_of(*lines: str, call: str = CALL) -> StreamForm:
    """What a layer shows whose attention has these lines in front of its core."""
    (entry,) = plan_of_attention(*lines, call).entries
    assert (entry.shown is None) == (entry.form is StreamForm.ROWS)
    return entry.form


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(BY_ROWS, id="a projection that is cut into heads"),
        pytest.param(f"batch, length = states.shape[:2]\n{BY_ROWS}", id="a part of the shape is unpacked"),
        pytest.param(f"*lead, width = states.shape\n{BY_ROWS}", id="a name takes what is left over"),
        pytest.param(f"batch, length, width = states.size()\n{BY_ROWS}", id="three dimensions are unpacked"),
        pytest.param(f"{BY_ROWS}batch, heads, length, width = query.shape", id="the shape of the heads is unpacked"),
        pytest.param(
            f"if mask is None:\n    batch, height, width, size = states.shape\nelse:\n    batch, length, size = states.shape\n{BY_ROWS}",
            id="one branch is for a grid, another for rows",
        ),
        pytest.param(f"count, width = mask.shape\n{BY_ROWS}", id="the shape of something else is unpacked"),
        pytest.param(f"{BY_ROWS}mask = mask.unsqueeze(0)", id="the mask gets a batch of one"),
        pytest.param(f"{BY_ROWS}query = query * bias.unsqueeze(0)", id="a factor gets a batch of one"),
        pytest.param(
            f"states = self.o(bias.unsqueeze(0))\n{BY_ROWS}",
            id="what is projected is something else, with a batch of one",
        ),
        pytest.param(f"{BY_ROWS}query = query.unsqueeze(1).squeeze(1)", id="another dimension is put in"),
        pytest.param(
            f"{BY_ROWS}query = query.transpose(2, 3).transpose(2, 3)", id="the fourth dimension is that of heads"
        ),
        pytest.param(f"{BY_ROWS}size = query.shape[3]", id="the size of the fourth dimension of heads is read"),
        pytest.param(f"size = states.shape[2]\n{BY_ROWS}", id="the size of the third is read"),
        pytest.param(
            f"turned = states.view(2, 4, 4, -1).permute(0, 3, 1, 2)\n{BY_ROWS}", id="a grid is made of rows and turned"
        ),
        pytest.param(
            f"if mask is None:\n    states = states.permute(0, 2, 3, 1)\nbatch, length, size = states.shape\n{BY_ROWS}",
            id="one branch turns a grid, and another has rows",
        ),
    ],
)
def test_a_layer_that_shows_nothing_else_has_rows(lines: str) -> None:
    assert form_of(lines) is StreamForm.ROWS


@pytest.mark.parametrize(
    ("lines", "form"),
    [
        pytest.param(
            "length = states.shape[0]\n"
            "query = self.q(states).reshape(length, 4, -1).transpose(0, 1).unsqueeze(0)\n"
            "key = self.k(states).reshape(length, 4, -1).transpose(0, 1).unsqueeze(0)\n"
            "value = self.v(states).reshape(length, 4, -1).transpose(0, 1).unsqueeze(0)",
            StreamForm.PACKED,
            id="the core gets a batch of one",
        ),
        pytest.param(
            "query = self.q(states).view(-1, 4, 2).transpose(0, 1)[None]\nkey = value = query\n",
            StreamForm.PACKED,
            id="by an index",
        ),
        pytest.param(f"length, _ = states.size()\n{BY_ROWS}", StreamForm.PACKED, id="two dimensions are unpacked"),
        pytest.param(f"turned = states.permute(0, 2, 3, 1)\n{BY_ROWS}", StreamForm.OTHER, id="four are put in order"),
        pytest.param(f"size = states.shape[3]\n{BY_ROWS}", StreamForm.OTHER, id="the size of the fourth is read"),
        pytest.param(f"turned = states.transpose(2, 3)\n{BY_ROWS}", StreamForm.OTHER, id="the fourth is exchanged"),
        pytest.param(f"batch, height, width, _ = states.shape\n{BY_ROWS}", StreamForm.OTHER, id="four are"),
    ],
)
def test_a_layer_may_show_another_form(lines: str, form: StreamForm) -> None:
    assert form_of(lines) is form


@pytest.mark.parametrize(
    ("argument", "form"),
    [
        ("cu_seq_lens_q=mask", StreamForm.PACKED),
        ("cu_seqlens=mask.cumsum(0)", StreamForm.PACKED),
        pytest.param("cu_seq_lens_q=None", StreamForm.ROWS, id="no lengths are given"),
        pytest.param("sliding_window=4", StreamForm.ROWS, id="a window is no length of a sequence"),
    ],
)
def test_attention_that_is_told_where_sequences_begin_has_them_in_one_row(argument: str, form: StreamForm) -> None:
    assert form_of(BY_ROWS, call=CALL.replace("scaling=1.0", argument)) is form


@pytest.mark.parametrize(
    ("returned", "form"),
    [
        pytest.param("(x, states), (mask, x)", StreamForm.SEVERAL, id="two tensors beside each other"),
        pytest.param("x, (mask, states)", StreamForm.ROWS, id="something beside the stream"),
        pytest.param("(x,), mask", StreamForm.ROWS, id="one tensor in a tuple"),
    ],
)
def test_a_layer_shows_by_what_it_returns_whether_one_tensor_runs_on(returned: str, form: StreamForm) -> None:
    lines = f"x = x + self.attention(self.norm1(x), mask)[0]\nx = x + self.mlp(self.norm2(x))\nreturn {returned}"
    (entry,) = plan_module(facts_of(ATTENTION, MLP, layer(lines), STACK)).entries
    assert entry.form is form


TORCH = """
class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2{arguments})

    def forward(self, states, mask=None):
        return self.inner({query}, states, states)
"""


@pytest.mark.parametrize(
    ("arguments", "query", "form"),
    [
        ("", "states", StreamForm.LENGTH_FIRST),
        (", dropout=0.1", "query=states + mask", StreamForm.LENGTH_FIRST),
        (", batch_first=True", "states", StreamForm.ROWS),
        (", batch_first=config.rows", "states", StreamForm.ROWS),
        (", **config.options", "states", StreamForm.ROWS),
        ("", "states.transpose(0, 1)", StreamForm.ROWS),
    ],
)
def test_torch_attention_reads_the_length_first_unless_it_is_told_otherwise(
    arguments: str, query: str, form: StreamForm
) -> None:
    attention = TORCH.format(arguments=arguments, query=query)
    if "query=" in query:
        attention = attention.replace("states, states)", "key=states, value=states)")
    (entry,) = plan_module(facts_of(attention, MLP, layer(ATTENDED), STACK)).entries
    assert entry.form is form


MODEL = """
from ...modeling_utils import PreTrainedModel
from .configuration_tiny import TinyConfig

class TinyModel(PreTrainedModel):
    def __init__(self, config: TinyConfig):
        super().__init__(config)
        self.embed = nn.Embedding(8, 8)
        self.patches = nn.Conv2d(3, 8, 4)
        self.norm = nn.LayerNorm(8)
        self.project = nn.Linear(8, 8)
        self.positions = nn.Parameter(torch.zeros(4, 8))
        self.queries = nn.Parameter(torch.zeros(4, 8))
        self.layers = nn.ModuleList([Layer(config) for _ in range(3)])
    def forward(self, input_ids=None, inputs_embeds=None, pixels=None, hidden=False):
        if inputs_embeds is None:
            inputs_embeds = self.embed(input_ids)
{lines}
        for layer in self.layers:
            if hidden:
                x = x.transpose(0, 1)
                states = x
                x = x.transpose(0, 1)
            x = layer(x)
        return x.transpose(0, 1)
"""


def form_on_the_way(lines: str) -> StreamForm:
    facts = facts_of(ATTENTION, MLP, layer(ATTENDED), MODEL.replace("{lines}", indent(dedent(lines), " " * 8)))
    entry = ModelEntry("tiny", facts.path, "TinyConfig", "", "TinyModel", {})
    base, _ = plan_base(facts, entry, Candidates(facts, Kinds(facts)).has_attention)
    assert base is not None
    (stack,) = base.stacks
    return stack.form


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param("x = inputs_embeds", id="as they are"),
        pytest.param("x = self.norm(inputs_embeds.transpose(0, 1).transpose(0, 1))", id="turned around twice"),
        pytest.param("x = inputs_embeds + self.positions.unsqueeze(0)", id="positions are the same for all rows"),
        pytest.param("x = self.queries.unsqueeze(0).expand(pixels.shape[0], -1, -1)", id="queries that rows get"),
        pytest.param("x = self.queries.unsqueeze(0).repeat(pixels.shape[0], 1, 1)", id="queries that are repeated"),
        pytest.param("x = self.queries.repeat(pixels.shape[0], 4, 1, 1).flatten(0, 1)", id="four that become three"),
        pytest.param(
            "x = torch.cat([inputs_embeds[:1].unsqueeze(0), pixels.unsqueeze(0)], dim=0)",
            id="rows of which a batch is made",
        ),
        pytest.param("x = inputs_embeds[:, 0].unsqueeze(1)", id="one position of each row"),
        pytest.param("x = inputs_embeds.mean(1).unsqueeze(1)", id="a mean over positions"),
        pytest.param(
            "x = inputs_embeds.transpose(0, 1) if hidden else inputs_embeds", id="turned around under a condition"
        ),
    ],
)
def test_a_way_to_the_layers_that_shows_nothing_else_brings_rows(lines: str) -> None:
    assert form_on_the_way(lines) is StreamForm.ROWS


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param("x = self.patches(pixels).flatten(2).transpose(1, 2)", id="an image, with the channels last"),
        pytest.param("x = self.patches(pixels).flatten(2).permute(0, 2, 1)", id="the same by permuting"),
        pytest.param(
            "x = pixels.unsqueeze(0) if pixels.dim() == 2 else pixels", id="an input that may lack its batch"
        ),
        pytest.param("x = pixels.permute(1, 0, 2).reshape(4, -1, 8)", id="what is counted anew behind a turn"),
    ],
)
def test_rows_of_an_image_are_none_of_the_tokens_that_are_read_too(lines: str) -> None:
    assert form_on_the_way(lines) is StreamForm.NO_TOKENS


@pytest.mark.parametrize(
    ("tokens", "form"),
    [
        pytest.param("input_ids.transpose(0, 1).contiguous()", StreamForm.LENGTH_FIRST, id="turned before"),
        pytest.param("input_ids", StreamForm.ROWS, id="as they are"),
        pytest.param("input_ids.transpose(0, 1).transpose(0, 1)", StreamForm.ROWS, id="turned twice"),
    ],
)
def test_tokens_that_are_turned_before_they_are_embedded_give_no_rows(tokens: str, form: StreamForm) -> None:
    """Then what the table gives has no rows either, which prompts and invertible adapters would count."""
    lines = f"""
    if pixels is not None:
        pixels = pixels.transpose(0, 1)
    x = self.embed({tokens}) if hidden else {"pixels" if form is StreamForm.LENGTH_FIRST else "inputs_embeds"}
    """
    text = MODEL.replace("{lines}", indent(dedent(lines), " " * 8))
    facts = facts_of(ATTENTION, MLP, layer(ATTENDED), text)
    entry = ModelEntry("tiny", facts.path, "TinyConfig", "", "TinyModel", {})
    base, _ = plan_base(facts, entry, Candidates(facts, Kinds(facts)).has_attention)
    assert base is not None
    assert base.stacks[0].form is form
    assert bool(base.embedding_output) is False or form is StreamForm.ROWS


POOL = """
class Pool(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.conv = nn.Conv1d(8, 8, kernel_size=4{stride})

    def forward(self, states):
        return self.conv(states.transpose(1, 2)).transpose(1, 2)


class Both(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.words = nn.Embedding(8, 8)
        self.patches = nn.Conv2d(3, 8, 4)

    def forward(self, input_ids, pixels):
        return torch.cat([{parts}], dim={dim}), None


class Tower(PreTrainedModel):
    def __init__(self, config: TinyConfig):
        super().__init__(config)
        self.layers = nn.ModuleList([Layer(config) for _ in range(3)])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x
"""


def form_beside(
    lines: str, stride: str = ", stride=4", parts: str = "self.words(input_ids), self.patches(pixels)", dim: str = "1"
) -> StreamForm:
    """With a module that gathers positions, `self.pool`, and one that embeds text and an image, `self.both`."""
    more = "        self.pool = Pool(config)\n        self.both = Both(config)\n        self.embed ="
    body = MODEL.replace("        self.embed =", more).replace("{lines}", indent(dedent(lines), " " * 8))
    made = POOL.replace("{stride}", stride).replace("{parts}", parts).replace("{dim}", dim)
    facts = facts_of(ATTENTION, MLP, layer(ATTENDED), made, body)
    entry = ModelEntry("tiny", facts.path, "TinyConfig", "", "TinyModel", {})
    base, _ = plan_base(facts, entry, Candidates(facts, Kinds(facts)).has_attention)
    assert base is not None
    (stack,) = base.stacks
    return stack.form


@pytest.mark.parametrize(
    ("lines", "options"),
    [
        pytest.param("x = self.pool(inputs_embeds)", {"stride": ""}, id="a convolution that gives as many positions"),
        pytest.param("x = self.pool(inputs_embeds)", {"stride": ", stride=1"}, id="that steps over none"),
        pytest.param("x = inputs_embeds + self.pool(inputs_embeds)", {}, id="what is added to tokens is as long"),
        pytest.param("x = self.both(input_ids, pixels)[0]", {"dim": "-1"}, id="wider, not longer"),
        pytest.param("x = torch.cat([inputs_embeds, self.embed(input_ids)], dim=1)", {}, id="tokens twice"),
        pytest.param(
            "x = inputs_embeds + self.positions\nif hidden:\n    x = self.both(input_ids=pixels, pixels=pixels)[0] + x",
            {},
            id="what is called tokens and is none",
        ),
    ],
)
def test_what_keeps_positions_or_is_not_understood_brings_rows(lines: str, options: dict[str, str]) -> None:
    assert form_beside(lines, **options) is StreamForm.ROWS


@pytest.mark.parametrize(
    ("lines", "options", "form"),
    [
        ("x = self.pool(inputs_embeds)", {}, StreamForm.GATHERED),
        ("x = inputs_embeds.scatter_reduce(1, input_ids, pixels, 'amax')", {}, StreamForm.GATHERED),
        ("x = self.both(input_ids, pixels)[0]", {}, StreamForm.FOLLOWED),
        (
            "x = self.both(input_ids, pixels)[0]",
            {"parts": "self.patches(pixels), self.words(input_ids)"},
            StreamForm.JOINED,
        ),
        ("x = nn.functional.pad(inputs_embeds, (0, 0, 0, hidden))", {}, StreamForm.FOLLOWED),
        ("x = self.embed(nn.functional.pad(input_ids, (0, hidden), value=1))", {}, StreamForm.FOLLOWED),
        ("x = nn.functional.pad(inputs_embeds, (0, 0, 1, 1))", {}, StreamForm.PADDED),
        ("x = torch.cat([inputs_embeds] + [self.queries], 1)", {}, StreamForm.FOLLOWED),
    ],
)
def test_a_way_to_the_layers_may_lengthen_or_gather_tokens(
    lines: str, options: dict[str, str], form: StreamForm
) -> None:
    assert form_beside(lines, **options) is form


IN_TILES = """
class Added(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.table = nn.Embedding(8, 8)

    def forward(self, states, places):
        added = self.table(places)
        if places is not None:
            added = added * 2
        states = states + added
        return {given}


class List(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layers = nn.ModuleList([Layer(config) for _ in range(3)])

    def forward(self, states):
        for layer in self.layers:
            states = layer(states)
        return BaseModelOutput(last_hidden_state=states)


class TinyModel(PreTrainedModel):
    main_input_name = "pixels"

    def __init__(self, config: TinyConfig):
        super().__init__(config)
        self.patches = nn.Conv2d(3, 8, 4)
        self.norm = nn.LayerNorm(8)
        self.tiles = Added(config)
        self.local = List(config)
        self.whole = List(config)

    def forward(self, pixels, places=None):
        states = self.norm(self.patches(pixels).flatten(2).transpose(1, 2).reshape(2, 4, -1, 8))
        missing = (8 - (states.shape[-2] % 8)) % 8
        padding = {counts}
        states = F.pad({padded}, padding, mode="constant", value=0)
        states = {first}
        states = self.norm(self.local(states.view(2, -1, 8)).last_hidden_state)
        states = self.tiles(states.reshape(2, 4, -1, 8), places)
        states = {between}
        return self.whole(states.reshape(2, -1, 8)).last_hidden_state
"""


def forms_in_tiles(
    counts: str = "(0, 0, 0, missing)",
    padded: str = "states",
    first: str = "states",
    between: str = "states",
    given: str = "states",
) -> list[StreamForm]:
    """Of two lists, `local` and `whole`, behind patches that are padded."""
    body = IN_TILES
    for name, text in {
        "counts": counts,
        "padded": padded,
        "first": first,
        "between": between,
        "given": given,
    }.items():
        body = body.replace("{" + name + "}", text)
    start = MODEL[: MODEL.index("class TinyModel")]
    facts = facts_of(ATTENTION, MLP, layer(ATTENDED), "import torch.nn.functional as F\n", start, body)
    entry = ModelEntry("tiny", facts.path, "TinyConfig", "", "TinyModel", {})
    base, _ = plan_base(facts, entry, Candidates(facts, Kinds(facts)).has_attention)
    assert base is not None
    return [stack.form for stack in base.stacks]


@pytest.mark.parametrize(
    "counts",
    [
        pytest.param("(0, 0, 0, missing)", id="behind"),
        pytest.param("(0, 0, missing, 0)", id="in front"),
        pytest.param("[0, 0, 0, 1]", id="one position, in a list"),
    ],
)
def test_lists_behind_padding_of_positions_hold_some_of_no_input(counts: str) -> None:
    """Also the second list, which goes on with what the first one gave, with something added to it."""
    assert forms_in_tiles(counts) == [StreamForm.PADDED, StreamForm.PADDED]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"counts": "(0, missing)"}, id="wider vectors"),
        pytest.param({"counts": "(0, missing, 0, 0)"}, id="wider vectors, no position more"),
        pytest.param({"counts": "(0, missing, 0, missing)"}, id="a map, in both dimensions"),
        pytest.param({"counts": "(0, 0, 0, 0)"}, id="nothing"),
        pytest.param({"counts": "(0, 0, 0, missing, 0, missing)"}, id="a grid, whose windows are taken apart"),
        pytest.param({"counts": "places"}, id="counts that do not show"),
        pytest.param({"first": "states[:, :, :-missing]"}, id="it is cut off again ahead of the layers"),
        pytest.param({"padded": "states", "first": "states if places else pixels"}, id="in one of two branches"),
        pytest.param({"first": "self.patches(states)"}, id="what patches are made of is padded"),
    ],
)
def test_what_adds_no_empty_positions_brings_no_padding(changes: dict[str, str]) -> None:
    assert StreamForm.PADDED not in forms_in_tiles(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"between": "states[:, :, :-missing]"}, id="it is cut off between them"),
        pytest.param({"given": "self.table(places)"}, id="a module between them gives something else"),
    ],
)
def test_a_list_that_does_not_go_on_with_the_padding_has_none(changes: dict[str, str]) -> None:
    first, second = forms_in_tiles(**changes)
    assert first is StreamForm.PADDED and second is not StreamForm.PADDED


@pytest.mark.parametrize(
    ("table", "form"),
    [
        pytest.param("", StreamForm.ROWS, id="without a table of tokens it says itself that it reads none"),
        pytest.param(
            "    def get_input_embeddings(self):\n        return self.words\n\n",
            StreamForm.NO_TOKENS,
            id="with one it reads tokens of its own",
        ),
    ],
)
def test_a_tower_that_is_a_model_and_is_given_no_tokens_of_the_whole(table: str, form: StreamForm) -> None:
    body = MODEL.replace("nn.ModuleList([Layer(config) for _ in range(3)])", "Tower(config)")
    body = body[: body.index("        for layer in")].replace("{lines}", "        return self.layers(pixels)")
    tower = POOL[POOL.index("class Tower") :].replace("    def forward", f"{table}    def forward")
    tower = tower.replace("        self.layers", "        self.words = nn.Embedding(8, 8)\n        self.layers")
    facts = facts_of(ATTENTION, MLP, layer(ATTENDED), tower, body)
    entry = ModelEntry("tiny", facts.path, "TinyConfig", "", "TinyModel", {})
    base, _ = plan_base(facts, entry, Candidates(facts, Kinds(facts)).has_attention)
    assert base is not None
    assert [stack.form for stack in base.stacks] == [form]


@pytest.mark.parametrize(
    ("lines", "form"),
    [
        ("x = self.norm(inputs_embeds.transpose(0, 1))", StreamForm.LENGTH_FIRST),
        ("x = self.project(inputs_embeds).permute(1, 0, 2)", StreamForm.LENGTH_FIRST),
        ("x = self.patches(pixels).flatten(2).permute(2, 0, 1)", StreamForm.LENGTH_FIRST),
        ("x = (inputs_embeds + self.positions).transpose(1, 0)", StreamForm.LENGTH_FIRST),
        ("x = self.norm(self.patches(pixels).flatten(1).T.unsqueeze(0))", StreamForm.PACKED),
        ("x = inputs_embeds.unsqueeze(2).expand(-1, -1, 4, -1).contiguous()", StreamForm.OTHER),
        ("x = self.patches(pixels).permute(0, 2, 3, 1)", StreamForm.OTHER),
        ("x = self.queries.repeat(pixels.shape[0], 4, 1, 1)", StreamForm.OTHER),
        ("x = torch.cat((self.queries.repeat(hidden, 4, 1, 1), pixels), dim=2).to(hidden)", StreamForm.OTHER),
        ("x = inputs_embeds + self.norm(self.queries.repeat(hidden, 4, 1, 1))", StreamForm.OTHER),
        ("x = torch.cat((self.project(pixels), self.norm(inputs_embeds)), dim=1)", StreamForm.JOINED),
        (
            "x = inputs_embeds\nif pixels is not None:\n    x = torch.cat([self.patches(pixels), x], dim=1)",
            StreamForm.JOINED,
        ),
        ("x = self.embed(torch.cat([pixels, input_ids], dim=1))[:, hidden:] + self.positions", StreamForm.JOINED),
        ("x = torch.cat([pixels, self.patches(input_ids=input_ids)], dim=-2)", StreamForm.JOINED),
    ],
)
def test_a_way_to_the_layers_may_show_another_form(lines: str, form: StreamForm) -> None:
    assert form_on_the_way(lines) is form


REGULATOR = """
def regulated(states, counts):
    counts = counts.round().long()
    padded = torch.zeros((len(states), counts.sum(1).max(), states.size(2)))
    for i, (row, count) in enumerate(zip(states, counts)):
        repeated = torch.repeat_interleave({repeated}, dim=0)
        padded[i, : repeated.size(0)] = repeated
    return padded


"""


@pytest.mark.parametrize(
    ("lines", "repeated", "form"),
    [
        pytest.param("x = regulated(inputs_embeds, pixels)", "row, 2", StreamForm.ROWS, id="all equally often"),
        pytest.param(
            "x = regulated(inputs_embeds, pixels)", "states, counts", StreamForm.ROWS, id="rows of the batch"
        ),
        pytest.param(
            "x = inputs_embeds.repeat_interleave(pixels, dim=0)", "row, 2", StreamForm.ROWS, id="rows, at once"
        ),
        pytest.param("x = inputs_embeds.repeat_interleave(pixels, dim=2)", "row, 2", StreamForm.ROWS, id="the width"),
        pytest.param(
            "x = inputs_embeds.repeat_interleave(hidden, dim=1)", "row, 2", StreamForm.SPREAD, id="an argument"
        ),
        pytest.param("x = regulated(inputs_embeds, pixels)", "row, count", StreamForm.SPREAD, id="row by row"),
        pytest.param(
            "x = torch.repeat_interleave(inputs_embeds, pixels, dim=1)", "row, 2", StreamForm.SPREAD, id="at once"
        ),
    ],
)
def test_a_token_may_stand_at_as_many_positions_as_were_computed(lines: str, repeated: str, form: StreamForm) -> None:
    body = MODEL.replace("{lines}", indent(dedent(lines), " " * 8))
    facts = facts_of(ATTENTION, MLP, layer(ATTENDED), REGULATOR.replace("{repeated}", repeated), body)
    entry = ModelEntry("tiny", facts.path, "TinyConfig", "", "TinyModel", {})
    base, _ = plan_base(facts, entry, Candidates(facts, Kinds(facts)).has_attention)
    assert base is not None
    assert base.stacks[0].form is form


BEHIND = """
class TinyModel(PreTrainedModel):
    def __init__(self, config: TinyConfig):
        super().__init__(config)
        self.embed = nn.Embedding(8, 8)
        self.norm = nn.LayerNorm(8)
        self.project = nn.Linear(8, 8)
        self.mixer = Mixer(8)
        self.layers = nn.ModuleList([Layer(config) for _ in range(3)])
        self.behind = nn.ModuleList([Layer(config) for _ in range(3)])

    def forward(self, input_ids, pixels):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x)
        rows = torch.arange(len(x))
{lines}
        for layer in self.behind:
            y = layer(y)
        return BaseModelOutput(last_hidden_state=y)
"""


def form_behind(lines: str) -> StreamForm:
    """Of a list whose hidden states `lines` make of those that another list gave."""
    text = BEHIND.replace("{lines}", indent(dedent(lines), " " * 8))
    facts = facts_of(ATTENTION, MLP, layer(ATTENDED), text)
    entry = ModelEntry("tiny", facts.path, "TinyConfig", "", "TinyModel", {})
    base, _ = plan_base(facts, entry, Candidates(facts, Kinds(facts)).has_attention)
    assert base is not None
    return {stack.path: stack.form for stack in base.stacks}["behind"]


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param("y = x", id="the states themselves"),
        pytest.param("y = x[:, 1:]", id="a slice keeps positions"),
        pytest.param("y = x[:, rows]", id="several positions of each row"),
        pytest.param("y = x[rows[:, None], input_ids]", id="an index of several positions of each row"),
        pytest.param("y = x[:, :, 0].unsqueeze(0)", id="one of the width"),
        pytest.param("y = x[0]", id="one row of the batch"),
        pytest.param("y = x.view(3, -1, 4, 8)[:, 0]", id="of a view, whose second dimension may be another"),
        pytest.param("y = self.mixer(x)[:, 0].unsqueeze(0)", id="of what is not understood"),
        pytest.param("y = self.mixer(x[:, 0])", id="what is picked becomes something that is not understood"),
        pytest.param("y = x[:, 0].view(1, -1, 8)", id="counted anew behind it"),
        pytest.param("y = x[:, 0].unsqueeze(0) if pixels is None else x", id="in one of two branches"),
    ],
)
def test_states_behind_another_list_keep_the_positions_of_its_tokens(lines: str) -> None:
    assert form_behind(lines) is not StreamForm.GATHERED


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(
            "y = self.norm(x)[rows, input_ids.argmax(-1)].unsqueeze(0).expand(4, -1, -1)", id="that of a token"
        ),
        pytest.param("y = self.project(x[:, 0]).unsqueeze(0).expand(4, -1, -1)", id="the first"),
        pytest.param(
            "out = BaseModelOutput(last=x, pooled=x[:, -1])\ny = out[1].unsqueeze(0).expand(4, -1, -1)",
            id="a field of an output",
        ),
        pytest.param(
            "z = x[rows, 0] if pixels is None else x[:, 0]\ny = z.unsqueeze(0).expand(4, -1, -1)", id="in each branch"
        ),
    ],
)
def test_one_state_of_each_row_stands_for_a_text(lines: str) -> None:
    assert form_behind(lines) is StreamForm.GATHERED


def plan(model_type: str) -> ModelPlan:
    found = plan_model(open_release(), model_type, verdicts=NO_VERDICTS)
    assert isinstance(found, ModelPlan)
    return found


def test_reft_is_left_out_where_no_list_of_layers_has_rows() -> None:
    found = plan("fsmt")
    (reft,) = (entry for entry in found.methods if entry.method is Method.REFT)
    assert not reft.supported and reft.location is not None
    assert "encoder.layers" in reft.reason and "in front of the batch" in reft.reason
    assert found.supports(Method.LORA) and found.supports(Method.BOTTLENECK)


def test_reft_holds_for_the_models_inside_that_have_rows_and_says_which_have_none() -> None:
    found = plan("qwen2_vl")
    forms = {tower.base.class_name: [stack.form for stack in tower.base.stacks] for tower in found.towers}
    images, text = "Qwen2VisionTransformerPretrainedModel", "Qwen2VLTextModel"
    assert forms == {images: [StreamForm.PACKED], text: [StreamForm.ROWS]}
    reft = {
        tower.base.class_name: next(one for one in tower.methods if one.method is Method.REFT)
        for tower in found.towers
    }
    assert not reft[images].supported and "stand in one row" in reft[images].reason
    assert reft[text].supported and found.supports(Method.REFT)


def test_reft_stays_out_of_tiles_that_a_model_pads_to_a_multiple() -> None:
    found = plan("mllama")
    tower = next(one for one in found.towers if one.base.class_name == "MllamaVisionModel")
    assert [stack.form for stack in tower.base.stacks] == [StreamForm.PADDED, StreamForm.PADDED]
    (reft,) = (entry for entry in tower.methods if entry.method is Method.REFT)
    assert not reft.supported and "transformer.layers" in reft.reason and "hold nothing" in reft.reason
    assert found.supports(Method.REFT)  # in the text


def test_reft_stays_out_of_a_model_inside_that_is_given_patches_made_of_tokens() -> None:
    """BLT's, which has no tokens of its own to say otherwise; the decoder behind it goes on with the tokens, and reads them too."""
    towers = {tower.base.class_name: tower for tower in plan("blt").towers}
    forms = {name: [stack.form for stack in tower.base.stacks] for name, tower in towers.items()}
    assert forms == {
        "BltLocalEncoder": [StreamForm.ROWS, StreamForm.GATHERED],
        "BltGlobalTransformer": [StreamForm.GATHERED],
        "BltLocalDecoder": [StreamForm.ROWS, StreamForm.ROWS],
    }
    (reft,) = (entry for entry in towers["BltGlobalTransformer"].methods if entry.method is Method.REFT)
    assert not reft.supported and "stands for several tokens" in reft.reason
