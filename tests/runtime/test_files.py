"""Adapters and heads go to disk and come back, or are refused with the model unchanged."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BertForSequenceClassification, PreTrainedModel

from adapter_models import AutoAdapterModel, init
from adapter_runtime.contract.names import InvalidNameError
from adapter_runtime.errors import (
    AdapterError,
    AdapterFileError,
    AdapterMismatchError,
    InvalidConfigError,
    UnknownAdapterError,
    UnsupportedMethodError,
)
from conformance.heads import realigned
from conformance.tiny import randomise, tiny_config

MODEL_TYPES = ["bert", "llama"]
CONFIGS = ["seq_bn", "double_seq_bn", "par_bn", "lora", "prefix_tuning", "prefix_tuning_flat", "mam", "unipelt"]
PLACES = {  # model type -> modules of the three methods in layer 0, as `adapters` names them
    "bert": ("bert.encoder.layer.0.output", "bert.encoder.layer.0.attention.self.query", "bert"),
    "llama": ("model.layers.0.output_adapters", "model.layers.0.self_attn.q_proj", "model"),
}


def adapter_model(model_type: str, **changes: Any) -> PreTrainedModel:
    """A model with flexible heads; the same weights each time."""
    torch.manual_seed(0)
    model = AutoAdapterModel.from_config(tiny_config(model_type, **changes))
    randomise(model)
    return model.eval()


def with_adapter(model_type: str, config: Any = "seq_bn", name: str = "a") -> PreTrainedModel:
    model = adapter_model(model_type)
    model.add_adapter(name, config)
    randomise_adapter(model, name)
    model.set_active_adapters(name)
    return model


def randomise_adapter(model: PreTrainedModel, name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in model.adapter_parameters(name):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


def run(model: PreTrainedModel) -> torch.Tensor:
    tokens = torch.randint(3, 90, (2, 7), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return model(input_ids=tokens)[0]


class Unchanged:
    """A model compared with what it was: modules, tensors bit by bit, adapters, heads and what is active."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.before = model, self.look(model)

    @staticmethod
    def look(model: PreTrainedModel) -> dict[str, Any]:
        return {
            "modules": [(name, id(module), type(module)) for name, module in model.named_modules()],
            "tensors": {key: tensor.clone() for key, tensor in model.state_dict().items()},
            "trained": [parameter.requires_grad for parameter in model.parameters()],
            "adapters": copy.deepcopy(model.adapters_config.to_dict()),
            "active": repr(model.active_adapters),
            "heads": copy.deepcopy(getattr(model.config, "prediction_heads", None)),
            "active_head": getattr(model, "active_head", None),
        }

    def check(self) -> None:
        was, now = dict(self.before), self.look(self.model)
        before, after = was.pop("tensors"), now.pop("tensors")
        assert now == was
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("use_safetensors", [True, False])
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_an_adapter_comes_back_bitwise_in_a_fresh_model(
    tmp_path: Path, model_type: str, config: str, use_safetensors: bool
) -> None:
    model = with_adapter(model_type, config)
    model.save_adapter(tmp_path / "deep" / "down", "a", use_safetensors=use_safetensors)
    other = adapter_model(model_type)
    assert not torch.equal(run(other), run(model))
    assert other.load_adapter(tmp_path / "deep" / "down", set_active=True) == "a"
    assert torch.equal(run(other), run(model))
    assert other.adapters_config.get("a") == model.adapters_config.get("a")


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_names_of_saved_tensors_are_those_of_adapters(tmp_path: Path, model_type: str) -> None:
    bottleneck, projection, base = PLACES[model_type]
    expected = {
        "seq_bn": {f"{bottleneck}.adapters.a.{leaf}" for leaf in BOTTLENECK_LEAVES},
        "lora": {f"{projection}.loras.a.lora_A", f"{projection}.loras.a.lora_B"},
        "prefix_tuning": {f"{base}.prefix_tuning.prefix_tunings.a.self_prefix.{leaf}" for leaf in PREFIX_LEAVES},
        "prefix_tuning_flat": {f"{base}.prefix_tuning.prefix_tunings.a.self_prefix.control_trans"},
    }
    for config, names in expected.items():
        with_adapter(model_type, config).save_adapter(tmp_path / config, "a")
        saved = set(load_file(tmp_path / config / "adapter.safetensors"))
        first_layer = {key for key in saved if ".1." not in key or config.startswith("prefix")}
        values = {key for key in first_layer if "value" in key or "v_proj" in key}
        assert first_layer - values == names


