"""Models inside a model: where they are, how they are made, and which of them are no parts."""

from __future__ import annotations

from dataclasses import replace
from textwrap import dedent, indent

import pytest

from adapter_codegen.model import Location, Making, ModelPlan, PartPlan
from adapter_codegen.parse import AutoMappings, parse_module
from adapter_codegen.parse.automappings import ModelEntry
from adapter_codegen.plan import plan_adapter_model, plan_model
from adapter_codegen.plan.flow.kinds import Kinds
from adapter_codegen.plan.parts.elsewhere import Elsewhere
from adapter_codegen.plan.parts.finding import find_models, reads
from adapter_codegen.plan.parts.picking import added_to_embeddings, picked_position
from adapter_codegen.plan.stream.lists.candidates import Candidates
from adapter_codegen.plan.stream.lists.stacks import find_stacks
from adapter_codegen.plan.told.verdicts import NO_VERDICTS
from adapter_codegen.upstream import Release
from plan_snippets import ATTENTION, MLP, facts_of, layer

LAYER = layer("x = x + self.attention(self.norm1(x), mask)[0]\nreturn x + self.mlp(self.norm2(x))")
FILE = """
from ...backbone_utils import load_backbone
from ...modeling_utils import PreTrainedModel
from ..auto import AutoBackbone, AutoModel, AutoModelForCausalLM
from ..bert.modeling_bert import BertModel, BertPooler
from .configuration_tiny import TinyConfig, TinyTowerConfig

class TinyPreTrainedModel(PreTrainedModel):
    config: TinyConfig

class Tower(TinyPreTrainedModel):
    def __init__(self, config: TinyTowerConfig):
        super().__init__(config)
        self.layers = nn.ModuleList([Layer(config) for _ in range(3)])
    def forward(self, pixel_values, attention_mask=None):
        return pixel_values

class Resampler(TinyPreTrainedModel):
    def __init__(self, config: TinyTowerConfig):
        super().__init__(config)
        self.layers = nn.ModuleList([Layer(config) for _ in range(3)])
    def forward(self, query_embeds, encoder_hidden_states):
        return query_embeds

class Projector(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.resampler = Resampler._from_config(config.resampler_config)
        self.inner = AutoModel.from_config(config.inner_config)
    def forward(self, x):
        return self.resampler(self.inner(x), x)

class Backbone(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.model = load_backbone(config)
    def forward(self, x):
        return self.model(x)

class Joiner(nn.Module):
    def __init__(self, backbone, positions=None, config=None):
        super().__init__()
        self.positions = positions
        self.inner = backbone
        self.size = config.size
    def forward(self, x):
        return self.inner(x), self.positions(x)

class Wrapper(TinyPreTrainedModel):
    def __init__(self, config: TinyConfig):
        super().__init__(config)
        self.bert_model = BertModel(config, add_pooling_layer=False)
    def forward(self, input_ids):
        return self.bert_model(input_ids)

class Adapter(TinyPreTrainedModel):
    def __init__(self, config: TinyTowerConfig):
        super().__init__(config)
        self.up = nn.Linear(2, 2)
    def forward(self, hidden_states):
        return self.up(hidden_states)

class Quantizer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.table = nn.Embedding(2, 2)
    def forward(self, x):
        distances = x @ self.table.weight
        return torch.argmin(distances, dim=1)

class Tokenizer(Tower):
    def __init__(self, config: TinyTowerConfig):
        super().__init__(config)
        self.quantize = Quantizer(config)
    def encode(self, pixel_values):
        return self.quantize(self.layers[0](pixel_values))
    def features(self, input_ids):
        last = input_ids.argmax(dim=-1)
        return self.layers[0](input_ids)[last]

class Patcher(Tower):
    def forward(self, pixel_values, attention_mask=None):
        for layer in self.layers:
            pixel_values = layer(pixel_values)
        starts = pixel_values.sum(-1) > 0.5
        return pixel_values, self.cut(starts), pixel_values * starts[..., None]
    @staticmethod
    def cut(starts):
        return torch.nonzero(starts).diff()

class Writer(Tower):
    def forward(self, pixel_values, attention_mask=None):
        kept = torch.zeros(2)
        for layer in self.layers:
            pixel_values = layer(pixel_values)
        kept.copy_(pixel_values)
        return pixel_values, kept + (pixel_values > 0.5)

class TinyModel(TinyPreTrainedModel):
    def __init__(self, config: TinyConfig, part=None):
        super().__init__(config)
{}
    def forward(self, input_ids, pixel_values):
{}
{}
"""


