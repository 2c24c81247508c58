"""Whose the layers are where a model holds models of its own file: theirs, or its own."""

from __future__ import annotations

from textwrap import dedent

import pytest

from adapter_codegen.model import BasePlan, Method, ModelPlan, PartPlan, StackPlan
from adapter_codegen.parse import ModelEntry, parse_module
from adapter_codegen.plan import plan_model
from adapter_codegen.plan.flow.kinds import Kinds
from adapter_codegen.plan.stream.base import plan_base
from adapter_codegen.plan.stream.lists.candidates import Candidates
from adapter_codegen.plan.told.verdicts import NO_VERDICTS
from adapter_codegen.upstream import Release
from plan_snippets import tiny_decoder

PATH = "models/tiny/modeling_tiny.py"
VISION = """
class TinyVision(TinyPreTrainedModel):
    def __init__(self, config: TinyVisionConfig):
        super().__init__(config)
        self.patch = nn.Linear(9, 8)
        self.blocks = nn.ModuleList([Layer(config) for _ in range(2)])

    def forward(self, pixel_values=None):
        states = self.patch(pixel_values)
        for block in self.blocks:
            states = block(states)
        return states
"""
CODES = """
class TinyCodes({base}):
    def __init__(self, config: TinyCodesConfig):
        super().__init__({config})
        self.conv = nn.Conv2d(3, 8, 2)

    def forward(self, pixel_values):
        return self.conv(pixel_values)
"""
MODEL = """
class TinyModel(TinyPreTrainedModel):
    def __init__(self, config: TinyConfig):
        super().__init__(config)
        {build}

    def forward(self, input_ids=None, pixel_values=None{parameters}):
        {run}
"""
BOTH = "self.text = TinyDecoder(config.text_config)\n        self.vision = TinyVision(config.vision_config)\n        "
RUNS_BOTH = "return self.text(input_ids) + self.vision(pixel_values)"


def planned(
    build: str, run: str, parameters: str = "", text_config: str = "TinyTextConfig", codes: str = "TinyPreTrainedModel"
) -> BasePlan:
    """
    Args:
        codes: the base of the class that makes codes of images, which has no layers.
    """
    model = MODEL.format(build=build, run=run, parameters=parameters)
    without_layers = CODES.format(base=codes, config="" if codes == "nn.Module" else "config")
    facts = parse_module(tiny_decoder(text_config) + dedent(VISION) + dedent(without_layers) + dedent(model), PATH)
    entry = ModelEntry("tiny", PATH, "TinyConfig", "", "TinyModel", {})
    base, _ = plan_base(facts, entry, Candidates(facts, Kinds(facts)).is_layer)
    assert base is not None
    return base


def test_a_model_that_holds_all_layers_in_two_models_is_made_of_these() -> None:
    base = planned(BOTH, RUNS_BOTH)
    assert base.is_of_parts and not base.stacks
    assert [(part.path, part.class_name) for part in base.parts] == [("text", "TinyDecoder"), ("vision", "TinyVision")]
    assert [stack.path for stack in base.inner] == ["text.layers", "vision.blocks"]
    assert not base.embedding_output


OF_CODES = "self.codes = TinyCodes(config.codes_config)\n        "
TEXT = "self.text = TinyDecoder(config.text_config)\n        "
IMAGES = "self.vision = TinyVision(config.vision_config)\n        "


@pytest.mark.parametrize(
    ("build", "run", "codes", "parts"),
    [
        pytest.param(
            TEXT + OF_CODES, "return self.text(self.codes(pixel_values))", "TinyPreTrainedModel", ["text"], id="it is"
        ),
        pytest.param(
            TEXT + OF_CODES, "return self.text(self.codes(pixel_values))", "nn.Module", [], id="the other is no model"
        ),
        pytest.param(
            IMAGES + OF_CODES,
            "return self.vision(self.codes(pixel_values))",
            "TinyPreTrainedModel",
            [],
            id="no tokens",
        ),
    ],
)
def test_a_model_that_reads_tokens_is_a_part_beside_one_without_layers(
    build: str, run: str, codes: str, parts: list[str]
) -> None:
    base = planned(build, run, codes=codes)
    assert [part.path for part in base.parts] == parts
    assert bool(base.stacks) != bool(parts)


