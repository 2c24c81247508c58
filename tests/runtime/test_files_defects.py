"""Files: one test for each defect of `adapters` in this area, by its number, and for each oddity of its files."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoModel, BertForSequenceClassification, PreTrainedModel

from adapter_models import AutoAdapterModel, init
from adapter_runtime.errors import (
    AdapterError,
    AdapterFileError,
    AdapterMismatchError,
    InvalidConfigError,
    UnsupportedMethodError,
)
from adapter_runtime.methods.prompt_tuning.config import PromptTuningConfig
from adapter_runtime.methods.reft.config import DiReftConfig, NoReftConfig
from conformance.tiny import randomise, tiny_config

COMPACTER = "compacter[reduction_factor=4]"


def adapter_model(model_type: str = "bert") -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoAdapterModel.from_config(tiny_config(model_type))
    randomise(model)
    return model.eval()


def bare_model() -> PreTrainedModel:
    model = AutoModel.from_config(tiny_config("bert")).eval()
    model.load_state_dict(adapter_model().bert.state_dict())
    init(model)
    return model


def add(model: PreTrainedModel, config: Any, name: str = "a") -> PreTrainedModel:
    model.add_adapter(name, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in model.adapter_parameters(name):
            if "parametrizations" not in key:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    model.set_active_adapters(name)
    return model


def run(model: PreTrainedModel) -> torch.Tensor:
    tokens = torch.randint(3, 90, (2, 6), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return model(input_ids=tokens)[0]


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("config", [DiReftConfig(), NoReftConfig(), PromptTuningConfig(random_uniform_scale=0.1)])
def test_defect_7_every_option_is_in_the_file(tmp_path: Path, config: Any) -> None:
    """`adapters` leaves out subtract_projection and random_uniform_scale: DiReFT comes back as NoReFT."""
    model = add(adapter_model(), config)
    model.save_adapter(tmp_path, "a")
    other = adapter_model()
    other.load_adapter(tmp_path, set_active=True)
    assert other.adapters_config.get("a") == config
    assert torch.equal(run(other), run(model))


def test_oddity_2_a_file_of_direft_by_adapters_needs_the_callers_word(tmp_path: Path) -> None:
    model = add(adapter_model(), "direft")
    model.save_adapter(tmp_path, "a")
    stored = dict(model.adapters_config.get("a").to_dict())
    del stored["subtract_projection"]
    edit(tmp_path / "adapter_config.json", config=stored, version="adapters.1.3.0")
    other = adapter_model()
    other.load_adapter(tmp_path, config={"subtract_projection": False}, set_active=True)
    assert torch.equal(run(other), run(model))
    assert adapter_model().load_adapter(tmp_path) == "a"


@pytest.mark.parametrize("config", [COMPACTER, "vera", "dvora", "compacter[reduction_factor=4,shared_W_phm=True]"])
@pytest.mark.parametrize("use_safetensors", [True, False])
def test_defect_8_parameters_that_layers_share_are_saved_from_bare_models_too(
    tmp_path: Path, config: str, use_safetensors: bool
) -> None:
    model = add(bare_model(), config)
    model.save_adapter(tmp_path, "a", use_safetensors=use_safetensors)
    for other in (bare_model(), adapter_model()):
        other.load_adapter(tmp_path, set_active=True)
        assert torch.equal(run(other), run(model))


@pytest.mark.parametrize("config", [COMPACTER, "vera"])
def test_oddity_1_a_file_without_its_shared_parameters_is_refused(tmp_path: Path, config: str) -> None:
    """`adapters` writes such files from bare base models, and fills in random values."""
    add(bare_model(), config).save_adapter(tmp_path, "a")
    path = tmp_path / "adapter.safetensors"
    save_file({key: tensor for key, tensor in load_file(path).items() if "shared_parameters" not in key}, path)
    model = adapter_model()
    with pytest.raises(AdapterMismatchError, match="`adapters` leaves them out for bare base models"):
        model.load_adapter(tmp_path)
    assert not model.has_adapters()


def test_oddity_3_an_ejected_prefix_is_read_and_written_as_what_it_is(tmp_path: Path) -> None:
    model = add(adapter_model(), "prefix_tuning[prefix_length=3]")
    before = run(model)
    model.eject_prefix_tuning("a")
    assert torch.allclose(run(model), before, atol=1e-6)
    model.save_adapter(tmp_path, "a")
    stored = json.loads((tmp_path / "adapter_config.json").read_text())["config"]
    assert stored["flat"] is True
    edit(tmp_path / "adapter_config.json", config={**stored, "flat": False}, version="adapters.1.3.0")
    other = adapter_model()
    other.load_adapter(tmp_path, set_active=True)
    assert torch.equal(run(other), run(model))


def test_oddity_4_tensors_of_heads_whose_names_begin_alike_are_left_alone(tmp_path: Path) -> None:
    model = add(adapter_model(), "seq_bn", "h")
    model.add_tagging_head("h")
    model.add_tagging_head("h2", num_labels=5)
    model.save_adapter(tmp_path, "h")
    path = tmp_path / "model_head.safetensors"
    assert not any(key.startswith("heads.h2.") for key in load_file(path)), "they are not written either"
    save_file(
        {
            **load_file(path),
            **{key: t.detach().clone() for key, t in model.state_dict().items() if ".h2." in f".{key}"},
        },
        path,
    )
    other = adapter_model()
    other.load_adapter(tmp_path)
    assert list(other.heads) == ["h"]


@pytest.mark.parametrize("config", ["prefix_tuning", "mam", COMPACTER, "vera", "loreft", "seq_bn"])
def test_defect_23_a_model_goes_on_working_after_it_was_saved(tmp_path: Path, config: str) -> None:
    model = add(adapter_model(), config)
    before = run(model)
    keys = list(model.state_dict())
    model.save_pretrained(tmp_path)
    assert torch.equal(run(model), before)
    assert list(model.state_dict()) == keys
    add(model, config, "b")
    model.train_adapter("b")
    model(input_ids=torch.arange(3, 9)[None])[0].sum().backward()
    assert all(parameter.grad is not None for parameter in model.trained_parameters("b"))
    again = AutoAdapterModel.from_pretrained(tmp_path)
    again.set_active_adapters("a")
    state = model.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in again.state_dict().items())
    assert_close(run(again), before)


@pytest.mark.parametrize("config", ["seq_bn", "prefix_tuning", "lora", COMPACTER, "vera", "loreft", "unipelt"])
@pytest.mark.parametrize(
    "copied", [lambda model: pickle.loads(pickle.dumps(model)), copy.deepcopy], ids=["pickle", "deepcopy"]
)
def test_defect_28_a_model_can_be_pickled_and_copied(tmp_path: Path, config: str, copied: Any) -> None:
    model = add(adapter_model(), config)
    model.add_tagging_head("h")
    twin = copied(model)
    assert torch.equal(run(twin), run(model))
    twin.save_adapter(tmp_path, "a")
    add(twin, config, "b")
    twin.delete_adapter("a")
    other = adapter_model()
    other.load_adapter(tmp_path, set_active=True)
    model.active_head = None
    assert torch.equal(run(other), run(model))


@pytest.mark.parametrize("name", ["a", "b"])
def test_defect_29_an_adapter_that_is_there_already_is_activated_too(tmp_path: Path, name: str) -> None:
    model = add(adapter_model(), "seq_bn")
    model.save_adapter(tmp_path, "a")
    other = adapter_model()
    other.add_adapter(name, "seq_bn")
    other.load_adapter(tmp_path, load_as=name, set_active=True)
    assert other.active_adapters is not None and other.active_adapters.flatten() == {name}
    assert torch.equal(run(other), run(model))


@pytest.mark.parametrize(
    "config", ["prefix_tuning", "seq_bn[ln_before=True]", "seq_bn[ln_before=True,ln_after=True]", "unipelt"]
)
def test_defect_30_safetensors_hold_tensors_with_several_names(tmp_path: Path, config: str) -> None:
    model = add(adapter_model(), config)
    model.save_adapter(tmp_path, "a")
    assert [path.name for path in tmp_path.glob("*a*.*t*") if path.suffix != ".json"] == ["adapter.safetensors"]
    other = adapter_model()
    other.load_adapter(tmp_path, set_active=True)
    assert torch.equal(run(other), run(model))


def test_defect_30_a_folder_without_the_wanted_format_says_what_is_missing(tmp_path: Path) -> None:
    add(adapter_model(), "seq_bn").save_adapter(tmp_path, "a")
    with pytest.raises(AdapterFileError, match=r"looked for pytorch_adapter\.bin"):
        adapter_model().load_adapter(tmp_path, use_safetensors=False)


@pytest.mark.parametrize(
    "config", ["prompt_tuning", "prefix_tuning", "loreft", COMPACTER, "seq_bn_inv", "vera", "mtl_lora"]
)
def test_defect_32_every_method_can_be_loaded_under_another_name(tmp_path: Path, config: str) -> None:
    model = add(adapter_model(), config)
    model.save_adapter(tmp_path, "a")
    other = adapter_model()
    other.load_adapter(tmp_path, load_as="b", set_active=True)
    assert list(other.adapters_config) == ["b"]
    assert torch.equal(run(other), run(model))


def test_defect_33_folders_are_made_with_all_that_leads_there(tmp_path: Path) -> None:
    model = add(adapter_model(), "seq_bn")
    model.add_tagging_head("h")
    model.save_head(tmp_path / "x" / "y" / "head", "h")
    model.save_all_heads(tmp_path / "u" / "v")
    model.save_all_adapters(tmp_path / "p" / "q")
    assert (tmp_path / "x" / "y" / "head" / "head_config.json").is_file()
    assert (tmp_path / "u" / "v" / "h" / "model_head.safetensors").is_file()
    assert (tmp_path / "p" / "q" / "a" / "adapter_config.json").is_file()


# Options of loading


def test_layers_are_left_out(tmp_path: Path) -> None:
    model = add(adapter_model(), "double_seq_bn|lora")
    model.save_adapter(tmp_path, "a")
    other = adapter_model()
    other.load_adapter(tmp_path, leave_out=[0], set_active=True)
    model.set_active_adapters("a", skip_layers=[0])
    assert not any(".layer.0." in key for key, _ in other.adapter_parameters("a"))
    assert torch.equal(run(other), run(model))
    assert [list(member["leave_out"]) for member in other.adapters_config.get("a")["configs"]] == [[0], [0]]


def test_layers_of_reft_are_left_out(tmp_path: Path) -> None:
    add(adapter_model(), "loreft").save_adapter(tmp_path, "a")
    model = adapter_model()
    model.load_adapter(tmp_path, leave_out=[1])
    assert list(model.adapters_config.get("a")["layers"]) == [0]


@pytest.mark.parametrize(
    ("config", "leave_out", "error", "message"),
    [
        ("prefix_tuning", [0], UnsupportedMethodError, "those of the whole model"),
        ("prompt_tuning", [0], UnsupportedMethodError, "those of the whole model"),
        ("seq_bn", [7], InvalidConfigError, r"names the layers \[7\], but the model has 0 to 1"),
    ],
)
def test_layers_that_cannot_be_left_out(
    tmp_path: Path, config: str, leave_out: list[int], error: type[AdapterError], message: str
) -> None:
    add(adapter_model(), config).save_adapter(tmp_path, "a")
    model = adapter_model()
    with pytest.raises(error, match=message):
        model.load_adapter(tmp_path, leave_out=leave_out)
    assert not model.has_adapters()


def saved_with_head(tmp_path: Path) -> Path:
    model = add(adapter_model(), "seq_bn")
    model.add_classification_head("a", num_labels=3, id2label={0: "x", 1: "y", 2: "z"})
    model.save_adapter(tmp_path, "a")
    return tmp_path


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        ({}, ["x", "y", "z"]),
        ({"id2label": {0: "p", 1: "q", 2: "r"}}, ["p", "q", "r"]),
        ({"num_labels": 3}, ["LABEL_0", "LABEL_1", "LABEL_2"]),
    ],
)
def test_labels_of_a_flexible_head_are_named_by_the_caller(
    tmp_path: Path, options: dict[str, Any], labels: list[str]
) -> None:
    model = adapter_model()
    model.load_adapter(saved_with_head(tmp_path), **options)
    assert model.get_labels("a") == labels
    again = adapter_model()
    again.load_head(tmp_path, **options)
    assert again.get_labels("a") == labels


def test_labels_of_another_number_are_refused(tmp_path: Path) -> None:
    model = adapter_model()
    with pytest.raises(AdapterMismatchError, match="of another shape"):
        model.load_adapter(saved_with_head(tmp_path), num_labels=4)
    assert not model.has_adapters() and not model.heads


def test_labels_of_a_static_head_are_those_of_the_file_or_of_the_caller(tmp_path: Path) -> None:
    names = {0: "x", 1: "y", 2: "z"}
    model = BertForSequenceClassification(tiny_config("bert", id2label=names))
    init(model)
    model.save_head(tmp_path)
    for given, expected in ((None, names), ({0: "p", 1: "q", 2: "r"}, {0: "p", 1: "q", 2: "r"})):
        other = BertForSequenceClassification(tiny_config("bert", num_labels=3))
        init(other)
        other.load_head(tmp_path, id2label=given)
        assert other.config.id2label == expected
        assert other.config.label2id == {label: index for index, label in expected.items()}


def test_labels_without_a_head_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    add(adapter_model(), "seq_bn").save_adapter(tmp_path, "a")
    adapter_model().load_adapter(tmp_path, num_labels=2)
    assert "no head was loaded" in caplog.text


def test_the_head_of_another_architecture_is_refused(tmp_path: Path) -> None:
    model = adapter_model()
    model.add_tagging_head("h")
    model.save_head(tmp_path, "h")
    edit(tmp_path / "head_config.json", model_type="roberta")
    with pytest.raises(AdapterMismatchError, match="of type 'roberta'"):
        adapter_model().load_head(tmp_path)


def test_a_config_of_the_caller_takes_the_place_of_that_in_the_file(tmp_path: Path) -> None:
    add(adapter_model(), "lora").save_adapter(tmp_path, "a")
    edit(tmp_path / "adapter_config.json", config=None)
    model = adapter_model()
    model.load_adapter(tmp_path, config="lora[alpha=2]")
    assert model.adapters_config.get("a")["alpha"] == 2


def test_the_name_of_the_model_is_ignored_with_a_warning(tmp_path: Path) -> None:
    add(adapter_model(), "seq_bn").save_adapter(tmp_path, "a")
    with pytest.warns(FutureWarning, match="model_name is ignored"):
        adapter_model().load_adapter(tmp_path, model_name="bert-base-uncased")
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        adapter_model().load_adapter(tmp_path)
    with pytest.raises(TypeError, match="colour"):
        adapter_model().load_adapter(tmp_path, colour="red")


def test_all_heads_are_saved_to_folders_of_their_names(tmp_path: Path) -> None:
    model = adapter_model()
    for name in "hk":
        model.add_tagging_head(name)
    model.save_all_heads(tmp_path / "flexible", use_safetensors=False)
    assert sorted(path.name for path in (tmp_path / "flexible").iterdir()) == ["h", "k"]
    assert (tmp_path / "flexible" / "h" / "pytorch_model_head.bin").is_file()
    static = BertForSequenceClassification(tiny_config("bert"))
    init(static)
    static.save_all_heads(tmp_path / "static")
    assert (tmp_path / "static" / "head_config.json").is_file()


@pytest.mark.parametrize("value", [None, -1, 1.5, "x", [], {}, True], ids=repr)
@pytest.mark.parametrize(
    "where", ["version", "name", "config", "r", "alpha", "leave_out", "architecture", "attn_matrices"]
)
def test_whatever_stands_in_a_document_it_is_read_or_refused_as_damaged(
    tmp_path: Path, where: str, value: Any
) -> None:
    """Never an error that does not say which file it is about, and never a model that was changed halfway."""
    add(adapter_model(), "lora").save_adapter(tmp_path, "a")
    path = tmp_path / "adapter_config.json"
    document = json.loads(path.read_text())
    (document if where in document else document["config"])[where] = value
    path.write_text(json.dumps(document))
    model = adapter_model()
    try:
        model.load_adapter(tmp_path)
    except AdapterError:
        assert not model.has_adapters()
        assert not any(".loras." in key for key in model.state_dict())


def test_a_file_that_describes_what_cannot_be_made_is_named(tmp_path: Path) -> None:
    add(adapter_model(), "lora").save_adapter(tmp_path, "a")
    edit(tmp_path / "adapter_config.json", version="adapters.not-a-version")
    with pytest.raises(
        AdapterFileError, match=r"What .*adapter_config\.json describes cannot be made \(InvalidVersion"
    ):
        adapter_model().load_adapter(tmp_path)
