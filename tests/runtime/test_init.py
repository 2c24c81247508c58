"""`init` changes classes of objects, and nothing else: no upstream class, no output, no parameter."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import (
    BertConfig,
    BertModel,
    BlipConfig,
    BlipForImageTextRetrieval,
    CLIPSegForImageSegmentation,
    KyutaiSpeechToTextForConditionalGeneration,
    LlamaForCausalLM,
    PreTrainedModel,
    RwkvConfig,
    RwkvModel,
    ViTConfig,
    ViTModel,
)
from transformers.models.bert.modeling_bert import BertOutput, BertPreTrainedModel, BertSelfAttention
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from adapter_models.bert.mixin_bert import BertModelAdaptersMixin
from adapter_runtime import init
from adapter_runtime.composition import Parallel
from adapter_runtime.contract.registry import Classes, registered
from adapter_runtime.errors import InvalidConfigError, UnsupportedModelError
from adapter_runtime.model import init as init_module
from adapter_runtime.model.calls import CALL_ARGUMENTS
from adapter_runtime.model.init.finding import _is_run
from adapter_runtime.roles import LayerStack
from conformance.subjects import method_subjects
from conformance.tiny import tiny_config
from runtime_models import BERT, CLASSES, adapted, randomise, upstream

TOKENS = torch.randint(3, 99, (2, 7), generator=torch.Generator().manual_seed(2))


def test_an_unknown_model_is_refused_and_left_alone() -> None:
    model = RwkvModel(RwkvConfig(num_hidden_layers=2, hidden_size=8, vocab_size=10))
    before = [(type(module), dict(module.__dict__)) for module in model.modules()]
    with pytest.raises(UnsupportedModelError, match="adapter-codegen add-model rwkv"):
        init(model)
    assert [(type(module), dict(module.__dict__)) for module in model.modules()] == before


def test_a_model_around_supported_ones_whose_type_was_refused_is_refused_and_left_alone() -> None:
    """DepthPro runs one of its models on rows in another order, which only its plan, or the checks, can know."""
    model = next(subject for subject in method_subjects("depth_pro")).upstream()
    classes = [type(module) for module in model.modules()]
    with pytest.raises(
        UnsupportedModelError, match=r"depth_pro.* says why.*init\(model\.encoder\.patch_encoder\.model\)"
    ):
        init(model)
    assert [type(module) for module in model.modules()] == classes


def test_what_is_no_model_of_transformers_is_refused_with_what_can_be_adapted_in_it() -> None:
    held = nn.ModuleDict({"text": BertModel(BertConfig(**BERT))})
    with pytest.raises(
        UnsupportedModelError, match=r"a PreTrainedModel, and was given ModuleDict.*init\(model\.text\)"
    ):
        init(held)
    with pytest.raises(UnsupportedModelError, match="was given str"):
        init("bert-base-uncased")
    init(held.text)


@pytest.mark.parametrize("config", ["double_seq_bn", "lora", "loreft"])
def test_modules_that_have_no_data_yet_wait_for_it_where_the_model_has_some(config: str) -> None:
    """While a checkpoint is read, what upstream makes with ``torch.Tensor(size)`` is there already, and may stand first (WavLM)."""
    with torch.device("meta"):
        model = upstream("bert")
        model.register_parameter("first", nn.Parameter(torch.Tensor(4).uniform_()))
        init(model)
        model.add_adapter("a", config=config)
    assert model.device.type == "cpu"
    made = [parameter for name, parameter in model.named_parameters() if ".a." in f".{name}."]
    assert made and all(parameter.is_meta for parameter in made)


class EditedBert(BertModelAdaptersMixin, BertModel):
    """What is generated where the forward of a base model itself was edited (XLM)."""

    def forward(self, input_ids: torch.Tensor | None = None, **kwargs: Any) -> Any:
        return BertModel.forward(self, input_ids, **kwargs)


def test_a_base_model_with_a_forward_of_its_own_spans_a_context_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one, `Parallel` would divide the rows that it should repeat."""
    monkeypatch.setitem(sys.modules, "edited_bert", SimpleNamespace(EditedBert=EditedBert))
    classes = registered().of_type("bert")
    name = "transformers.models.bert.modeling_bert.BertModel"
    edited = Classes(classes.model_mixins, {**classes.with_adapters, name: "edited_bert.EditedBert"})
    monkeypatch.setattr(type(registered()), "of_type", lambda self, model_type: edited)
    model = adapted("bert")
    assert (type(model).__name__, isinstance(model, EditedBert)) == ("BertModel", True)
    for adapter in "ab":
        model.add_adapter(adapter, config="seq_bn")
    model.set_active_adapters(Parallel("a", "b"))
    assert len(model(TOKENS)[0]) == 2 * len(TOKENS)
    assert type(pickle.loads(pickle.dumps(model))) is type(model)


