"""Models inside of a model that are base models by themselves, and classes that only look as if they were."""

from __future__ import annotations

from textwrap import dedent

import pytest

from adapter_codegen.model import Method, TowerPlan
from adapter_codegen.parse import AutoMappings, ModelEntry, parse_module
from adapter_codegen.plan.flow.kinds import Kinds
from adapter_codegen.plan.module import plan_module
from adapter_codegen.plan.parts.towers import TowerPlanner, Towers
from adapter_codegen.plan.stream.base import plan_base
from adapter_codegen.plan.stream.lists.candidates import Candidates
from adapter_codegen.plan.stream.stacked import with_layers
from adapter_codegen.upstream import open_release
from plan_snippets import tiny_decoder

PATH = "models/tiny/modeling_tiny.py"
TEXT = tiny_decoder("TinyTextConfig")
BASE = """
class TinyModel(TinyPreTrainedModel):
    def __init__(self, config: TinyConfig):
        super().__init__(config)
        self.decoder = TinyDecoder(config)

    def forward(self, input_ids=None, inputs_embeds=None):
        return self.decoder(input_ids, inputs_embeds)
"""


def planned(more: str = "", base: str = BASE, beside: str = "", answers: bool = True) -> Towers:
    """The towers of a file with these classes.

    Args:
        beside: the base model of another model type of the same file.
    """
    facts = parse_module(TEXT + dedent(base) + dedent(more), PATH)
    bases = {"tiny": ("TinyModel",), **({"beside": (beside,)} if beside else {})}
    entries = {name: ModelEntry(name, PATH, "TinyConfig", "", names[0], {}) for name, names in bases.items()}
    mappings = AutoMappings(open_release(), {}, bases, {}, {"beside": "tiny"}, entries, dict.fromkeys(bases, PATH))
    is_layer, found = Candidates(facts, Kinds(facts)).is_layer, plan_module(facts)
    alone, _ = plan_base(facts, entries["tiny"], is_layer)
    assert alone is not None
    whole = with_layers(alone, found)
    known = frozenset({whole.class_name})
    return TowerPlanner(facts, mappings, entries["tiny"], whole, known, found, is_layer, lambda _: answers).plan()


def only(towers: Towers) -> TowerPlan:
    (tower,) = towers.plans
    return tower


def lacking(tower: TowerPlan) -> dict[Method, str]:
    return {one.method: one.reason for one in tower.methods if not one.supported}


def test_a_model_in_the_base_model_is_a_base_model_with_paths_of_its_own() -> None:
    tower = only(planned())
    assert tower.base.class_name == "TinyDecoder"
    assert [stack.path for stack in tower.base.stacks] == ["layers"]
    assert (tower.base.token_embeddings, tower.base.embedding_output) == ("embed", "embed")
    assert not lacking(tower)


def test_a_model_that_only_another_class_of_the_file_holds_is_one_with_its_own_layers() -> None:
    more = """
    class DepthLayer(Layer): ...

    class TinyDepth(TinyPreTrainedModel):
        def __init__(self, config: TinyTextConfig):
            super().__init__(config)
            self.layers = nn.ModuleList([DepthLayer(config) for _ in range(2)])

        def forward(self, states):
            for layer in self.layers:
                states = layer(states)
            return states

    class TinyForDepth(TinyPreTrainedModel):
        def __init__(self, config: TinyConfig):
            super().__init__(config)
            self.model = TinyModel(config)
            self.depth = TinyDepth(config)

        def forward(self, input_ids=None):
            return self.depth(self.model(input_ids))
    """
    towers = planned(more)
    assert [tower.base.class_name for tower in towers.plans] == ["TinyDecoder", "TinyDepth"]
    assert [entry.plan.class_name for entry in towers.entries] == ["Layer", "DepthLayer"]
    assert Method.INVERTIBLE in lacking(towers.plans[1])


HALVES = """
class TinyModel(TinyPreTrainedModel):
    def __init__(self, config: TinyConfig):
        super().__init__(config)
        self.encoder = TinyHalf(config)

    def forward(self, input_ids=None, encoder_outputs=None):
        return self.encoder(input_ids)

class TinyHalf(TinyPreTrainedModel):
    def __init__(self, config: {config}):
        super().__init__(config)
        self.embed = nn.Embedding(9, 8)
        self.layers = nn.ModuleList([Layer(config) for _ in range(2)])

    def forward(self, input_ids=None, inputs_embeds=None{more}):
        states = self.embed(input_ids) if inputs_embeds is None else inputs_embeds
        for layer in self.layers:
            states = layer(states)
        return states
"""


@pytest.mark.parametrize(
    ("config", "more", "lost"),
    [
        pytest.param("TinyConfig", "", {Method.PROMPT_TUNING}, id="an encoder"),
        pytest.param("TinyConfig", ", past_key_values=None", {Method.PROMPT_TUNING, Method.REFT}, id="a decoder"),
        pytest.param("TinyHalfConfig", "", set(), id="an encoder with a config of its own"),
        pytest.param(
            "TinyHalfConfig",
            ", past_key_values=None",
            {Method.PROMPT_TUNING, Method.REFT},
            id="a decoder with a config of its own, which may say the same",
        ),
    ],
)
def test_what_goes_by_a_config_of_two_halves_is_refused_to_one(config: str, more: str, lost: set[Method]) -> None:
    towers = {one.base.class_name: one for one in planned(base=HALVES.format(config=config, more=more)).plans}
    reasons = lacking(towers["TinyHalf"])
    assert reasons.keys() == lost
    assert all("one half" in reason for reason in reasons.values())


