"""Classes beside the base model that hold its layers themselves, and those that only look as if they did."""

from __future__ import annotations

from textwrap import dedent, indent

import pytest

from adapter_codegen.model import HolderPlan, Method
from adapter_codegen.parse import AutoMappings, ModelEntry, parse_module
from adapter_codegen.plan.flow.kinds import Kinds
from adapter_codegen.plan.heads.holders import plan_holders
from adapter_codegen.plan.methods import plan_methods
from adapter_codegen.plan.module import plan_module
from adapter_codegen.plan.stream.base import plan_base
from adapter_codegen.plan.stream.lists.candidates import Candidates
from adapter_codegen.upstream import open_release
from plan_snippets import tiny_decoder

TEXT = tiny_decoder("TinyConfig") + dedent("""
    class TinyModel(TinyPreTrainedModel):
        def __init__(self, config: TinyConfig):
            super().__init__(config)
            self.decoder = TinyDecoder(config)

        def forward(self, input_ids=None, inputs_embeds=None):
            return self.decoder(input_ids, inputs_embeds)
    """)


def holders(
    name: str,
    build: str,
    more: str = "",
    bases: tuple[str, ...] = ("TinyModel",),
    usual_of_another: str = "TinyPart",
) -> tuple[HolderPlan, ...]:
    """What is planned of a head class whose constructor has these statements.

    Args:
        bases: what upstream's table of base models names for the type.
        usual_of_another: the base model of another model type.
    """
    text = TEXT + dedent(more)
    text += f"\nclass {name}(TinyPreTrainedModel):\n    def __init__(self, config: TinyConfig):\n"
    text += indent(f"super().__init__(config)\n{dedent(build)}", " " * 8)
    text += "\n    def forward(self, input_ids=None, inputs_embeds=None):\n"
    text += "        return self.score(self.decoder(input_ids, inputs_embeds))\n"
    facts = parse_module(text, "models/tiny/modeling_tiny.py")
    entry = ModelEntry("tiny", facts.path, "TinyConfig", "", "TinyModel", {"causal_lm": (name,)})
    mappings = AutoMappings(open_release(), {}, {"tiny": bases, "part": (usual_of_another,)}, {}, {})
    is_layer = Candidates(facts, Kinds(facts)).is_layer
    base, doubts = plan_base(facts, entry, is_layer)
    assert base is not None
    layers = plan_module(facts).entries
    assert layers
    return plan_holders(facts, mappings, entry, base, layers, is_layer, plan_methods(base, layers, doubts))


def test_a_head_class_with_the_parts_of_the_base_model_is_one() -> None:
    (plan,) = holders("TinyForCausalLM", "self.decoder = TinyDecoder(config)\nself.score = nn.Linear(8, 9)")
    assert plan.base.class_name == "TinyForCausalLM"
    assert [stack.path for stack in plan.base.stacks] == ["decoder.layers"]
    assert plan.head == ("score",)
    ((method, reason),) = plan.lacks
    assert method is Method.PROMPT_TUNING and "own forward" in reason


def test_a_parameter_of_a_head_belongs_to_it() -> None:
    build = (
        "self.decoder = TinyDecoder(config)\nself.score = nn.Linear(8, 9)\nself.scale = nn.Parameter(torch.ones(1))"
    )
    (plan,) = holders("TinyForCausalLM", build)
    assert plan.head == ("scale", "score")


def test_of_a_wrapper_the_wrapper_is_the_base_model() -> None:
    wrapper = """
    class TinyDecoderWrapper(TinyPreTrainedModel):
        def __init__(self, config: TinyConfig):
            super().__init__(config)
            self.decoder = TinyDecoder(config)

        def forward(self, *args, **kwargs):
            return self.decoder(*args, **kwargs)
    """
    (plan,) = holders(
        "TinyForCausalLM", "self.model = TinyDecoderWrapper(config)\nself.score = nn.Linear(8, 9)", wrapper
    )
    assert plan.base.class_name == "TinyDecoderWrapper"
    assert plan.head == ()
    assert dict(plan.lacks).keys() == {Method.PROMPT_TUNING, Method.INVERTIBLE}
    assert all("by which table" in reason for _, reason in plan.lacks)


