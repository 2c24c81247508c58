"""LoRA and its relatives in whole models: merging, training, files, and the matrices that VeRA shares."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

import adapter_models
from adapter_runtime.composition import BatchSplit, Parallel, Stack
from adapter_runtime.errors import InvalidConfigError, UnsupportedMethodError
from adapter_runtime.methods.lora.config import LoRAConfig
from adapter_runtime.roles import MixerRoles, MLPRoles
from runtime_models import adapted, randomise

EVERYWHERE = "attn_matrices=['q','k','v','o'],intermediate_lora=True,output_lora=True"
STRINGS = {
    "lora": f"lora[r=2,alpha=6,{EVERYWHERE}]",
    "ia3": "ia3",
    "dora": f"dora[r=2,alpha=6,{EVERYWHERE}]",
    "vera": f"vera[r=2,alpha=6,{EVERYWHERE}]",
    "dvora": f"dvora[r=2,alpha=6,{EVERYWHERE}]",
    "mtl": f"mtl_lora[r=2,alpha=6,n_up_projection=2,{EVERYWHERE}]",
}


def run(model: Any, inputs: dict[str, torch.Tensor], **options: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs, **options)[0]


def with_adapters(kind: str, config: str, *names: str) -> Any:
    model = adapted(kind)
    for seed, name in enumerate(names):
        model.add_adapter(name, config)
        randomise(model, name, seed)
    return model


@pytest.mark.parametrize("config", STRINGS.values(), ids=list(STRINGS))
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_merging_into_a_model_is_exact_and_resetting_bitwise(
    kind: str, config: str, inputs: dict[str, torch.Tensor]
) -> None:
    model = adapted(kind)
    base = {name: parameter.clone() for name, parameter in model.named_parameters()}
    bare = run(model, inputs)
    model.add_adapter("a", config, set_active=True)
    randomise(model, "a")
    expected = run(model, inputs)
    model.merge_adapter("a")
    assert_close(run(model, inputs), expected, atol=5e-5, rtol=1e-4)
    assert model.merged_adapters() == {"a"}
    model.set_active_adapters(None)
    assert torch.equal(run(model, inputs), bare)
    assert all(torch.equal(value, base[name]) for name, value in model.named_parameters() if name in base)


@pytest.mark.parametrize("config", STRINGS.values(), ids=list(STRINGS))
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_defect_20_parallel_adapters_give_what_each_gives(
    kind: str, config: str, inputs: dict[str, torch.Tensor]
) -> None:
    model = with_adapters(kind, config, "a", "b")
    outputs = []
    for name in "ab":
        model.set_active_adapters(name)
        outputs.append(run(model, inputs))
    model.set_active_adapters(Parallel("a", "b"))
    assert_close(run(model, inputs), torch.cat(outputs), atol=1e-5, rtol=1e-5)
    model.set_active_adapters(BatchSplit("a", "b", batch_sizes=[1, 1]))
    assert_close(run(model, inputs), torch.cat([outputs[0][:1], outputs[1][1:]]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", STRINGS.values(), ids=list(STRINGS))
def test_files_give_back_the_same_outputs(config: str, tmp_path: Path, inputs: dict[str, torch.Tensor]) -> None:
    model = with_adapters("llama", config, "a")
    model.set_active_adapters("a")
    expected = run(model, inputs)
    model.save_adapter(tmp_path, "a")
    fresh = adapted("llama")
    fresh.load_adapter(tmp_path, set_active=True)
    assert torch.equal(run(fresh, inputs), expected)


@pytest.mark.parametrize("config", STRINGS.values(), ids=list(STRINGS))
def test_training_reaches_every_parameter_but_shared_matrices(config: str, inputs: dict[str, torch.Tensor]) -> None:
    model = with_adapters("llama", config, "a")
    model.train_adapter("a")
    model(**inputs)[0].square().sum().backward()
    for key, parameter in model.adapter_parameters("a"):
        if key.startswith("shared_parameters."):
            assert not parameter.requires_grad and parameter.grad is None
        else:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, key


def test_matrices_of_vera_stay_frozen_when_the_model_is_thawed() -> None:
    model = with_adapters("llama", "vera[r=2]", "a")
    model.freeze_model(False)
    still = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert still == ["shared_parameters.a.lora_A", "shared_parameters.a.lora_B"]


@pytest.mark.parametrize("config", STRINGS.values(), ids=list(STRINGS))
def test_a_whole_model_comes_back_from_files_and_pickles(
    config: str, tmp_path: Path, inputs: dict[str, torch.Tensor]
) -> None:
    model = adapter_models.LlamaAdapterModel(adapted("llama").config).eval()
    model.add_adapter("a", config, set_active=True)
    randomise(model, "a")
    expected = run(model, inputs)
    model.save_pretrained(tmp_path)
    loaded = adapter_models.LlamaAdapterModel.from_pretrained(tmp_path, attn_implementation="eager")
    loaded.set_active_adapters("a")
    assert torch.equal(run(loaded, inputs), expected)
    torch.save(model, tmp_path / "pickled")
    pickled = torch.load(tmp_path / "pickled", weights_only=False)
    assert torch.equal(run(pickled, inputs), expected)


def test_gating_scores_have_a_column_per_projection(inputs: dict[str, torch.Tensor]) -> None:
    model = with_adapters("llama", "lora[r=2,use_gating=True,output_lora=True]", "a")
    model.set_active_adapters("a")
    with torch.no_grad():
        scores = model(**inputs, output_adapter_gating_scores=True).adapter_gating_scores["a"]
    assert sorted(scores) == [0, 1, 2]
    assert {key: value.shape for key, value in scores[0].items()} == {"selfattn_lora": (2, 2), "output_lora": (2,)}


def test_vera_fits_projections_of_different_widths(inputs: dict[str, torch.Tensor]) -> None:
    model = adapted("llama")
    model.add_adapter("a", STRINGS["vera"])
    shared = model.shared_parameters["a"]
    assert (shared["lora_A"].shape, shared["lora_B"].shape) == ((2, 48), (48, 2))  # heads are 4 x 12 wide
    assert sorted(key for key in model.state_dict() if "lora_A" in key or "lora_B" in key) == [
        "shared_parameters.a.lora_A",
        "shared_parameters.a.lora_B",
    ]


def test_a_seed_gives_the_same_shared_matrices() -> None:
    drawn = []
    for seed in (1, 2):
        model = adapted("llama")
        torch.manual_seed(seed)
        model.add_adapter("a", "vera[init_weights_seed=3]")
        drawn.append(model.shared_parameters["a"]["lora_A"])
    assert torch.equal(*drawn)


def test_parameters_of_vera_have_the_type_of_the_config() -> None:
    model = adapted("llama")
    model.add_adapter("a", "vera[dtype='bfloat16']")
    assert {parameter.dtype for _, parameter in model.adapter_parameters("a")} == {torch.bfloat16}


def test_an_unknown_type_is_refused() -> None:
    model = adapted("llama")
    for dtype in ("int8", "float33", "nn"):
        with pytest.raises(InvalidConfigError, match="dtype"):
            model.add_adapter("a", LoRAConfig(dtype=dtype))


def test_a_setup_that_is_refused_leaves_the_merged_adapter_in_the_weights(inputs: dict[str, torch.Tensor]) -> None:
    model = with_adapters("llama", "lora[r=2]", "a", "b")
    model.merge_adapter("a")
    merged = run(model, inputs)
    with pytest.raises(UnsupportedMethodError, match="as many inputs as outputs"):
        model.set_active_adapters(Stack("a", "b"))
    assert model.active_adapters is None and model.merged_adapters() == {"a"}
    assert torch.equal(run(model, inputs), merged)


def test_one_adapter_is_merged_at_a_time(inputs: dict[str, torch.Tensor]) -> None:
    model = with_adapters("llama", "lora[r=2]", "a", "b")
    model.merge_adapter("a")
    merged = run(model, inputs)
    with pytest.raises(UnsupportedMethodError, match=r"'a' is in the weights already.*reset_adapter"):
        model.merge_adapter("b")
    assert torch.equal(run(model, inputs), merged)


def test_merging_beside_others_in_a_block_is_refused(inputs: dict[str, torch.Tensor]) -> None:
    model = with_adapters("llama", "lora[r=2]", "a", "b")
    bare = run(model, inputs)
    model.set_active_adapters(Parallel("a", "b"))
    expected = run(model, inputs)
    with pytest.raises(UnsupportedMethodError, match="stands in a block with others"):
        model.merge_adapter("a")
    assert torch.equal(run(model, inputs), expected)
    model.set_active_adapters(None)
    assert torch.equal(run(model, inputs), bare)


def test_diagonal_matrices_of_old_files_become_vectors(tmp_path: Path, inputs: dict[str, torch.Tensor]) -> None:
    model = with_adapters("llama", "vera[r=2]", "a")
    model.set_active_adapters("a")
    expected = run(model, inputs)
    model.save_adapter(tmp_path, "a", meta_dict={"version": "adapters.1.3.0"}, use_safetensors=False)
    weights = tmp_path / "pytorch_adapter.bin"
    tensors = torch.load(weights, weights_only=True)
    dense = {key: value.diag() if ".vera_" in key else value for key, value in tensors.items()}
    torch.save(dense, weights)
    fresh = adapted("llama")
    fresh.load_adapter(tmp_path, set_active=True)
    assert fresh.adapters_config.get("a")["vera_dense"] is False
    assert torch.equal(run(fresh, inputs), expected)
    dense = {key: value + 0.1 if ".vera_" in key else value for key, value in dense.items()}
    torch.save(dense, weights)
    fresh.load_adapter(tmp_path, load_as="b", set_active=True)
    assert fresh.adapters_config.get("b")["vera_dense"] is True
    adapter = fresh.layers[0].self_attn.q_proj.loras["b"]
    assert torch.equal(adapter.vera_B, dense["layers.0.self_attn.q_proj.loras.a.vera_B"])
    assert not torch.allclose(run(fresh, inputs), expected)


def test_defect_13_places_in_the_feed_forward_block_are_what_their_names_say() -> None:
    model = adapted("llama")
    model.add_adapter("first", "lora[selfattn_lora=False,intermediate_lora=True]")
    model.add_adapter("last", "lora[selfattn_lora=False,output_lora=True]")
    mlp = model.layers[0].mlp
    assert list(mlp.up_proj.loras) == ["first"] and list(mlp.down_proj.loras) == ["last"]


def test_defect_17_shared_matrices_have_the_shapes_of_the_adapter_that_is_there(
    inputs: dict[str, torch.Tensor],
) -> None:
    model = adapted("llama")
    before = list(model.state_dict())
    for config, width in (("vera[r=2]", 32), ("vera[r=3,output_lora=True]", 40), ("vera[r=2]", 32)):
        model.add_adapter("a", config, set_active=True)
        assert model.shared_parameters["a"]["lora_A"].shape[1] == width
        run(model, inputs)
        model.delete_adapter("a")
        assert list(model.state_dict()) == before
    model.add_adapter("a", "vera[r=2]", set_active=True)
    model.add_adapter("a", "vera[r=3,output_lora=True]", overwrite_ok=True)
    assert model.shared_parameters["a"]["lora_A"].shape == (3, 40)
    run(model, inputs)


def test_a_projection_that_sees_batch_and_positions_turned_is_told_so(
    inputs: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted("bert")
    layer = model.base_model.encoder.layer[0]
    attention = layer.attention.self
    monkeypatch.setattr(type(layer), "roles", replace(type(layer).roles, turned=("attention.self.query",)))
    outputs = [run(model, inputs)]
    for name in "ab":
        model.add_adapter(name, STRINGS["lora"])
        randomise(model, name, ord(name))
        model.set_active_adapters(name)
        outputs.append(run(model, inputs))
    model.set_active_adapters(BatchSplit("a", "b", batch_sizes=[1, 1]))
    assert attention.query.is_length_first and not attention.value.is_length_first
    for one in model.base_model.encoder.layer:  # as if their attention turned what it is given
        one.attention.self.query.register_forward_pre_hook(lambda module, args: (args[0].transpose(0, 1),))
        one.attention.self.query.register_forward_hook(lambda module, args, output: output.transpose(0, 1))
    assert_close(run(model, inputs), torch.cat([outputs[1][:1], outputs[2][1:]]), atol=1e-5, rtol=1e-5)
    for name in "ab":
        model.delete_adapter(name)
    assert not {"is_turned", "is_length_first"} & vars(attention.query).keys()


@pytest.fixture
def mixing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model of which no layer attends: its projections are those of a mixer."""
    model = adapted("llama")
    layer = type(model.layers[0])
    mixer = MixerRoles(first=("mlp.up_proj",), last=("mlp.down_proj",))
    monkeypatch.setattr(layer, "roles", replace(layer.roles, attentions=(), mlp=MLPRoles(), mixer=mixer))
    return model