def found(build: str, run: str = "return 0", more: str = "", elsewhere: Elsewhere | None = None) -> list[PartPlan]:
    body = (indent(dedent(text).strip(), " " * 8) for text in (build, run))
    facts = facts_of(ATTENTION, MLP, LAYER, FILE.format(*body, indent(dedent(more), " " * 4)))
    is_layer = Candidates(facts, Kinds(facts)).is_layer
    root = facts.classes["TinyModel"]
    return list(find_models(facts, root, lambda name: bool(find_stacks(facts, name, is_layer)), elsewhere))


@pytest.mark.parametrize(
    ("build", "run", "path", "making", "class_name", "config_path"),
    [
        pytest.param(
            "self.part = AutoModel.from_config(config.part_config)",
            "return self.part(pixel_values)",
            "part",
            Making.AUTO,
            "",
            "part_config",
            id="by an auto class",
        ),
        pytest.param(
            "self.part = AutoModel.from_config(config.part_config).eval()",
            "return self.part(pixel_values)",
            "part",
            Making.AUTO,
            "",
            "part_config",
            id="and put into evaluation at once",
        ),
        pytest.param(
            "self.part = AutoModelForCausalLM.from_config(config=config.text_config)",
            "return self.part(pixel_values)",
            "part",
            Making.AUTO,
            "",
            "text_config",
            id="by an auto class of models with a head",
        ),
        pytest.param(
            "self.part = load_backbone(config)",
            "return self.part(pixel_values)",
            "part",
            Making.BACKBONE,
            "",
            "backbone_config",
            id="by upstream's function for backbones",
        ),
        pytest.param(
            "self.part = AutoBackbone.from_config(config=config.some_config)",
            "return self.part(pixel_values)",
            "part",
            Making.BACKBONE,
            "",
            "some_config",
            id="by the auto class of backbones",
        ),
        pytest.param(
            "tower = config.tower_config\nself.part = Tower._from_config(tower)",
            "return self.part(pixel_values)",
            "part",
            Making.OWN,
            "Tower",
            "tower_config",
            id="by a class of the file, from a config with a name of its own",
        ),
        pytest.param(
            "if part is None:\n    part = AutoModel.from_config(config.encoder)\nself.part = part",
            "return self.part(pixel_values)",
            "part",
            Making.GIVEN,
            "",
            "encoder",
            id="handed in",
        ),
        pytest.param(
            "self.projector = Projector(config.projector_config)",
            "return self.projector(pixel_values)",
            "projector.resampler",
            Making.OWN,
            "Resampler",
            "projector_config.resampler_config",
            id="inside of a module that is no model: a perceiver or a Q-Former is a part",
        ),
        pytest.param(
            "made = Backbone(config.vision)\nself.joined = Joiner(made, nn.Identity(), config)",
            "return self.joined(pixel_values)",
            "joined.inner.model",
            Making.BACKBONE,
            "",
            "vision.backbone_config",
            id="inside of a module that is made before, and handed to another one, which keeps it",
        ),
        pytest.param(
            "made = AutoModel.from_config(config.vision)\nself.joined = Joiner(backbone=made, config=config)",
            "return self.joined(pixel_values)",
            "joined.inner",
            Making.GIVEN,
            "",
            "vision",
            id="made before, and handed by name to a module that keeps it",
        ),
    ],
)
def test_how_a_part_is_made(
    build: str, run: str, path: str, making: Making, class_name: str, config_path: str
) -> None:
    part = found(build, run)[0]
    assert (part.path, part.making, part.class_name, part.config_path) == (path, making, class_name, config_path)
    assert part.is_part and not part.is_optional


@pytest.mark.parametrize(
    "build",
    [
        pytest.param("self.joined = Joiner(other, config=config)", id="what is handed is not known"),
        pytest.param(
            "made = Backbone(config)\nself.joined = Joiner(nn.Identity(), config=made)", id="another parameter"
        ),
        pytest.param(
            "made = Backbone(config)\nmade = other\nself.joined = Joiner(made)", id="the name means another one"
        ),
        pytest.param("made = nn.Identity()\nself.joined = Joiner(made)", id="no model is in it"),
    ],
)
def test_what_is_handed_on_is_no_part(build: str) -> None:
    assert found(build, "return self.joined(pixel_values)") == []


