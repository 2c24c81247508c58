"""What an adapter model takes over of upstream's generation, and on which part of a model that holds others its heads stand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from adapter_codegen.model import BasePlan, Borrowed, Location, Making, Parameter, PartPlan, StackPlan, StaticHead
from adapter_codegen.parse import ModelEntry, parse_module
from adapter_codegen.plan.heads.flexible import feeding_config, plan_flexible_heads
from adapter_codegen.plan.heads.generating import borrowed, generation_of
from adapter_codegen.plan.heads.logits.chain import head_chain
from adapter_codegen.plan.heads.static import plan_static_heads
from adapter_codegen.plan.heads.unclear import Unclear
from adapter_codegen.upstream import Release, open_release

HEAD = """
import torch
from torch import nn
from ...generation import GenerationMixin
from ...modeling_utils import PreTrainedModel
from ...modeling_outputs import CausalLMOutputWithPast

class TinyPreTrainedModel(PreTrainedModel):
    base_model_prefix = "model"
    def prepare_inputs_for_generation(self, input_ids):
        return {"input_ids": input_ids}
    def shared(self):
        return 1

class TinyModel(TinyPreTrainedModel):
    def __init__(self, config): ...
    def forward(self, input_ids): ...

class Head(TinyPreTrainedModel, GenerationMixin):
    def __init__(self, config):
        super().__init__(config)
        self.model = TinyModel(config)
        self.lm_head = nn.Linear(config.size, config.vocab_size, bias=False)
        self.image_token = 1 + config.image_token
        self.size = config.vision_config.size
        self.moved = config.size
        self.moved += 1

    def forward(self, input_ids, labels=None):
        x = self.model(input_ids)[0]
        logits = self.lm_head(x)
        loss = None
        if labels is not None:
            loss = {loss}
        return CausalLMOutputWithPast(loss=loss, logits=logits)

    {methods}
"""
WHOLE = "self.loss_function(logits=logits, labels=labels, vocab_size=3)"


def taken(methods: str) -> Borrowed:
    text = HEAD.replace("{methods}", methods).replace("{loss}", WHOLE)
    facts = parse_module(text, "models/tiny/modeling_tiny.py")
    return borrowed(facts, "Head", "TinyPreTrainedModel", "model")


@pytest.mark.parametrize(
    "methods",
    [
        pytest.param("def generate(self, x):\n        return x", id="a generation of its own"),
        pytest.param(
            "def create_masks_for_generate(self, x):\n        return x == self.image_token",
            id="a field of the class that is computed",
        ),
        pytest.param(
            "def create_masks_for_generate(self, x):\n        return x == self.moved",
            id="a field of the config that the class changes",
        ),
        pytest.param(
            "def create_masks_for_generate(self, x):\n        return x == self.size\n\n"
            "    def grow(self):\n        self.size = 3",
            id="a field of the config that another method sets",
        ),
        pytest.param(
            "def create_masks_for_generate(self, x):\n        return self.lm_head(x)",
            id="the head, which has no such name",
        ),
        pytest.param(
            "def create_masks_for_generate(self, x):\n        return self.forward(x)", id="the forward of the class"
        ),
        pytest.param(
            "def create_masks_for_generate(self, x):\n        return self.marked(x)\n\n"
            "    def marked(self, x):\n        return x == self.image_token",
            id="a field of the class, by way of another method",
        ),
        pytest.param(
            "@cached\n    def create_masks_for_generate(self, x):\n        return x",
            id="a method that is wrapped",
        ),
        pytest.param(
            "@torch.no_grad()\n    @cached\n    def create_masks_for_generate(self, x):\n        return x",
            id="a method that is wrapped twice",
        ),
        pytest.param(
            "@torch.set_grad_enabled(True)\n    def create_masks_for_generate(self, x):\n        return x",
            id="a method with gradients",
        ),
        pytest.param(
            "def generate(self, x):\n        return self.model.generate(x)", id="a generation by a model inside"
        ),
        pytest.param(
            "def generate(self, x):\n        return super().generated(x)", id="a generation that goes on elsewhere"
        ),
        pytest.param(
            "def generate(self, x):\n        super().generate(x)\n        return x",
            id="a generation that gives something else",
        ),
        pytest.param(
            "def generate(self, x, by_hand=False):\n        if by_hand:\n            return self(x).logits\n"
            "        return super().generate(x)",
            id="a generation that runs the class itself in a way",
        ),
        pytest.param(
            "def generate(self, x):\n        x = self.lm_head(x)\n        return super().generate(x)",
            id="a generation that asks the head first",
        ),
        pytest.param(
            "@property\n    def marked(self):\n        return 1\n\n"
            "    def create_masks_for_generate(self, x):\n        return self.marked",
            id="a property",
        ),
    ],
)
def test_what_an_adapter_model_cannot_do_is_not_taken(methods: str) -> None:
    with pytest.raises(Unclear) as why:
        taken(methods)
    assert why.value.reason
    assert why.value.node is not None, "the method at fault"


@pytest.mark.parametrize(
    ("methods", "names"),
    [
        pytest.param("def other(self):\n        return self.lm_head", (), id="no step of generation"),
        pytest.param(
            "def prepare_inputs_for_generation(self, x):\n        return super().prepare_inputs_for_generation(x)",
            ("prepare_inputs_for_generation",),
            id="a step that goes on with upstream's",
        ),
        pytest.param(
            "def create_masks_for_generate(self, x):\n        return self.model.get_masks(x, self.config.size)",
            ("create_masks_for_generate",),
            id="a step that asks the base model and the config",
        ),
        pytest.param(
            "def generate(self, *args, **kwargs):\n        kwargs.pop('sounds', None)\n"
            "        return super().generate(*args, **kwargs)",
            ("generate",),
            id="a generation that hands on other arguments",
        ),
        pytest.param(
            "@torch.no_grad()\n    def generate(self, x, images=False):\n        if images:\n"
            "            return self.painted(x)\n        return super().generate(x)\n\n"
            "    def painted(self, x):\n        return self.model.paint(x)",
            ("generate", "painted"),
            id="a generation with another way beside upstream's, without gradients",
        ),
        pytest.param(
            "@staticmethod\n    def create_masks_for_generate(x):\n        return x",
            ("create_masks_for_generate",),
            id="a static step",
        ),
        pytest.param(
            "def create_masks_for_generate(self, x):\n        return self.marked(x) + self.shared()\n\n"
            "    def marked(self, x):\n        return x",
            ("create_masks_for_generate", "marked"),
            id="a step with the method that it calls, but not one that all models of the file have",
        ),
    ],
)
def test_what_is_taken(methods: str, names: tuple[str, ...]) -> None:
    assert taken(methods) == Borrowed("Head", names)


def test_a_field_of_the_config_that_a_step_reads_is_looked_up_there() -> None:
    found = taken(
        "def create_masks_for_generate(self, x):\n        return self.marked(x)\n\n"
        "    def marked(self, x):\n        return x[: self.size]"
    )
    methods = ("create_masks_for_generate", "marked")
    assert found == Borrowed("Head", methods, (("size", "vision_config.size"),))


OF_GENERATION = """
from ...generation import GenerationMixin