BOTTLENECK_LEAVES = ("adapter_down.0.weight", "adapter_down.0.bias", "adapter_up.weight", "adapter_up.bias")
PREFIX_LEAVES = (
    "wte.weight",
    "control_trans.0.weight",
    "control_trans.0.bias",
    "control_trans.2.weight",
    "control_trans.2.bias",
)


def test_the_exact_files_of_an_adapter_with_a_head(tmp_path: Path) -> None:
    model = with_adapter("bert")
    model.add_classification_head("a", num_labels=3, id2label={0: "x", 1: "y", 2: "z"})
    model.save_adapter(tmp_path, "a", meta_dict={"note": "n"})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "adapter.safetensors",
        "adapter_config.json",
        "head_config.json",
        "model_head.safetensors",
    ]
    adapter = json.loads((tmp_path / "adapter_config.json").read_text())
    assert adapter.pop("version").startswith("adapter-codegen.")
    assert adapter.pop("config") == model.adapters_config.get("a").to_dict()
    assert adapter == {
        "hidden_size": model.config.hidden_size,
        "model_class": "BertAdapterModel",
        "model_name": "",
        "model_type": "bert",
        "name": "a",
        "note": "n",
    }
    head = json.loads((tmp_path / "head_config.json").read_text())
    assert head["name"] == "a"
    assert head["config"] == {
        "head_type": "classification",
        "num_labels": 3,
        "label2id": {"x": 0, "y": 1, "z": 2},
        "layers": 2,
        "activation_function": "tanh",
        "use_pooler": False,
        "bias": True,
        "dropout_prob": None,
    }
    assert set(load_file(tmp_path / "model_head.safetensors")) == {
        "heads.a.1.weight",
        "heads.a.1.bias",
        "heads.a.4.weight",
        "heads.a.4.bias",
    }


def test_the_config_of_a_saved_adapter_has_the_fields_of_adapters(tmp_path: Path) -> None:
    """Field by field the file of a seq_bn adapter that `adapters` 1.3.0 wrote."""
    recorded = Path(__file__).parent / "fixtures" / "parity" / "bert" / "seq_bn" / "adapter_config.json"
    with_adapter("bert", "seq_bn").save_adapter(tmp_path, "a")
    ours = json.loads((tmp_path / "adapter_config.json").read_text())
    theirs = json.loads(recorded.read_text())
    assert ours["config"] == theirs["config"]
    assert ours.keys() == theirs.keys()


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("config", ["seq_bn", "lora", "prefix_tuning"])
def test_adapters_move_between_a_bare_base_model_and_one_with_heads(
    tmp_path: Path, model_type: str, config: str
) -> None:
    model = with_adapter(model_type, config)
    bare = AutoModel.from_config(model.config)
    init(bare)
    model.save_adapter(tmp_path / "with", "a")
    bare.load_adapter(tmp_path / "with")
    prefix = f"{model.base_model_prefix}."
    assert {f"{prefix}{name}" for name, _ in bare.adapter_parameters("a")} == {
        name for name, _ in model.adapter_parameters("a")
    }
    bare.save_adapter(tmp_path / "bare", "a")
    assert not any(key.startswith(prefix) for key in load_file(tmp_path / "bare" / "adapter.safetensors"))
    other = adapter_model(model_type)
    other.load_adapter(tmp_path / "bare", set_active=True)
    assert torch.equal(run(other), run(model))