def test_a_class_of_another_file_is_a_part_where_it_is_a_model(release: Release, mappings: AutoMappings) -> None:
    entry = ModelEntry("tiny", "models/tiny/modeling_tiny.py", "TinyConfig", "", "TinyModel", {})
    elsewhere = Elsewhere(release, mappings, entry)
    build = "self.wrapped = Wrapper(config)\nself.pooler = BertPooler(config)"
    (part,) = found(build, "return self.pooler(self.wrapped(input_ids))", elsewhere=elsewhere)
    assert (part.path, part.making, part.class_name) == ("wrapped.bert_model", Making.IMPORTED, "BertModel")
    assert (part.config_path, part.reads) == ("", ("tokens",))


def test_a_part_of_any_class_has_the_model_type_that_its_config_takes_by_default(
    release: Release, mappings: AutoMappings
) -> None:
    """LLaVA's, and none where the class is known (BLIP-2's Q-Former) or nothing is said (X-Codec takes what it is given)."""
    plans = {name: plan_model(release, name, verdicts=NO_VERDICTS) for name in ("llava", "blip-2")}
    usual = {
        name: {part.path: part.usual_type for part in plan.base.parts}
        for name, plan in plans.items()
        if isinstance(plan, ModelPlan)
    }
    assert usual["llava"] == {"vision_tower": "clip_vision_model", "language_model": "llama"}
    assert usual["blip-2"] == {"vision_model": "", "qformer": "", "language_model": "opt"}


def test_a_class_of_a_file_in_which_no_model_type_has_its_base_model_gets_no_adapters(
    release: Release, mappings: AutoMappings
) -> None:
    """BLIP's text model is one; BERT, which is imported too, is not."""
    blip, dpr = (plan_model(release, name, verdicts=NO_VERDICTS) for name in ("blip", "dpr"))
    assert isinstance(blip, ModelPlan) and isinstance(dpr, ModelPlan)
    reasons = {part.path: part.unprepared for part in blip.base.models}
    assert "modeling_blip_text.py" in reasons.pop("text_model")
    assert reasons == {"vision_model": ""}
    assert not any(part.unprepared for part in dpr.base.models)


def test_parts_stand_in_the_order_in_which_they_are_registered() -> None:
    build = """
        self.text = AutoModel.from_config(config.text_config)
        self.projector = Projector(config)
        if config.tower_config is not None:
            self.tower = Tower._from_config(config.tower_config)
        self.last = load_backbone(config)
    """
    run = (
        "return self.text(input_ids), self.projector(pixel_values), self.tower(pixel_values), self.last(pixel_values)"
    )
    parts = found(build, run)
    assert [part.path for part in parts] == ["text", "projector.resampler", "projector.inner", "tower", "last"]
    assert [part.is_optional for part in parts] == [False, False, False, True, False]


def test_a_config_that_is_not_followed_has_no_path() -> None:
    (part,) = found("self.part = AutoModel.from_config(make(config))", "return self.part(input_ids)")
    assert part.config_path is None