@pytest.mark.parametrize(
    ("more", "lost", "reason"),
    [
        pytest.param(", patch_ids=None", {Method.PROMPT_TUNING}, "as patch_ids may have an entry", id="patches"),
        pytest.param(
            ", past_key_values=None, use_cache=None, **kwargs", set(), "", id="what a prompt does not change"
        ),
        pytest.param(
            ", decoder_input_ids=None",
            {Method.PROMPT_TUNING, Method.REFT},
            "does not read its tokens as input_ids",
            id="tokens by another name",
        ),
    ],
)
def test_a_method_is_refused_to_a_tower_by_its_arguments(more: str, lost: set[Method], reason: str) -> None:
    base = HALVES.format(config="TinyConfig", more=more).replace(", encoder_outputs=None", "")
    towers = {one.base.class_name: one for one in planned(base=base).plans}
    reasons = lacking(towers["TinyHalf"])
    assert reasons.keys() == lost
    assert all(reason in text for text in reasons.values())


TOWER = """
class {name}(TinyPreTrainedModel):
    def __init__(self, config: TinyTextConfig):
        super().__init__(config)
        self.layers = nn.ModuleList([Layer(config) for _ in range(2)])
        {built}

    def forward(self, states):
        for layer in self.layers:
            states = layer(states)
        return {returned}
"""
HOLDS = """
class TinyForTower(TinyPreTrainedModel):
    def __init__(self, config: TinyConfig):
        super().__init__(config)
        self.tower = TinyTower(config)

    def forward(self, states):
        {call}
        return states
"""


def tower(name: str = "TinyTower", built: str = "self.norm = nn.LayerNorm(8)", returned: str = "states") -> str:
    return TOWER.format(name=name, built=built, returned=returned)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        pytest.param(
            tower(built="self.other = OtherModel(config)"), "models of other files", id="a model of another file in it"
        ),
        pytest.param(
            "from ..auto import AutoModel\n" + tower(built="self.other = AutoModel.from_config(config)"),
            "models of other files",
            id="a model of an auto class in it",
        ),
        pytest.param(
            tower() + HOLDS.format(call="with torch.no_grad():\n            states = self.tower(states)"),
            "without gradients",
            id="one that is run without gradients",
        ),
        pytest.param(tower(returned="states.argmin(-1)"), "codes", id="a tokenizer"),
        pytest.param(
            tower(returned="states, states > 0") + HOLDS.format(call="_, cuts = self.tower(states)"),
            "comparisons",
            id="one of which a comparison alone is read",
        ),
        pytest.param(
            tower("TinyBase") + "class TinyTower(TinyBase):\n    pass\n",
            "abstract",
            id="an abstract base, and another name of it",
        ),
        pytest.param(
            tower() + HOLDS.format(call="states = self.tower(states)") + "class TinyOld(TinyTower):\n    pass\n",
            "another name of TinyTower",
            id="an old name",
        ),
    ],
)
def test_what_looks_alike_gets_no_class(more: str, reason: str) -> None:
    towers = planned(more)
    assert reason in " ".join(about.message for about in towers.left)
    assert "TinyTower" not in {one.base.class_name for one in towers.plans} or "another name" in reason


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(
            tower(returned="states, states.argmax(-1)"), id="one that returns its states beside their largest entries"
        ),
        pytest.param(
            tower()
            + HOLDS.format(
                call="with torch.no_grad():\n            states = self.tower(states)\n        states = self.tower(states)"
            ),
            id="one that is run with gradients too",
        ),
    ],
)
def test_what_is_trained_in_one_way_gets_a_class(more: str) -> None:
    assert "TinyTower" in {one.base.class_name for one in planned(more).plans}


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(
            """
            class TinyForCausalLM(TinyPreTrainedModel):
                def __init__(self, config: TinyConfig):
                    super().__init__(config)
                    self.model = TinyModel(config)
                    self.layers = nn.ModuleList([Layer(config) for _ in range(2)])

                def forward(self, input_ids=None):
                    return self.model(input_ids)
            """,
            id="a head with layers of its own around the base model",
        ),
        pytest.param(
            """
            class TinyWrapper(TinyPreTrainedModel):
                def __init__(self, config: TinyConfig):
                    super().__init__(config)
                    self.decoder = TinyDecoder(config)

                def forward(self, input_ids=None):
                    return self.decoder(input_ids)
            """,
            id="a wrapper around a tower",
        ),
        pytest.param("class TinyBare(TinyPreTrainedModel):\n    pass\n", id="one without layers"),
        pytest.param(
            """
            class TinyBlocks(nn.Module):
                def __init__(self, config):
                    super().__init__()
                    self.layers = nn.ModuleList([Layer(config) for _ in range(2)])

                def forward(self, states):
                    for layer in self.layers:
                        states = layer(states)
                    return states
            """,
            id="a module that is no model",
        ),
    ],
)
def test_what_is_no_candidate_is_not_spoken_of(more: str) -> None:
    towers = planned(more)
    assert only(towers).base.class_name == "TinyDecoder"
    assert not towers.left


BESIDE = tower("TinyTower") + HOLDS.format(call="states = self.tower(states)")


@pytest.mark.parametrize(("answers", "count"), [(True, 1), (False, 2)])
def test_a_tower_of_another_model_type_is_the_affair_of_that_type_if_it_answers_for_it(
    answers: bool, count: int
) -> None:
    assert len(planned(BESIDE, beside="TinyForTower", answers=answers).plans) == count


def test_a_base_model_of_another_type_is_none() -> None:
    assert not planned(beside="TinyDecoder").plans