def test_an_adapter_is_loaded_under_another_name(tmp_path: Path) -> None:
    model = with_adapter("bert", "unipelt")
    model.add_tagging_head("a")
    model.save_adapter(tmp_path, "a")
    other = adapter_model("bert")
    assert other.load_adapter(tmp_path, load_as="b", set_active=True) == "b"
    assert list(other.adapters_config) == ["b"]
    assert list(other.heads) == ["b"]
    assert other.active_head == "b"
    assert torch.equal(run(other), run(model))


def test_loading_into_an_adapter_with_the_same_config_replaces_its_weights(tmp_path: Path) -> None:
    model = with_adapter("bert")
    model.save_adapter(tmp_path, "a")
    other = adapter_model("bert")
    other.add_adapter("a", "seq_bn")
    other.load_adapter(tmp_path, set_active=True)
    assert torch.equal(run(other), run(model))


def test_all_adapters_are_saved_to_folders_of_their_names(tmp_path: Path) -> None:
    model = with_adapter("llama")
    model.add_adapter("b", "lora")
    model.save_all_adapters(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    other = adapter_model("llama")
    assert [other.load_adapter(tmp_path / name) for name in "ab"] == ["a", "b"]


def test_a_config_given_by_the_caller_changes_options_of_the_file(tmp_path: Path) -> None:
    with_adapter("bert", "lora").save_adapter(tmp_path, "a")
    other = adapter_model("bert")
    other.load_adapter(tmp_path, config={"alpha": 32})
    assert other.adapters_config.get("a")["alpha"] == 32


def test_a_static_head_goes_along_with_the_adapter(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = BertForSequenceClassification(tiny_config("bert", num_labels=3)).eval()
    init(model)
    model.add_adapter("a")
    model.set_active_adapters("a")
    model.save_adapter(tmp_path, "a")
    head = json.loads((tmp_path / "head_config.json").read_text())
    assert (head["config"], head["name"], head["num_labels"]) == (None, None, 3)
    assert head["model_class"] == "BertForSequenceClassification"
    assert set(load_file(tmp_path / "model_head.safetensors")) == {"classifier.weight", "classifier.bias"}
    same = BertForSequenceClassification(model.config).eval()
    same.load_state_dict({key: tensor for key, tensor in model.state_dict().items() if ".adapters." not in key})
    torch.nn.init.normal_(same.classifier.weight)
    init(same)
    same.load_adapter(tmp_path, set_active=True)
    assert torch.equal(run(same), run(model))
    flexible = AutoAdapterModel.from_config(model.config).eval()
    flexible.bert.load_state_dict(same.bert.state_dict(), strict=False)
    flexible.load_adapter(tmp_path, set_active=True)
    assert flexible.active_head == "a"
    assert flexible.heads["a"].config["use_pooler"] is True
    assert torch.equal(run(flexible), run(model))


def test_the_head_of_another_class_is_left_where_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = with_adapter("bert")
    model.add_tagging_head("a")
    model.save_adapter(tmp_path, "a")
    static = BertForSequenceClassification(model.config)
    init(static)
    before = static.classifier.weight.clone()
    static.load_adapter(tmp_path)
    assert "was not loaded into a BertForSequenceClassification" in caplog.text
    assert torch.equal(static.classifier.weight, before)


def edit_json(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = folder / "adapter.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def drop_one(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[min(tensors)]


def add_one(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{min(tensors)}_too"] = torch.zeros(1)


def reshape_one(tensors: dict[str, torch.Tensor]) -> None:
    tensors[min(tensors)] = torch.zeros(77)


BROKEN: dict[str, tuple[Callable[[Path], Any], type[AdapterError], str]] = {
    "the file of weights is gone": (
        lambda folder: (folder / "adapter.safetensors").unlink(),
        AdapterFileError,
        "looked for adapter.safetensors and pytorch_adapter.bin",
    ),
    "the file of weights is cut short": (
        lambda folder: (folder / "adapter.safetensors").write_bytes(
            (folder / "adapter.safetensors").read_bytes()[:-10]
        ),
        AdapterFileError,
        "is damaged",
    ),
    "the config is gone": (lambda folder: (folder / "adapter_config.json").unlink(), AdapterFileError, "it has no"),
    "the config is no JSON": (
        lambda folder: (folder / "adapter_config.json").write_text("{"),
        AdapterFileError,
        "is damaged",
    ),
    "the config names an option that there is not": (
        lambda folder: edit_json(folder, config={"architecture": "lora", "rank": 4}),
        InvalidConfigError,
        "has no option 'rank'",
    ),
    "the config has an architecture that there is not": (
        lambda folder: edit_json(folder, config={"architecture": "magic"}),
        InvalidConfigError,
        "architecture 'magic'",
    ),
    "there is no config": (lambda folder: edit_json(folder, config=None), AdapterFileError, 'has no "config"'),
    "the name leads out of the folder": (
        lambda folder: edit_json(folder, name="../../evil"),
        InvalidNameError,
        "contains '.' '/'",
    ),
    "there is no name": (lambda folder: edit_json(folder, name=None), AdapterFileError, "gives no name"),
    "a tensor is missing": (
        lambda folder: edit_tensors(folder, drop_one),
        AdapterMismatchError,
        "missing from the file \\(1\\)",
    ),
    "a tensor is unknown": (
        lambda folder: edit_tensors(folder, add_one),
        AdapterMismatchError,
        "unknown to the model \\(1\\)",
    ),
    "a tensor has another shape": (
        lambda folder: edit_tensors(folder, reshape_one),
        AdapterMismatchError,
        "of another shape \\(1\\)",
    ),
    "the weights belong to no adapter": (
        lambda folder: edit_tensors(folder, lambda tensors: (tensors.clear(), tensors.update(x=torch.ones(1)))),
        AdapterFileError,
        "hold no adapter",
    ),
    "the head beside it is damaged": (
        lambda folder: (folder / "model_head.safetensors").write_bytes(b"x"),
        AdapterFileError,
        "is damaged",
    ),
    "the head beside it is of an unknown type": (
        lambda folder: (folder / "head_config.json").write_text('{"name": "a", "config": {"head_type": "magic"}}'),
        AdapterError,
        "no head of type 'magic'|a head 'a' with another config",
    ),
}


@pytest.mark.parametrize("present", [False, True], ids=["into a fresh model", "over an adapter and head of that name"])
@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case)
def test_a_broken_file_is_refused_and_the_model_stays_as_it_was(tmp_path: Path, case: str, present: bool) -> None:
    spoil, error, message = BROKEN[case]
    model = with_adapter("bert", "seq_bn")
    model.add_classification_head("a")
    model.save_adapter(tmp_path, "a")
    spoil(tmp_path)
    other = adapter_model("bert")
    other.add_adapter("other", "lora", set_active=True)
    if present:
        other.add_adapter("a", "seq_bn")
        other.add_classification_head("a")
    unchanged = Unchanged(other)
    with pytest.raises(error, match=message):
        other.load_adapter(tmp_path, set_active=True)
    unchanged.check()


def test_the_comparison_with_what_was_notices_a_changed_bit() -> None:
    model = with_adapter("bert")
    unchanged = Unchanged(model)
    with torch.no_grad():
        next(parameter for _, parameter in model.adapter_parameters("a")).view(-1)[0].add_(1e-6)
    with pytest.raises(AssertionError):
        unchanged.check()


@pytest.mark.parametrize(("source", "target"), [("bert", "llama"), ("llama", "bert")])
@pytest.mark.parametrize("config", ["seq_bn", "lora", "prefix_tuning"])
def test_an_adapter_of_another_architecture_is_refused(tmp_path: Path, source: str, target: str, config: str) -> None:
    with_adapter(source, config).save_adapter(tmp_path, "a")
    model = adapter_model(target)
    unchanged = Unchanged(model)
    with pytest.raises(AdapterMismatchError) as error:
        model.load_adapter(tmp_path)
    assert f"of type {source!r}; this is a" in str(error.value)
    assert f"of type {target!r}." in str(error.value) and "strict=False" in str(error.value)
    assert "The model is unchanged." in str(error.value)
    unchanged.check()


def test_another_architecture_of_equal_shapes_is_refused_unless_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with_adapter("bert").save_adapter(tmp_path, "a")
    edit_json(tmp_path, model_type="roberta", model_class="RobertaAdapterModel")
    model = adapter_model("bert")
    unchanged = Unchanged(model)
    with pytest.raises(AdapterMismatchError, match="from a RobertaAdapterModel of type 'roberta'"):
        model.load_adapter(tmp_path)
    unchanged.check()
    assert model.load_adapter(tmp_path, strict=False) == "a"
    assert "of type 'roberta'" in caplog.text


def test_a_file_that_names_no_architecture_is_loaded(tmp_path: Path) -> None:
    with_adapter("bert").save_adapter(tmp_path, "a")
    edit_json(tmp_path, model_type=None)
    assert adapter_model("bert").load_adapter(tmp_path) == "a"


def test_without_strict_what_fits_is_loaded_and_the_rest_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = with_adapter("bert")
    model.save_adapter(tmp_path, "a")
    edit_tensors(tmp_path, drop_one)
    other = adapter_model("bert")
    other.load_adapter(tmp_path, strict=False)
    assert "missing from the file (1)" in caplog.text
    ours, theirs = dict(other.adapter_parameters("a")), dict(model.adapter_parameters("a"))
    assert sum(torch.equal(ours[name], theirs[name]) for name in theirs) == len(theirs) - 1


def test_without_strict_a_different_shape_is_still_refused(tmp_path: Path) -> None:
    with_adapter("bert").save_adapter(tmp_path, "a")
    edit_tensors(tmp_path, reshape_one)
    with pytest.raises(AdapterMismatchError, match="of another shape"):
        adapter_model("bert").load_adapter(tmp_path, strict=False)


def test_an_adapter_of_that_name_with_another_config_is_not_overwritten(tmp_path: Path) -> None:
    with_adapter("bert", "seq_bn").save_adapter(tmp_path, "a")
    other = with_adapter("bert", "lora")
    unchanged = Unchanged(other)
    with pytest.raises(AdapterMismatchError, match=r"with another config\. Load under a new name"):
        other.load_adapter(tmp_path)
    unchanged.check()


def test_saving_an_adapter_that_there_is_not_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnknownAdapterError, match="no adapter 'b'"):
        with_adapter("bert").save_adapter(tmp_path / "x", "b")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["../evil", "a/b", "a.b", "keys"])
def test_no_adapter_can_have_a_name_that_leads_elsewhere(tmp_path: Path, name: str) -> None:
    model = adapter_model("bert")
    unchanged = Unchanged(model)
    with pytest.raises(InvalidNameError):
        model.add_adapter(name)
    unchanged.check()
    with_adapter("bert").save_adapter(tmp_path, "a")
    with pytest.raises(InvalidNameError):
        model.load_adapter(tmp_path, load_as=name)
    unchanged.check()


def test_a_file_of_llama_by_adapters_puts_its_intermediate_lora_at_the_last_projection(tmp_path: Path) -> None:
    """`adapters` names the places of Llama's feed-forward block the other way round."""
    model = with_adapter("llama", "lora[output_lora=True]")
    model.save_adapter(tmp_path, "a")
    config = json.loads((tmp_path / "adapter_config.json").read_text())["config"]
    edit_json(tmp_path, version="adapters.1.3.0", config={**config, "output_lora": False, "intermediate_lora": True})
    other = adapter_model("llama")
    other.load_adapter(tmp_path, set_active=True)
    assert any("down_proj.loras" in name for name, _ in other.adapter_parameters("a"))
    assert torch.equal(run(other), run(model))
    edit_json(tmp_path, version="adapter-codegen.0.1.0")
    with pytest.raises(AdapterMismatchError):
        adapter_model("llama").load_adapter(tmp_path)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_whole_model_comes_back_with_its_adapters_and_heads(tmp_path: Path, model_type: str) -> None:
    model = with_adapter(model_type, "unipelt")
    model.add_adapter("b", "seq_bn")
    model.add_tagging_head("h")
    model.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert set(stored["adapters"]["adapters"]) == {"a", "b"}
    assert (
        stored["adapters"]["config_map"][stored["adapters"]["adapters"]["b"]]
        == model.adapters_config.get("b").to_dict()
    )
    assert stored["prediction_heads"]["h"]["head_type"] == "tagging"
    again = realigned(AutoAdapterModel.from_pretrained(tmp_path))
    again.set_active_adapters("a")
    again.active_head = "h"
    assert again.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(run(again), run(model))
    again.delete_adapter("a")
    again.delete_adapter("b")
    again.save_pretrained(tmp_path / "without")
    assert "adapters" not in json.loads((tmp_path / "without" / "config.json").read_text())


def test_adapters_in_layers_that_upstream_ties_by_their_names_stay_their_own(tmp_path: Path) -> None:
    """Zamba's attention is one module of weights in several layers; each has a LoRA of its own, before and after it is saved."""
    model = adapter_model("zamba")
    model.add_adapter("a", "lora")
    randomise_adapter(model, "a")
    model.set_active_adapters("a")
    tied = model.get_expanded_tied_weights_keys(all_submodels=True)
    shared = {key for key in tied if ".shared_transf." in key}
    assert shared and not any(".loras." in key for key in shared)
    model.tie_weights()
    first, second = [one for name, one in model.adapter_parameters("a") if name.endswith("q_proj.loras.a.lora_B")]
    assert not torch.equal(first, second)
    model.save_pretrained(tmp_path)
    again = AutoAdapterModel.from_pretrained(tmp_path).eval()
    again.set_active_adapters("a")
    assert torch.equal(run(again), run(model))


def test_saving_a_model_leaves_its_config_without_adapters(tmp_path: Path) -> None:
    model = with_adapter("bert")
    model.save_pretrained(tmp_path)
    assert not AutoAdapterModel.from_config(model.config).has_adapters()


@pytest.mark.parametrize("place", ["q_proj", pytest.param("o_proj", id="a weight without adapters may be shared")])
def test_an_adapter_with_two_places_in_one_weight_is_not_merged(place: str) -> None:
    model = with_adapter("llama", "lora")
    first, second = (layer.self_attn.get_submodule(place) for layer in model.model.layers[:2])
    second.weight = first.weight
    before = first.weight.clone()
    if place == "o_proj":
        model.merge_adapter("a")
        return
    with pytest.raises(UnsupportedMethodError, match="share one weight"):
        model.merge_adapter("a")
    assert torch.equal(first.weight, before)
    assert not model.merged_adapters()


def test_a_merged_adapter_is_saved_as_part_of_the_weights(tmp_path: Path) -> None:
    model = with_adapter("llama", "lora")
    model.add_adapter("b", "seq_bn")
    model.merge_adapter("a")
    assert model.merged_adapters() == {"a"}
    model.save_pretrained(tmp_path)
    again, info = AutoAdapterModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert list(again.adapters_config) == ["b"]
    assert torch.equal(run(again), run(model))


def test_an_adapter_that_is_in_the_weights_is_not_loaded_over(tmp_path: Path) -> None:
    model = with_adapter("llama", "lora")
    model.save_adapter(tmp_path, "a")
    model.merge_adapter("a")
    merged = run(model)
    with pytest.raises(AdapterMismatchError, match=r"reset_adapter\(\)"):
        model.load_adapter(tmp_path)
    assert model.merged_adapters() == {"a"} and torch.equal(run(model), merged)
    model.reset_adapter()
    assert model.load_adapter(tmp_path) == "a"