@pytest.mark.parametrize(
    ("build", "run", "more", "reason"),
    [
        pytest.param(
            "self.part = Adapter._from_config(config.part_config)",
            "return self.part(pixel_values)",
            "",
            "Adapter has no layers.",
            id="no layers",
        ),
        pytest.param(
            "self.part = AutoModel.from_config(config.codec_config)",
            "with torch.no_grad():\n    ids = self.part.encode(pixel_values)\nreturn ids",
            "",
            "It runs without gradients only.",
            id="a codec that runs without gradients",
        ),
        pytest.param(
            "self.part = AutoModel.from_config(config.codec_config)",
            "return self.tokens(pixel_values)",
            "@torch.no_grad()\ndef tokens(self, x):\n    return self.part.encode(x)",
            "It runs without gradients only.",
            id="in a helper that has none",
        ),
        pytest.param(
            "self.part = Tokenizer._from_config(config.part_config)",
            "return self.part.encode(pixel_values)",
            "",
            "It gives the numbers of the nearest entries of a table, through which no gradient passes.",
            id="a tokenizer of images",
        ),
        pytest.param(
            "self.part = Patcher(config.part_config)",
            "_, lengths, _ = self.part(pixel_values)\nreturn lengths",
            "",
            "What is read of it comes out of comparisons, through which no gradient passes.",
            id="what cuts a text where a score is above a threshold",
        ),
        pytest.param(
            "self.part = AutoModel.from_config(config.vocoder_config)",
            "return input_ids",
            "def generate(self, input_ids):\n    return self.part(input_ids)",
            "No forward runs it.",
            id="a vocoder behind what was generated",
        ),
        pytest.param(
            "self.part = Tokenizer._from_config(config.part_config)",
            "return self.part.features(pixel_values)",
            "",
            "",
            id="not what looks for the place of a token among its arguments",
        ),
        pytest.param(
            "self.part = Tokenizer._from_config(config.part_config)",
            "return self.part.encode(pixel_values), self.part(pixel_values)",
            "",
            "",
            id="not what is run itself too",
        ),
        pytest.param(
            "self.part = Patcher(config.part_config)",
            "states, lengths, _ = self.part(pixel_values)\nreturn states",
            "",
            "",
            id="not where its states are read beside the lengths",
        ),
        pytest.param(
            "self.part = Patcher(config.part_config)",
            "_, _, gated = self.part(pixel_values)\nreturn gated",
            "",
            "",
            id="not where a comparison chooses among states",
        ),
        pytest.param(
            "self.part = Patcher(config.part_config)",
            "_, *lengths = self.part(pixel_values)\nreturn lengths",
            "",
            "",
            id="not where several values have one name",
        ),
        pytest.param(
            "self.part = Patcher(config.part_config)",
            "outputs = self.part(pixel_values)\nreturn outputs[1]",
            "",
            "",
            id="not where all that it gives has one name",
        ),
        pytest.param(
            "self.part = Patcher(config.part_config)",
            "_, lengths, _ = self.part(pixel_values)\nreturn lengths",
            "def get_image_features(self, pixel_values):\n    return self.part(pixel_values)[0]",
            "",
            id="not where another method reads its states",
        ),
        pytest.param(
            "self.part = Writer(config.part_config)",
            "_, kept = self.part(pixel_values)\nreturn kept",
            "",
            "",
            id="not where states were written into what is read",
        ),
        pytest.param(
            "self.part = AutoModel.from_config(config.part_config)",
            "with torch.no_grad():\n    ids = self.part(pixel_values)\nreturn ids + self.part(pixel_values)",
            "",
            "",
            id="not what runs with gradients too",
        ),
        pytest.param(
            "self.part = AutoModel.from_config(config.part_config)",
            "return self.get_encoder()(pixel_values)",
            "",
            "",
            id="not where the forward asks for a model by another name",
        ),
        pytest.param(
            "self.part = AutoModel.from_config(config.part_config)",
            "return input_ids",
            "def get_image_features(self, pixel_values):\n    return self.part(pixel_values)",
            "",
            id="not what upstream's generate runs by itself",
        ),
        pytest.param(
            "self.projector = Projector(config)",
            "return self.projector.resample(pixel_values)",
            "",
            "",
            id="not what a module runs for the model around it",
        ),
    ],
)
def test_near_misses(build: str, run: str, more: str, reason: str) -> None:
    assert {part.near_miss for part in found(build, run, more)} == {reason}


@pytest.mark.parametrize(
    ("forward", "expected"),
    [
        pytest.param(("input_ids", "inputs_embeds"), ("tokens",), id="tokens, or their embeddings"),
        pytest.param(("pixel_values", "interpolate"), ("images",), id="images"),
        pytest.param(("input_features", "mask"), ("audio",), id="audio"),
        pytest.param(("inputs_embeds", "position_ids"), ("features",), id="features alone"),
        pytest.param(("input_ids", "pixel_values"), ("tokens", "images"), id="two"),
        pytest.param(("args",), (), id="not known"),
    ],
)
def test_what_a_part_reads(forward: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert reads(forward) == expected


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [
        ("llava", {"vision_tower": "", "language_model": ""}),
        ("blip-2", {"vision_model": "", "qformer": "", "language_model": ""}),
        ("dpr", {"question_encoder.bert_model": ""}),
        ("chameleon", {"vqmodel": "ChameleonVQVAE has no layers."}),
        ("csm", {"depth_decoder": "", "codec_model": "It runs without gradients only."}),
        (
            "blt",
            {
                "local_encoder": "",
                "global_transformer": "",
                "local_decoder": "",
                "patcher": "What is read of it comes",
            },
        ),
        ("granite_speech", {"encoder": "", "projector.qformer": "", "language_model": ""}),
    ],
)
def test_models_inside_of_upstreams(release: Release, model_type: str, expected: dict[str, str]) -> None:
    plan = plan_model(release, model_type, verdicts=NO_VERDICTS)
    assert isinstance(plan, ModelPlan)
    found_here = {model.path: model.near_miss for model in plan.base.models}
    assert {path: why[: len(expected[path])] for path, why in found_here.items()} == expected