def test_a_layer_that_lacks_a_module_is_refused_and_left_alone() -> None:
    model = upstream("llama")
    del model.layers[1].self_attn
    classes = [type(module) for module in model.modules()]
    with pytest.raises(UnsupportedModelError, match="has no module 'self_attn'"):
        init(model)
    assert [type(module) for module in model.modules()] == classes
    assert not hasattr(model.layers[0], "attention_adapters")


@pytest.mark.parametrize("used_elsewhere", [BertSelfAttention, BertOutput])
def test_a_module_outside_the_layers_stays_upstreams(used_elsewhere: type[torch.nn.Module]) -> None:
    model = upstream("bert")
    model.pooler.extra = used_elsewhere(model.config)
    init(model)
    assert type(model.pooler.extra) is used_elsewhere
    assert type(model.encoder.layer[0].output) is not BertOutput


def test_what_is_in_a_layer_outside_the_stacks_stays_upstreams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a module that says itself nothing of places for adapters: its edited forward calls what only a layer has prepared."""

    class Edited(modeling_llama.LlamaMLP):
        pass

    model = upstream("llama")
    init(model)
    layers = model.layers
    before: dict[nn.Module, type] = {layers[0]: LlamaDecoderLayer}
    for layer in layers:
        before[layer.mlp] = modeling_llama.LlamaMLP
        layer.mlp.__class__ = Edited
    monkeypatch.setattr(type(model), "iter_layers", lambda self: enumerate(list(layers)[1:], start=1))
    init_module._give_back_unplaced(model, before)
    assert [type(layer.mlp) for layer in layers[:2]] == [modeling_llama.LlamaMLP, Edited]
    assert type(layers[0]) is LlamaDecoderLayer


@pytest.mark.parametrize("kind", ["bert", "bert_lm"])
def test_a_module_with_a_name_of_ours_is_refused_and_left_alone(kind: str) -> None:
    model = upstream(kind)
    model.base_model.encoder.layer[1].output.runnable_blocks = torch.nn.Linear(1, 1)
    classes = [type(module) for module in model.modules()]
    with pytest.raises(UnsupportedModelError, match="BertOutput has runnable_blocks, which adapters need"):
        init(model)
    assert [type(module) for module in model.modules()] == classes


def test_what_is_no_interface_is_refused() -> None:
    with pytest.raises(InvalidConfigError, match="AdapterModelInterface"):
        init(upstream("llama"), interface=object())


def test_a_second_time_changes_nothing() -> None:
    model = adapted("llama_lm")
    classes = [type(module) for module in model.modules()]
    init(model)
    assert [type(module) for module in model.modules()] == classes


def test_upstream_classes_stay_as_they_were() -> None:
    before = {name: dict(vars(cls)) for name, cls in vars(modeling_llama).items() if isinstance(cls, type)}
    model = adapted("llama_lm")
    model.add_adapter("a", "mam", set_active=True)
    after = {name: dict(vars(cls)) for name, cls in vars(modeling_llama).items() if isinstance(cls, type)}
    assert after == before


@pytest.mark.parametrize("name", ["bert", "llama", "llama_lm"])
def test_what_upstream_never_splits_stays_whole(name: str) -> None:
    before = {
        type(part): set(type(part)._no_split_modules or ())
        for part in upstream(name).modules()
        if isinstance(part, PreTrainedModel)
    }
    model = adapted(name)
    layers = {path for path, module in model.named_modules() if re.search(r"layers?\.\d+$", path)}
    whole = {path for path, module in model.named_modules() if type(module).__name__ in model._no_split_modules}
    assert layers and layers <= whole
    assert {cls: set(cls._no_split_modules or ()) for cls in before} == before


def test_a_device_map_splits_no_layer() -> None:
    accelerate = pytest.importorskip("accelerate")
    model = adapted("llama")
    sizes = accelerate.utils.compute_module_sizes(model)
    room = int(1.5 * sizes["layers.0"])
    placed = accelerate.infer_auto_device_map(
        model, {0: room + sizes["embed_tokens"], "cpu": 10**9}, no_split_module_classes=list(model._no_split_modules)
    )
    assert not [path for path in placed if path.startswith("layers.") and path.count(".") > 1]
    assert len(set(placed.values())) == 2


def test_objects_and_parameters_stay() -> None:
    model = upstream("bert")
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    init(model)
    assert all(model.get_submodule(path) is module for path, module in modules.items())
    assert dict(model.named_parameters()).keys() == parameters.keys()
    assert all(model.get_parameter(path) is parameter for path, parameter in parameters.items())


def test_classes_look_like_upstreams() -> None:
    model = adapted("llama_lm")
    assert isinstance(model, LlamaForCausalLM)
    assert (type(model).__name__, type(model).__module__) == ("LlamaForCausalLM", LlamaForCausalLM.__module__)
    for ours, kind in ((model, "llama_lm"), (model.model, "llama")):
        own, theirs = (inspect.signature(one.forward).parameters for one in (ours, upstream(kind)))
        assert {name: own[name] for name in theirs} == dict(theirs)
        assert set(own) - set(theirs) == set(CALL_ARGUMENTS)


def test_only_models_that_can_generate_say_so() -> None:
    assert hasattr(adapted("llama_lm"), "generate")
    assert not hasattr(adapted("bert_lm"), "generate")


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_models_can_be_copied_and_pickled(kind: str, duplicate: Any, inputs: dict[str, torch.Tensor]) -> None:
    model = adapted(kind)
    model.add_adapter("a", "prefix_tuning_flat|lora|seq_bn", set_active=True)
    randomise(model, "a")
    again = duplicate(model)
    with torch.no_grad():
        expected = model(**inputs)[0]
        assert torch.equal(again(**inputs)[0], expected)
        randomise(model, "a", seed=5)  # the copy has parameters of its own, also where attentions refer to prefixes
        assert torch.equal(again(**inputs)[0], expected)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", CLASSES)
def test_outputs_are_bitwise_upstreams(kind: str, attention: str, inputs: dict[str, torch.Tensor]) -> None:
    wanted = {"output_hidden_states": True, "output_attentions": attention == "eager"}
    if kind == "bert_decoder":
        wanted["encoder_hidden_states"] = torch.randn(2, 5, 32)
    with torch.no_grad():
        expected = upstream(kind, attention)(**inputs, **wanted)
        given = adapted(kind, attention)(**inputs, **wanted)
    assert given.keys() == expected.keys()
    for ours, theirs in zip(_tensors(given), _tensors(expected), strict=True):
        assert torch.equal(ours, theirs)


def _tensors(output: Any) -> list[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        return [output]
    values = output.values() if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else ()
    return [tensor for value in values for tensor in _tensors(value)]


def test_a_forward_put_there_by_accelerate_calls_ours() -> None:
    model: PreTrainedModel = upstream("bert")
    layer = model.encoder.layer[0].attention.self
    calls: list[str] = []
    layer._old_forward = layer.forward

    def hooked(*args: Any, **kwargs: Any) -> Any:
        calls.append("hook")
        return layer._old_forward(*args, **kwargs)

    layer.forward = hooked
    init(model)
    assert layer._old_forward.__func__ is not BertSelfAttention.forward
    model.add_adapter("a", "prefix_tuning_flat", set_active=True)
    ids = torch.randint(3, 99, (1, 4))
    active = model(ids)[0]
    model.set_active_adapters(None)
    assert not torch.allclose(active, model(ids)[0])
    assert calls == ["hook", "hook"]


# Where the base model is


class Elsewhere(BertPreTrainedModel):
    """A class whose base model is not the attribute that upstream's `base_model_prefix` names."""

    def __init__(self, config: BertConfig, *names: str) -> None:
        super().__init__(config)
        for name in names:
            setattr(self, name, BertModel(config))
        self.score = nn.Linear(config.hidden_size, 2)
        self.post_init()

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.score(self.inner(input_ids).last_hidden_state)