SHORTER = """
    class TinyShorterModel(TinyPreTrainedModel):
        def __init__(self, config: TinyConfig):
            super().__init__(config)
            self.decoder = TinyDecoder(config)

        def forward(self, input_ids=None, inputs_embeds=None):
            return self.decoder(input_ids, inputs_embeds)
    """
AROUND_SHORTER = "self.model = TinyShorterModel(config)\nself.score = nn.Linear(8, 9)"


@pytest.mark.parametrize(
    "build", [AROUND_SHORTER, "self.model = TinyModel(config)"], ids=["with a head around it", "with none"]
)
def test_a_further_base_model_of_the_type_is_one(build: str) -> None:
    (plan,) = holders("TinyForCausalLM", build, SHORTER, bases=("TinyModel", "TinyShorterModel"))
    assert plan.base.class_name == "TinyShorterModel"
    assert [stack.path for stack in plan.base.stacks] == ["decoder.layers"]
    assert not plan.head and not plan.lacks


def test_a_further_base_model_that_is_the_usual_one_of_another_type_is_generated_there() -> None:
    bases = ("TinyModel", "TinyShorterModel")
    assert not holders("TinyForCausalLM", AROUND_SHORTER, SHORTER, bases, usual_of_another="TinyShorterModel")


def test_a_further_base_model_whose_layers_stand_elsewhere_is_none() -> None:
    elsewhere = SHORTER.replace("self.decoder", "self.other")
    assert not holders("TinyForCausalLM", AROUND_SHORTER, elsewhere, bases=("TinyModel", "TinyShorterModel"))


@pytest.mark.parametrize(
    ("build", "more"),
    [
        pytest.param("self.model = TinyModel(config)", "", id="it holds the base model"),
        pytest.param(
            "self.inner = TinyInner(config)",
            """
            class TinyInner(TinyPreTrainedModel):
                def __init__(self, config: TinyConfig):
                    super().__init__(config)
                    self.model = TinyModel(config)

                def forward(self, input_ids=None):
                    return self.model(input_ids)
            """,
            id="it holds a model that holds the base model",
        ),
        pytest.param("self.other = TinyDecoder(config)", "", id="its layers stand at another place"),
        pytest.param(
            "self.decoder = TinyDecoder(config)\nself.reader = OtherModel(config)",
            "",
            id="it holds a model of another file",
        ),
        pytest.param(
            "self.decoder = TinyDecoder(config)\nself.reader = AutoModel.from_config(config)",
            "from ..auto import AutoModel",
            id="it holds a model that an auto class makes",
        ),
        pytest.param(
            "self.decoder = TinyDecoder(config)\nself.part = TinyPart(config)",
            "class TinyPart(nn.Module): ...",
            id="it holds a model that is generated by itself",
        ),
        pytest.param("self.score = nn.Linear(8, 9)", "", id="it has no layers"),
        pytest.param(
            "self.model = TinyPart(config)",
            """
            class TinyPart(TinyPreTrainedModel):
                def __init__(self, config: TinyConfig):
                    super().__init__(config)
                    self.decoder = TinyDecoder(config)

                def forward(self, input_ids=None):
                    return self.decoder(input_ids)
            """,
            id="it wraps a base model that is generated by itself",
        ),
        pytest.param(
            "self.decoder = OtherDecoder(config)",
            """
            class OtherLayer(Layer): ...

            class OtherDecoder(TinyPreTrainedModel):
                def __init__(self, config: TinyConfig):
                    super().__init__(config)
                    self.layers = nn.ModuleList([OtherLayer(config) for _ in range(2)])

                def forward(self, states):
                    for layer in self.layers:
                        states = layer(states)
                    return states
            """,
            id="another model stands at the place",
        ),
    ],
)
def test_what_looks_alike_is_none(build: str, more: str) -> None:
    assert not holders("TinyForCausalLM", build, more)