class TinyGenerationMixin({base}):
    def generate(self, x):
        return self.written(super().generate(x))

    def written(self, x):
        return self.{asked}
"""


def generated(folder: Path, base: str, asked: str, module: str = ".generation_tiny") -> Borrowed | None:
    """What is taken of a class whose generation stands in another file; None = it is not known as one."""
    text = HEAD.replace("{methods}", "").replace("{loss}", WHOLE)
    text = text.replace(
        "class Head(TinyPreTrainedModel, GenerationMixin)", "class Head(TinyPreTrainedModel, TinyGenerationMixin)"
    )
    text = f"from {module} import TinyGenerationMixin\n{text}"
    for name in ("models/tiny", "models/auto"):
        (folder / name).mkdir(parents=True)
    (folder / "__init__.py").write_text('__version__ = "5.23.0"\n')
    (folder / "models/tiny/generation_tiny.py").write_text(OF_GENERATION.format(base=base, asked=asked))
    facts = parse_module(text, "models/tiny/modeling_tiny.py")
    found = generation_of(open_release(folder), facts, "Head")
    return borrowed(facts, "Head", "TinyPreTrainedModel", "model", found) if found is not None else None


@pytest.mark.parametrize(
    ("asked", "fields"),
    [
        pytest.param("config.image_token", (), id="the config"),
        pytest.param("model.encoder", (), id="the base model"),
        pytest.param("size", (("size", "vision_config.size"),), id="a field of the config"),
    ],
)
def test_a_generation_of_a_file_of_its_own_is_derived_from(
    tmp_path: Path, asked: str, fields: tuple[tuple[str, str], ...]
) -> None:
    expected = Borrowed("Head", (), fields, "TinyGenerationMixin")
    assert generated(tmp_path, "GenerationMixin", asked) == expected


@pytest.mark.parametrize("asked", ["lm_head", "image_token", "forward"])
def test_a_generation_of_a_file_of_its_own_may_ask_for_what_no_adapter_model_has(tmp_path: Path, asked: str) -> None:
    with pytest.raises(Unclear, match=asked):
        generated(tmp_path, "GenerationMixin", asked)


@pytest.mark.parametrize(
    ("base", "module"),
    [
        pytest.param("object", ".generation_tiny", id="it has nothing to do with generation"),
        pytest.param("GenerationMixin", ".elsewhere", id="a file that the release lacks"),
        pytest.param("GenerationMixin", "elsewhere.generation_tiny", id="a file of another library"),
    ],
)
def test_what_is_no_generation_of_a_file_of_its_own(tmp_path: Path, base: str, module: str) -> None:
    assert generated(tmp_path, base, "config", module) is None


def test_what_an_init_calls_its_config_may_be_another_one() -> None:
    text = HEAD.replace("{methods}", "def create_masks_for_generate(self, x):\n        return self.size")
    text = text.replace(
        "super().__init__(config)\n", "super().__init__(config)\n        config = config.text_config\n"
    )
    facts = parse_module(text.replace("{loss}", WHOLE), "models/tiny/modeling_tiny.py")
    with pytest.raises(Unclear, match="size"):
        borrowed(facts, "Head", "TinyPreTrainedModel", "model")


@pytest.mark.parametrize(
    ("loss", "is_whole"),
    [
        pytest.param(WHOLE, True, id="all logits"),
        pytest.param("self.loss_function(logits.float(), labels)", True, id="all logits, in another type"),
        pytest.param(
            "self.loss_function(logits[:, 4:-1].contiguous(), labels[:, 1:], 3)", False, id="without those of an image"
        ),
        pytest.param("self.loss_function(self.lm_head(x[:, 1:]), labels)", False, id="other logits"),
        pytest.param("nn.CrossEntropyLoss()(logits.view(-1, 3), labels.view(-1))", True, id="a loss of its own"),
    ],
)
def test_whether_a_loss_compares_all_logits(loss: str, is_whole: bool) -> None:
    facts = parse_module(HEAD.replace("{methods}", "").replace("{loss}", loss), "models/tiny/modeling_tiny.py")
    chain = head_chain(facts, "Head", "TinyModel", "model")
    assert chain.is_compared_whole is is_whole


@pytest.mark.parametrize(
    ("loss", "is_in_place"),
    [
        pytest.param("nn.CrossEntropyLoss()(logits.view(-1, 3), labels.view(-1))", True, id="a loss of its own"),
        pytest.param("F.cross_entropy(logits.view(-1, 3), target=labels.to(x.device))", True, id="by its name"),
        pytest.param(
            "nn.CrossEntropyLoss()(logits[:, :-1].reshape(-1, 3), labels[:, 1:].reshape(-1))", False, id="the next one"
        ),
        pytest.param(
            "nn.CrossEntropyLoss()(logits.view(-1, 3), shift(labels).view(-1))", False, id="labels of others"
        ),
        pytest.param("nn.CrossEntropyLoss()(logits.view(-1, 3), input_ids.view(-1))", False, id="no labels"),
        pytest.param(
            "nn.CrossEntropyLoss()(logits, labels) + F.cross_entropy(logits[:, :-1], labels[:, 1:])", False, id="both"
        ),
        pytest.param("nn.MSELoss()(logits, labels)", False, id="another loss"),
        pytest.param(WHOLE, False, id="upstream's way to the loss of a task"),
    ],
)
def test_whether_logits_are_compared_with_the_labels_of_their_places(loss: str, is_in_place: bool) -> None:
    facts = parse_module(HEAD.replace("{methods}", "").replace("{loss}", loss), "models/tiny/modeling_tiny.py")
    chain = head_chain(facts, "Head", "TinyModel", "model")
    assert chain.compares_in_place is is_in_place


@pytest.mark.parametrize(
    "logits",
    [
        pytest.param("x", id="what comes first out of it"),
        pytest.param("self.model(input_ids).logits", id="what it calls logits"),
        pytest.param("torch.tanh(x / self.config.cap) * self.config.cap", id="bent to a limit"),
    ],
)
def test_a_class_without_a_projection_gives_what_a_model_in_it_gives(logits: str) -> None:
    """BLIP-2, InstructBLIP and Kosmos-2 hold a language model with its head."""
    text = HEAD.replace("{methods}", "").replace("{loss}", WHOLE).replace("self.lm_head(x)", logits)
    facts = parse_module(text, "models/tiny/modeling_tiny.py")
    with pytest.raises(Unclear, match="no projection of its own: its logits are those of `model`") as why:
        head_chain(facts, "Head", "TinyModel", "model")
    assert why.value.node is not None


MADE = "mask = torch.zeros_like(input_ids)\n            mask[:, 0] = 1"


@pytest.mark.parametrize(
    ("made", "given", "is_plain"),
    [
        pytest.param(MADE, "mask=mask", False, id="made of the tokens"),
        pytest.param(MADE, "mask=mask.view(-1, 3)", False, id="in another form"),
        pytest.param("mask = first_of(input_ids)", "mask=mask", False, id="by a function"),
        pytest.param(MADE, "mask=None", True, id="made, and not given"),
        pytest.param(MADE, "decoder_input_ids=mask", True, id="for a decoder, which is another rule's affair"),
        pytest.param("mask = self.config.mask", "mask=mask", True, id="of no other argument"),
        pytest.param("mask = None", "mask=mask.view(-1, 3)", True, id="as it was given"),
        pytest.param("other = torch.zeros_like(input_ids)", "mask=mask", True, id="something else is made"),
    ],
)
def test_a_head_that_makes_an_argument_of_its_base_model_is_no_plain_one(
    made: str, given: str, is_plain: bool
) -> None:
    text = HEAD.replace("{methods}", "").replace("{loss}", WHOLE)
    call = f"if mask is None:\n            {made}\n        x = self.model(input_ids, {given})[0]"
    text = text.replace("x = self.model(input_ids)[0]", call).replace("labels=None):", "labels=None, mask=None):")
    facts = parse_module(text, "models/tiny/modeling_tiny.py")
    if is_plain:
        head_chain(facts, "Head", "TinyModel", "model")
        return
    with pytest.raises(Unclear, match="makes arguments for its base model"):
        head_chain(facts, "Head", "TinyModel", "model")


def test_a_class_without_labels_compares_nothing() -> None:
    """It may write its text in another way than token by token (DiffusionGemma)."""
    text = HEAD.replace("{methods}", "").replace("{loss}", WHOLE).replace("input_ids, labels=None", "input_ids")
    chain = head_chain(parse_module(text, "models/tiny/modeling_tiny.py"), "Head", "TinyModel", "model")
    assert not chain.is_compared_whole


HERE = Location("", 1, 0, 1, 0)
WORDS = PartPlan("language_model", Making.OWN, HERE, config_path="text_config", is_main=True, is_stack=True)
IMAGES = PartPlan("visual", Making.OWN, HERE, config_path="vision_config", is_stack=True)
BASE = BasePlan(
    class_name="TinyModel",
    location=HERE,
    pretrained_class="TinyPreTrainedModel",
    prefix="model",
    stacks=(StackPlan("visual.blocks", ("Block",)), StackPlan("language_model.layers", ("Layer",), is_main=True)),
    parameters=(Parameter("input_ids", "", "None", "positional"),),
    models=(IMAGES, WORDS),
)
TO_TEXT = replace(BASE, is_encoder_decoder=True, parameters=(Parameter("decoder_input_ids", "", "None", "keyword"),))


@pytest.mark.parametrize(
    ("base", "config"),
    [
        pytest.param(BASE, "text_config", id="the layers of one model inside"),
        pytest.param(replace(BASE, stacks=()), "text_config", id="a part that has a file of its own"),
        pytest.param(
            replace(BASE, models=(IMAGES,), stacks=(StackPlan("layers", ("Layer",), is_main=True), BASE.stacks[0])),
            "",
            id="layers of its own, beside a tower",
        ),
        pytest.param(
            replace(BASE, models=(IMAGES, replace(IMAGES, is_main=True), WORDS)), None, id="two that are main"
        ),
        pytest.param(
            replace(BASE, stacks=(*BASE.stacks, StackPlan("layers", ("Layer",), is_main=True))),
            None,
            id="layers of its own behind a model inside",
        ),
        pytest.param(replace(BASE, is_encoder_decoder=True), None, id="an encoder and a decoder that reads no tokens"),
        pytest.param(TO_TEXT, "text_config", id="an encoder, and a decoder of tokens"),
        pytest.param(
            replace(TO_TEXT, models=(IMAGES,), stacks=(StackPlan("decoder.layers", ("Layer",), is_main=True),)),
            "",
            id="an encoder that is a model, and a decoder that is none",
        ),
        pytest.param(
            replace(TO_TEXT, models=(replace(IMAGES, is_main=True), WORDS)),
            None,
            id="an encoder whose states are given",
        ),
        pytest.param(replace(BASE, head=("lm_head",)), None, id="a head at the end"),
        pytest.param(replace(BASE, parameters=(Parameter("pixel_values", "", "", "positional"),)), None, id="no text"),
        pytest.param(
            replace(BASE, models=(IMAGES, replace(WORDS, config_path=None))), None, id="a config that is not followed"
        ),
    ],
)
def test_what_feeds_the_heads_of_a_model_that_holds_others(base: BasePlan, config: str | None) -> None:
    assert feeding_config(base) == config


def test_kinds_of_heads_on_what_feeds_them() -> None:
    tasks = ("image_text_to_text", "sequence_classification", "image_classification", "object_detection")
    entry = ModelEntry("tiny", "", "TinyConfig", "", "TinyModel", dict.fromkeys(tasks, ("Head",)))
    found = plan_flexible_heads(entry, BASE)
    assert found == ("classification", "multilabel_classification", "causal_lm")
    assert plan_flexible_heads(entry, replace(BASE, is_encoder_decoder=True)) == ()
    assert plan_flexible_heads(entry, TO_TEXT) == ("seq2seq_lm",), "a decoder's labels are not shifted"
    assert plan_flexible_heads(entry, replace(BASE, class_name="Head")) == (), "it ends in a head"
    labels = Parameter("labels", "", "None", "keyword")
    assert plan_flexible_heads(entry, replace(BASE, parameters=(*BASE.parameters, labels))) == found, "not used"


TOWER = """
import torch
from torch import nn
from ...modeling_utils import PreTrainedModel
from ...modeling_outputs import ImageClassifierOutput