def test_a_base_model_is_found_where_it_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Elsewhere(BertConfig(**BERT), "inner").eval()
    before = model(TOKENS)
    init(model)
    assert torch.equal(model(TOKENS), before)
    model.add_adapter("a", set_active=True)
    randomise(model, "a")
    changed = model(TOKENS)
    assert model.base_model is model.inner and not torch.equal(changed, before)
    model.save_adapter(tmp_path, "a")
    model.delete_adapter("a")
    model.load_adapter(tmp_path, set_active=True)
    assert torch.equal(model(TOKENS), changed)
    model.train_adapter("a")
    trained = {key.split(".")[0] for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"inner", "score"}
    assert Elsewhere.base_model_prefix == "bert"


def test_several_base_models_are_parts_of_one() -> None:
    model = Elsewhere(BertConfig(**BERT), "inner", "other").eval()
    expected = model(TOKENS)
    init(model)
    assert list(model.adapter_parts()) == ["inner", "other"]
    assert [index for index, _ in model.iter_layers()] == list(range(2 * BERT["num_hidden_layers"]))
    assert torch.equal(model(TOKENS), expected)
    model.add_adapter("a", set_active=True)
    assert {name.partition(".")[0] for name, _ in model.adapter_parameters("a")} == {"inner", "other"}