@pytest.mark.parametrize(
    ("model_type", "heads"),
    [
        pytest.param("llava", ("causal_lm",), id="a decoder that is fed images"),
        pytest.param("qwen2_audio", ("causal_lm",), id="a decoder that is fed sounds"),
        pytest.param(
            "gemma3",
            ("classification", "multilabel_classification", "causal_lm"),
            id="with what the class says that a step of its generation reads",
        ),
        pytest.param("blip-2", (), id="not on logits"),
        pytest.param("florence2", ("seq2seq_lm",), id="an encoder-decoder that is fed images"),
        pytest.param("vision-text-dual-encoder", (), id="not on two towers"),
    ],
)
def test_heads_of_models_made_of_parts(release: Release, model_type: str, heads: tuple[str, ...]) -> None:
    plan = plan_model(release, model_type, verdicts=NO_VERDICTS)
    assert isinstance(plan, ModelPlan)
    assert plan.flexible_heads == heads
    assert {head.head_type for head in plan.static_heads} - {""} == set(heads) - {"multilabel_classification"}
    facts = parse_module(release.read(plan.path), plan.path)
    adapter_model = plan_adapter_model(plan, facts, "Model")
    assert adapter_model.head_config == ("text_config" if heads else "")


@pytest.mark.parametrize(
    ("model_type", "class_name", "parts", "head"),
    [
        pytest.param("encoder-decoder", "EncoderDecoderModel", ["encoder", "decoder"], (), id="a head in a part"),
        pytest.param(
            "upernet",
            "UperNetForSemanticSegmentation",
            ["backbone"],
            ("decode_head", "auxiliary_head"),
            id="heads behind a backbone",
        ),
        pytest.param("colpali", "ColPaliForRetrieval", ["vlm"], ("embedding_proj_layer",), id="a projection behind"),
        pytest.param(
            "trocr", "TrOCRForCausalLM", [], ("output_projection",), id="layers of its own, without their norm"
        ),
        pytest.param("vitpose_backbone", "VitPoseBackbone", [], None, id="not a backbone, which is a base model"),
    ],
)
def test_types_without_a_base_model_are_planned_from_a_class_with_a_head(
    release: Release, model_type: str, class_name: str, parts: list[str], head: tuple[str, ...] | None
) -> None:
    plan = plan_model(release, model_type, verdicts=NO_VERDICTS)
    assert isinstance(plan, ModelPlan)
    assert (plan.base.class_name, [part.path for part in plan.base.parts]) == (class_name, parts)
    assert (plan.base.head, plan.flexible_heads, plan.static_heads) == (head, (), ())


@pytest.mark.parametrize(
    ("model_type", "class_name", "stacks", "submodels", "head"),
    [
        pytest.param(
            "blip-2",
            "Blip2ForConditionalGeneration",
            [],
            ["vision_model", "qformer", "language_model"],
            (),
            id="without the projection between parts",
        ),
        pytest.param(
            "clip",
            "CLIPForImageClassification",
            ["vision_model.encoder.layers"],
            ["vision_model"],
            ("classifier",),
            id="a tower alone",
        ),
        pytest.param(
            "musicgen",
            "MusicgenForConditionalGeneration",
            ["decoder.model.decoder.layers"],
            ["text_encoder", "audio_encoder", "decoder"],
            (),
            id="parts that are handed in",
        ),
    ],
)
def test_classes_with_a_head_that_hold_the_parts_themselves(
    release: Release, model_type: str, class_name: str, stacks: list[str], submodels: list[str], head: tuple[str, ...]
) -> None:
    plan = plan_model(release, model_type, verdicts=NO_VERDICTS)
    assert isinstance(plan, ModelPlan)
    holder = next(holder for holder in plan.holders if holder.base.class_name == class_name)
    assert [stack.path for stack in holder.base.stacks] == stacks
    assert [model.path for model in holder.base.submodels] == submodels
    assert holder.head == head
    held = {name for stack in (*holder.base.stacks, *holder.base.inner) for name in stack.layer_classes}
    assert held <= {layer.class_name for layer in plan.layers}