@pytest.mark.parametrize("config", ["lora", "lora[intermediate_lora=True,selfattn_lora=False]"])
def test_projections_of_a_mixer_are_adapted_where_they_are_asked_for(mixing: Any, config: str) -> None:
    with pytest.raises(InvalidConfigError):
        mixing.add_adapter("a", config)
    mixing.add_adapter("first", "lora[mixer_lora=True]")
    mixing.add_adapter("last", "lora[mixer_output_lora=True]")
    mlp = mixing.layers[0].mlp
    assert list(mlp.up_proj.loras) == ["first"] and list(mlp.down_proj.loras) == ["last"]


def test_where_there_are_no_places_the_error_names_options_that_have_some(mixing: Any) -> None:
    with pytest.raises(
        InvalidConfigError, match=r"There are places with mixer_lora=True or mixer_output_lora=True\.$"
    ):
        mixing.add_adapter("a", "lora")
    with pytest.raises(InvalidConfigError, match=r"has a place for LoRAConfig\(leave_out=\[0, 1, 2\]\)\.$") as error:
        mixing.add_adapter("a", "lora[leave_out=[0,1,2]]")  # then no option has
    assert "There are places" not in str(error.value)


def test_projections_of_a_mixer_have_the_format_of_peft(mixing: Any, tmp_path: Path) -> None:
    mixing.add_adapter("a", "lora[r=2,selfattn_lora=False,mixer_lora=True]")
    randomise(mixing, "a")
    saved = {name: value.clone() for name, value in mixing.state_dict().items() if ".loras.a." in name}
    mixing.save_peft_adapter(str(tmp_path), "a")
    mixing.delete_adapter("a")
    mixing.load_adapter(str(tmp_path), load_as="a")
    config = mixing.adapters_config.get("a")
    assert (config["mixer_lora"], config["mixer_output_lora"], config["intermediate_lora"]) == (True, False, False)
    assert saved and all(torch.equal(mixing.state_dict()[name], value) for name, value in saved.items())