def test_a_whole_whose_part_was_turned_before_is_refused_and_left_alone() -> None:
    model = Elsewhere(BertConfig(**BERT), "inner", "other")
    init(model.inner)
    model.inner.add_adapter("a", set_active=True)
    classes = [type(module) for module in model.modules()]
    with pytest.raises(
        UnsupportedModelError, match=r"inner of Elsewhere has adapters of its own already.*init\(Elsewhere\) first"
    ):
        init(model)
    assert [type(module) for module in model.modules()] == classes
    assert model(TOKENS).shape == (*TOKENS.shape, 2)


class Vocoder(PreTrainedModel):
    """A model without layers, so that there are never adapter classes for it."""

    config_class = BertConfig


def test_models_beside_the_base_model_are_named(caplog: pytest.LogCaptureFixture) -> None:
    model = Elsewhere(BertConfig(**BERT), "inner")
    model.vocoder = Vocoder(BertConfig(**BERT))
    init(model)
    assert "adapters go into inner; other models in it have none: vocoder" in caplog.text


def test_a_base_model_with_an_attribute_of_the_name_of_base_models_is_one_itself() -> None:
    made = upstream("llama")
    made.model = nn.Linear(2, 2)  # LlamaModel.base_model_prefix is "model"
    before = made(TOKENS).last_hidden_state
    init(made)
    made.add_adapter("a", set_active=True)
    made.set_active_adapters(None)
    assert made.base_model is made and torch.equal(made(TOKENS).last_hidden_state, before)


def test_what_stands_outside_of_the_stacks_keeps_upstreams_classes() -> None:
    made = upstream("llama")
    made.inside = upstream("bert")
    made.extra = LlamaDecoderLayer(made.config, 0)
    names = {type(module).__name__ for part in (made.inside, made.extra) for module in part.modules()}
    wanted = made.inside(TOKENS).last_hidden_state
    init(made)
    made.add_adapter("a", config="seq_bn", set_active=True)
    assert {type(module).__name__ for part in (made.inside, made.extra) for module in part.modules()} == names
    assert torch.equal(made.inside(TOKENS).last_hidden_state, wanted)
    assert type(made.layers[0]) is not LlamaDecoderLayer