class TinyPreTrainedModel(PreTrainedModel):
    base_model_prefix = "model"

class Tower(TinyPreTrainedModel):
    def forward(self, pixel_values): ...

class TinyModel(TinyPreTrainedModel):
    def forward(self, input_ids, pixel_values): ...

class Head(TinyPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.visual = Tower._from_config(config.vision_config)
        self.other = Tower._from_config(config.vision_config)
        self.out = nn.Linear(config.vision_config.size, config.num_labels)
    def forward(self, pixel_values, labels=None):
        outputs = self.visual(pixel_values)
        x = outputs.last_hidden_state
        logits = {logits}
        return ImageClassifierOutput(logits=logits)
"""
BOTH = replace(
    BASE,
    models=(replace(IMAGES, is_main=True, class_name="Tower"), WORDS),
    stacks=tuple(replace(stack, is_main=True) for stack in BASE.stacks),
)


@pytest.fixture
def release(tmp_path: Path) -> Release:
    config = "class TinyConfig(PreTrainedConfig):\n    size: int = 2\n"
    files = {"__init__.py": '__version__ = "1"', "models/auto/x": "", "models/tiny/configuration_tiny.py": config}
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return open_release(tmp_path)


def on_a_tower(release: Release, logits: str, base: BasePlan) -> StaticHead | None:
    path, config = "models/tiny/modeling_tiny.py", "models/tiny/configuration_tiny.py"
    entry = ModelEntry("tiny", path, "TinyConfig", config, "TinyModel", {"image_classification": ("Head",)})
    facts = parse_module(TOWER.replace("{logits}", logits), path)
    found = plan_static_heads(release, entry, facts, base, plan_flexible_heads(entry, base))
    return next((head for head in found if head.head_type), None)


def test_a_head_of_a_tower_reads_that_part(release: Release) -> None:
    head = on_a_tower(release, "self.out(x.mean(dim=1))", BOTH)
    assert head is not None
    assert (head.part, head.reads, head.base_attribute) == ("visual", "mean", "")


@pytest.mark.parametrize(
    ("logits", "base"),
    [
        pytest.param(
            "self.out(self.other(pixel_values).last_hidden_state.mean(dim=1))",
            BOTH,
            id="a tower that the base has not",
        ),
        pytest.param(
            "self.out(outputs.pooler_output)", BOTH, id="what the tower pools, which flexible heads do not ask"
        ),
        pytest.param(
            "self.out((x + self.other(pixel_values).last_hidden_state).mean(dim=1))", BOTH, id="two towers together"
        ),
        pytest.param("self.out(x.mean(dim=1))", BASE, id="a model that gives the states of its text"),
        pytest.param("self.out(x.mean(dim=1))", replace(BOTH, models=(WORDS,)), id="a tower that is no part"),
        pytest.param(
            "self.out(x.mean(dim=1))",
            replace(BOTH, models=(replace(BOTH.models[0], config_path=None), WORDS)),
            id="a tower whose config is not followed",
        ),
        pytest.param("self.out(x.mean(dim=1))", replace(BOTH, head=("out",)), id="a base that ends in a head"),
    ],
)
def test_other_heads_of_towers_are_not_converted(release: Release, logits: str, base: BasePlan) -> None:
    assert on_a_tower(release, logits, base) is None
