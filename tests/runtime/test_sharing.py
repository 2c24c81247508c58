"""`share_parameters`: one matrix in several adapters, through training, copies, files and unsharing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import adapter_models
from adapter_runtime.composition import MultiTask
from adapter_runtime.errors import AdapterError
from runtime_models import adapted, randomise

CONFIG = "mtl_lora[r=2,n_up_projection=2]"


def with_tasks(*names: str, kind: str = "llama") -> Any:
    model = adapted(kind)
    for seed, name in enumerate(names):
        model.add_adapter(name, CONFIG)
        randomise(model, name, seed)
    return model


def at(model: Any, name: str) -> nn.Module:
    return model.base_model.layers[1].self_attn.q_proj.loras[name]


def is_shared(model: Any, *names: str) -> bool:
    """Whether the matrices are the same objects in all places, and nothing else is."""
    modules = [model.get_adapter(name) for name in names]
    flags = set()
    for index, places in modules[0].items():
        for place, first in places.items():
            for other in (found[index][place] for found in modules[1:]):
                flags |= {first.lora_A is other.lora_A, first.lora_B is other.lora_B}
                assert first.weights is not other.weights
    assert len(flags) == 1
    return flags.pop()


def output(model: Any, name: str, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    model.set_active_adapters(name)
    with torch.no_grad():
        return model(**inputs)[0]


@pytest.mark.parametrize("names", [["a", "b"], "a,b", MultiTask("a", "b")], ids=["list", "string", "block"])
def test_all_take_the_matrices_of_the_reference(names: Any) -> None:
    model = with_tasks("a", "b", "c")
    expected = at(model, "b").lora_A.detach().clone()
    model.share_parameters(names, reference_adapter_name="b")
    assert is_shared(model, "a", "b") and not is_shared(model, "a", "c")
    assert torch.equal(at(model, "a").lora_A, expected)
    assert model.adapters_config.shared == {"a,b": ("b", "a")}


def test_training_one_task_changes_the_matrices_of_all(inputs: dict[str, torch.Tensor]) -> None:
    model = with_tasks("a", "b")
    model.share_parameters(["a", "b"])
    model.train_adapter(MultiTask("a", "b"))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(trained) == len({id(parameter) for parameter in trained})
    model(**inputs, task_ids=torch.tensor([0, 1]))[0].square().sum().backward()
    assert at(model, "a").lora_A.grad is at(model, "b").lora_A.grad
    torch.optim.SGD(trained, lr=0.1).step()
    assert is_shared(model, "a", "b")


def test_unsharing_gives_each_a_copy_of_its_own(inputs: dict[str, torch.Tensor]) -> None:
    model = with_tasks("a", "b", "c")
    model.share_parameters(["a", "b", "c"], name="tasks")
    outputs = {name: output(model, name, inputs) for name in "abc"}
    model.unshare_parameters("tasks")
    assert not is_shared(model, "a", "b") and not is_shared(model, "b", "c")
    assert all(torch.equal(output(model, name, inputs), outputs[name]) for name in "abc")
    nn.init.zeros_(at(model, "a").lora_A)
    assert at(model, "b").lora_A.abs().sum() > 0
    assert model.adapters_config.shared == {}
    with pytest.raises(AdapterError, match="No adapters share parameters as 'tasks'"):
        model.unshare_parameters("tasks")


def test_copies_and_other_types_stay_shared() -> None:
    model = with_tasks("a", "b")
    model.share_parameters(["a", "b"])
    twin = copy.deepcopy(model)
    assert is_shared(twin, "a", "b") and at(twin, "a").lora_A is not at(model, "a").lora_A
    assert is_shared(twin.to(torch.bfloat16), "a", "b")
    assert twin.adapters_config.shared is not model.adapters_config.shared


def test_a_saved_model_shares_again(tmp_path: Path, inputs: dict[str, torch.Tensor]) -> None:
    torch.manual_seed(0)
    source = with_tasks("a", "b")
    model = adapter_models.LlamaAdapterModel(source.config).eval()
    for seed, name in enumerate("ab"):
        model.add_adapter(name, CONFIG)
        randomise(model, name, seed)
    model.share_parameters(["a", "b"], name="tasks")
    model.save_pretrained(tmp_path)
    loaded = adapter_models.LlamaAdapterModel.from_pretrained(tmp_path, attn_implementation="eager")
    assert loaded.adapters_config.shared == {"tasks": ("a", "b")}
    assert is_shared(loaded, "a", "b")
    for name in "ab":
        assert torch.equal(output(loaded, name, inputs), output(model, name, inputs))
    nn.init.ones_(at(loaded, "b").lora_A)
    assert bool((at(loaded, "a").lora_A == 1).all())


def test_each_file_holds_a_copy(tmp_path: Path, inputs: dict[str, torch.Tensor]) -> None:
    model = with_tasks("a", "b")
    model.share_parameters(["a", "b"])
    expected = output(model, "b", inputs)
    model.save_adapter(tmp_path, "b")
    fresh = adapted("llama")
    fresh.load_adapter(tmp_path)
    assert torch.equal(output(fresh, "b", inputs), expected)


def test_deleting_one_leaves_the_rest_of_the_group() -> None:
    model = with_tasks("a", "b", "c")
    model.share_parameters(["a", "b", "c"], name="tasks")
    model.delete_adapter("a")
    assert model.adapters_config.shared == {"tasks": ("b", "c")} and is_shared(model, "b", "c")
    model.delete_adapter("b")
    assert model.adapters_config.shared == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"adapter_names": ["a"]}, "at least two", id="one adapter"),
        pytest.param({"adapter_names": ["a", "a"]}, "at least two", id="the same twice"),
        pytest.param({"adapter_names": ["a", "nobody"]}, "no adapter 'nobody'", id="an unknown name"),
        pytest.param({"adapter_names": ["a", "lora"]}, "is a LoRAConfig", id="a method that shares nothing"),
        pytest.param({"adapter_names": ["a", "larger"]}, "cannot share parameters", id="other shapes"),
        pytest.param({"adapter_names": ["a", "elsewhere"]}, "cannot share parameters", id="other places"),
        pytest.param({"adapter_names": ["a", "b"], "reference_adapter_name": "larger"}, "reference", id="a stranger"),
        pytest.param({"adapter_names": ["a", "shared"]}, "already", id="a member of another group"),
    ],
)
def test_what_cannot_be_shared_is_refused(arguments: dict[str, Any], message: str) -> None:
    model = with_tasks("a", "b", "shared", "other")
    model.add_adapter("lora", "lora[r=2]")
    model.add_adapter("larger", "mtl_lora[r=3,n_up_projection=2]")
    model.add_adapter("elsewhere", "mtl_lora[r=2,n_up_projection=2,leave_out=[1]]")
    model.share_parameters(["shared", "other"])
    before = {name: id(parameter) for name, parameter in model.named_parameters(remove_duplicate=False)}
    with pytest.raises(AdapterError, match=message):
        model.share_parameters(**arguments)
    assert before == {name: id(parameter) for name, parameter in model.named_parameters(remove_duplicate=False)}
    assert list(model.adapters_config.shared) == ["shared,other"]


def test_a_merged_adapter_is_not_shared() -> None:
    model = with_tasks("a", "b")
    model.merge_adapter("a")
    with pytest.raises(AdapterError, match="in the weights"):
        model.share_parameters(["a", "b"])