@pytest.mark.parametrize(
    ("model_type", "unsupported"),
    [
        pytest.param("llava", [], id="what its parts have is known later"),
        pytest.param("granite_speech", [], id="also beside parts of the same file"),
        pytest.param("upernet", ["invertible"], id="no tokens in any part"),
    ],
)
def test_methods_that_a_plan_rules_out(release: Release, model_type: str, unsupported: list[str]) -> None:
    plan = plan_model(release, model_type, verdicts=NO_VERDICTS)
    methods = plan.methods if isinstance(plan, ModelPlan) else ()
    assert [one.method.value for one in methods if not one.supported] == unsupported


ROW = "states = self.text(input_ids).last_hidden_state[0]"


@pytest.mark.parametrize(
    ("reading", "is_found"),
    [
        ("returned = self.text(input_ids)\n        return returned[0][:, 0]", True),
        ("returned: Output = self.text(input_ids)\n        return returned.hidden_states[-1][:, 0, :]", True),
        ("returned = self.text(input_ids)\n        return returned[0][:, -1]", True),
        pytest.param("returned = self.text(input_ids)\n        return returned[0][:, 1:]", False, id="more than one"),
        pytest.param("returned = self.text(input_ids)\n        return returned[0]", False, id="an output"),
        pytest.param("returned = self.images(pixels)\n        return returned[0][:, 0]", False, id="of images"),
        pytest.param("returned = self.text(input_ids)\n        return pixels[:, 0]", False, id="of an argument"),
        pytest.param(f"{ROW}\n        return states[pixels - 1]", True, id="positions of one row, by an argument"),
        pytest.param(f"{ROW}\n        return states[1:]", False, id="a slice of one row"),
        pytest.param(f"{ROW}\n        return states[-1]", False, id="the number of a row, if the states have any"),
        pytest.param(f"{ROW}\n        return pixels[pixels - 1]", False, id="of an argument, by an argument"),
        pytest.param(
            f"{ROW.removesuffix('[0]')}\n        return states[pixels]", False, id="rows of a batch, by an argument"
        ),
        pytest.param(
            f"{ROW.replace('last_hidden_state', 'hidden_states')}\n        return states[pixels]",
            False,
            id="rows of what one layer gives",
        ),
        pytest.param(
            f"{ROW.replace('text', 'images')}\n        return states[pixels]", False, id="of images, by an argument"
        ),
    ],
)
def test_a_single_position_of_what_a_text_model_returns_is_found(reading: str, is_found: bool) -> None:
    text = f"class TinyModel:\n    def forward(self, input_ids, pixels):\n        {reading}\n"
    root = parse_module(text, "models/tiny/modeling_tiny.py").classes["TinyModel"]
    parts = [
        PartPlan(name, Making.AUTO, Location("models/tiny/modeling_tiny.py", 1, 1, 1, 1), reads=(reads,))
        for name, reads in (("text", "tokens"), ("images", "images"))
    ]
    assert (picked_position(root, parts) is not None) is is_found


@pytest.mark.parametrize(
    ("adding", "is_found"),
    [
        pytest.param("x += self.kind", False, id="one vector of its own for all tokens"),
        pytest.param("x += self.kind.to(x.device)", False, id="the same, moved"),
        pytest.param("pixels += pixels", False, id="to what is not given to the text model"),
        pytest.param("x *= pixels", False, id="a factor"),
        pytest.param("x = x.masked_scatter(mask, pixels)", False, id="in the places of an image"),
        pytest.param("x += pixels.to(x.device)", True, id="an argument"),
        pytest.param("x = x + sounds", True, id="written as a sum"),
        pytest.param("x: Tensor = x + sounds", True, id="with a type"),
    ],
)
def test_what_the_whole_adds_to_the_embeddings_of_its_text_model_is_found(adding: str, is_found: bool) -> None:
    text = f"class TinyModel:\n    def forward(self, x, pixels, sounds):\n        {adding}\n        return self.text(inputs_embeds=x)\n"
    root = parse_module(text, "models/tiny/modeling_tiny.py").classes["TinyModel"]
    part = PartPlan("text", Making.AUTO, Location("models/tiny/modeling_tiny.py", 1, 1, 1, 1), reads=("tokens",))
    assert (added_to_embeddings(root, [part]) is not None) is is_found
    assert added_to_embeddings(root, [replace(part, reads=("images",))]) is None