@pytest.mark.parametrize("path", ["adapter.layers", "adapter"])
def test_layers_that_upstreams_config_leaves_out_are_none(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    made = adapted("llama")
    layers = list(made.iter_layers())
    made.adapter = None
    monkeypatch.setattr(type(made), "layer_stacks", (*made.layer_stacks, LayerStack(path)))
    assert list(made.iter_layers()) == layers


def test_layers_that_are_not_where_they_should_be_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    made = adapted("llama")
    monkeypatch.setattr(type(made), "layer_stacks", (LayerStack("norm.layers"),))
    with pytest.raises(UnsupportedModelError, match=r"no layers at 'norm\.layers'"):
        list(made.iter_layers())


def test_layers_that_some_models_lack_are_none_where_they_are_said_to_be_optional(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Upstream chooses between two classes for what holds them (ZoeDepth's metric head), and one has no such attribute."""
    made = adapted("llama")
    layers = list(made.iter_layers())
    stack = LayerStack("norm.inner.layers", optional="norm.inner")
    monkeypatch.setattr(type(made), "layer_stacks", (*made.layer_stacks, stack))
    assert list(made.iter_layers()) == layers
    made.norm.inner = nn.Module()  # what is optional is there, and still holds no layers
    with pytest.raises(UnsupportedModelError, match=r"no layers at 'norm\.inner\.layers'"):
        list(made.iter_layers())


class Convolutions(PreTrainedModel):
    """A whole model for which there are no classes."""

    config_class = BertConfig
    _supports_sdpa = True

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.body = nn.Conv2d(3, 8, 2)
        self.post_init()

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.body(pixel_values)
        return states.mean((1, 2, 3))


class Beside(BertPreTrainedModel):
    """A class of somebody's own around BERT, as upstream's are, with another model beside it and a head."""

    def __init__(self, config: BertConfig, kind: str) -> None:
        super().__init__(config)
        self.bert = BertModel(config)
        vit = ViTConfig(
            hidden_size=24,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=8,
            patch_size=4,
        )
        self.vision = ViTModel(vit) if kind == "supported" else Convolutions(config)
        self.score = nn.Linear(config.hidden_size, 2)
        self.post_init()

    def forward(self, input_ids: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
        seen = self.vision(pixel_values)
        seen = seen if isinstance(seen, torch.Tensor) else seen.last_hidden_state.mean((1, 2))
        scores: torch.Tensor = self.score(self.bert(input_ids).last_hidden_state[:, 0]) + seen[:, None]
        return scores


def beside(kind: str) -> tuple[Beside, tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    model = Beside(BertConfig(**BERT), kind).eval()
    inputs = (TOKENS, torch.randn(len(TOKENS), 3, 8, 8))
    expected = model(*inputs)
    init(model)
    assert torch.equal(model(*inputs), expected)
    return model, inputs


def trained_beside_the_adapter(model: Any) -> set[str]:
    model.train_adapter("a")
    ours = {id(parameter) for parameter in model.trained_parameters("a")}
    return {
        name for name, parameter in model.named_parameters() if parameter.requires_grad and id(parameter) not in ours
    }


def test_a_supported_model_beside_the_base_model_is_a_part(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    model, inputs = beside("supported")
    assert list(model.adapter_parts()) == ["bert", "vision"] and not caplog.text
    model.add_adapter("a", "lora[init_weights='bert']", set_active=True)
    model.add_adapter("v", "lora[parts='vision']")
    assert trained_beside_the_adapter(model) == {"score.weight", "score.bias"}
    changed = model.eval()(*inputs)
    model.save_adapter(tmp_path, "a")
    other, _ = beside("supported")
    other.load_adapter(tmp_path, set_active=True)
    assert_close(other(*inputs), changed)


def test_a_whole_model_without_adapters_is_named_and_frozen(caplog: pytest.LogCaptureFixture) -> None:
    model, _ = beside("unsupported")
    assert caplog.text.count("other models in it have none: vision.") == 1
    assert model.base_model is model.bert
    model.add_adapter("a", set_active=True)
    assert trained_beside_the_adapter(model) == {"score.weight", "score.bias"}
    assert [head.name for head in model.summarized_heads()] == ["score"]
    twin = copy.deepcopy(model)
    assert trained_beside_the_adapter(twin) == {"score.weight", "score.bias"}
    model.freeze_model(False)
    assert all(parameter.requires_grad for parameter in model.vision.parameters())


def test_a_composite_freezes_a_whole_model_without_adapters_too(caplog: pytest.LogCaptureFixture) -> None:
    model = Elsewhere(BertConfig(**BERT), "inner", "other")
    model.vision = Convolutions(BertConfig(**BERT))
    init(model)
    assert "adapters go into inner, other; other models in it have none: vision." in caplog.text
    model.add_adapter("a")
    assert trained_beside_the_adapter(model) == {"score.weight", "score.bias"}


@pytest.mark.parametrize(
    ("name", "expected"), [("text_encoder", True), ("vision_proj", True), ("codec_model", False), ("generate", False)]
)
def test_in_a_class_of_upstreams_the_forward_says_what_it_runs(name: str, expected: bool) -> None:
    model = object.__new__(BlipForImageTextRetrieval)
    assert _is_run(model, f"{name}.encoder") is expected
    assert _is_run(object.__new__(Beside), name)


def test_a_text_encoder_of_upstreams_without_adapters_is_named_and_frozen(caplog: pytest.LogCaptureFixture) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    vision = {**sizes, "image_size": 8, "patch_size": 4}
    text = {**sizes, "vocab_size": 60, "encoder_hidden_size": 32, "projection_dim": 16}
    model = BlipForImageTextRetrieval(BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=16))
    init(model)
    assert "adapters go into vision_model; other models in it have none: text_encoder." in caplog.text
    model.add_adapter("a")
    trained = {name.partition(".")[0] for name in trained_beside_the_adapter(model)}
    assert {"vision_proj", "text_proj", "itm_head"} <= trained and "text_encoder" not in trained


def test_a_decoder_of_upstreams_with_the_config_of_the_whole_stays_a_head() -> None:
    model = CLIPSegForImageSegmentation(tiny_config("clipseg"))
    init(model)
    model.add_adapter("a", "lora")
    trained = {name.partition(".")[0] for name in trained_beside_the_adapter(model)}
    assert model.base_model is model.clip and trained == {"decoder"}


def test_a_codec_that_no_forward_runs_gets_no_adapters_and_is_frozen() -> None:
    model = KyutaiSpeechToTextForConditionalGeneration(tiny_config("kyutai_speech_to_text"))
    init(model)
    assert list(model.adapters_base.adapter_parts()) == [""]
    model.add_adapter("a")
    assert not {name for name in trained_beside_the_adapter(model) if name.startswith("codec_model.")}