@pytest.mark.parametrize(
    ("build", "run", "parameters", "text_config", "stacks"),
    [
        pytest.param(
            "self.text = TinyDecoder(config.text_config)",
            "return self.text(input_ids)",
            "",
            "TinyTextConfig",
            ["text.layers"],
            id="one model, of which it is but a wrapper",
        ),
        pytest.param(
            BOTH + "self.own = nn.ModuleList([Layer(config) for _ in range(2)])",
            f"states = {RUNS_BOTH.removeprefix('return ')}\n        for layer in self.own:\n            states = layer(states)\n"
            "        return states",
            "",
            "TinyTextConfig",
            ["text.layers", "vision.blocks", "own"],
            id="a list of its own beside them",
        ),
        pytest.param(
            BOTH,
            "return self.text(input_ids) + (encoder_outputs or self.vision(pixel_values))",
            ", encoder_outputs=None",
            "TinyTextConfig",
            ["text.layers", "vision.blocks"],
            id="the halves of an encoder-decoder",
        ),
        pytest.param(
            "self.text = TinyDecoder(config)\n        self.vision = TinyVision(config.vision_config)",
            RUNS_BOTH,
            "",
            "TinyConfig",
            ["text.layers", "vision.blocks"],
            id="one of them with the config of the whole",
        ),
    ],
)
def test_other_models_of_the_file_leave_their_layers_to_the_whole(
    build: str, run: str, parameters: str, text_config: str, stacks: list[str]
) -> None:
    base = planned(build, run, parameters, text_config)
    assert not base.parts
    assert [stack.path for stack in base.stacks] == stacks


@pytest.mark.parametrize(
    ("model_type", "parts", "main"),
    [
        ("clip", ["text_model", "vision_model"], ["text_model", "vision_model"]),
        ("qwen2_vl", ["visual", "language_model"], ["language_model"]),
        pytest.param("emu3", ["text_model"], ["text_model"], id="the codes of its images have no layers"),
        ("sam", [], ["mask_decoder.transformer.layers"]),
        ("t5gemma", [], ["decoder.layers"]),
        pytest.param(
            "deepseek_ocr2", [], ["language_model.layers"], id="a tower holds another one, and cannot be planned"
        ),
    ],
)
def test_parts_of_upstream(release: Release, model_type: str, parts: list[str], main: list[str]) -> None:
    plan = plan_model(release, model_type, verdicts=NO_VERDICTS)
    assert isinstance(plan, ModelPlan)
    assert [part.path for part in plan.base.parts] == parts
    places: tuple[PartPlan | StackPlan, ...] = (*plan.base.parts, *plan.base.stacks)
    assert [place.path for place in places if place.is_main] == main
    assert {part.class_name for part in plan.base.parts} <= {tower.base.class_name for tower in plan.towers}


def test_a_method_holds_for_a_whole_if_a_part_has_a_place_for_it(release: Release) -> None:
    """Qwen2-VL's images are packed into one row, where a prefix has no place; its text has one. No text of CLIP takes a prompt."""
    of_images = plan_model(release, "qwen2_vl", verdicts=NO_VERDICTS)
    clip = plan_model(release, "clip", verdicts=NO_VERDICTS)
    assert isinstance(of_images, ModelPlan) and isinstance(clip, ModelPlan)
    assert of_images.supports(Method.PREFIX_TUNING) and of_images.supports(Method.PROMPT_TUNING)
    assert not clip.supports(Method.PROMPT_TUNING) and clip.supports(Method.INVERTIBLE)
