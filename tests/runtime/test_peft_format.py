"""Adapters go to PEFT and come from there, with the same outputs in both libraries; what cannot be carried over is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import (
    BertForSequenceClassification,
    BertModel,
    BloomModel,
    CodeGenModel,
    FalconModel,
    GPT2Model,
    LlamaForCausalLM,
    PreTrainedModel,
    SmolLM3ForCausalLM,
)

from adapter_models import AutoAdapterModel, init
from adapter_runtime.errors import AdapterError, AdapterFileError, AdapterMismatchError, UnsupportedMethodError
from adapter_runtime.methods.lora.peft.low_rank import joined
from adapter_runtime.methods.prefix_tuning.rotation import rotating_layers
from conformance.tiny import tiny_config

CLASSES: dict[str, type[PreTrainedModel]] = {
    "llama": LlamaForCausalLM,
    "bert": BertModel,
    "bert_classifier": BertForSequenceClassification,
    # queries, keys and values of one projection
    "bloom": BloomModel,
    "codegen": CodeGenModel,
    "falcon": FalconModel,
    "gpt2": GPT2Model,
    "smollm3": SmolLM3ForCausalLM,
}
CHANGES: dict[str, dict[str, Any]] = {
    "smollm3": {"no_rope_layers": [1, 0]}
}  # the second layer does not rotate its keys


def upstream(kind: str) -> PreTrainedModel:
    """An untouched model; the same weights each time."""
    torch.manual_seed(0)
    return CLASSES[kind](tiny_config(kind.partition("_")[0], **CHANGES.get(kind, {}))).eval()


def ours(kind: str) -> PreTrainedModel:
    model = upstream(kind)
    init(model)
    return model


def shake(model: torch.nn.Module, which: Callable[[str], bool]) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if which(key):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


def by_peft(kind: str, config: Any) -> Any:
    """A model of PEFT with random values in all that it trains."""
    model = get_peft_model(upstream(kind), config).eval()
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    shake(model, lambda key: key in trained)
    return model


def run(model: Any, **options: Any) -> torch.Tensor:
    """Outputs at the tokens; PEFT also gives those at a prompt. The second row is padded on the left."""
    tokens = torch.randint(3, 90, (2, 6), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(tokens)
    mask[1, :2] = 0
    with torch.no_grad():
        outputs = model(input_ids=tokens, attention_mask=mask, **options)[0]
    return outputs[:, -6:] if outputs.dim() == 3 else outputs


CARRIED = {
    "lora": ("llama", lambda: LoraConfig(r=4, lora_alpha=16)),
    "lora with dropout in all roles": (
        "llama",
        lambda: LoraConfig(
            lora_dropout=0.5, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
        ),
    ),
    "lora of all linear modules": (
        "bert",
        lambda: LoraConfig(target_modules="all-linear", exclude_modules=["pooler.dense"]),
    ),
    "lora of all linear modules, with a gate": ("llama", lambda: LoraConfig(target_modules="all-linear")),
    "lora by a regular expression": ("bert", lambda: LoraConfig(target_modules=r".*attention\.self\.(query|key)")),
    "lora in one layer": ("llama", lambda: LoraConfig(layers_to_transform=[1])),
    "rslora": ("bert", lambda: LoraConfig(r=4, lora_alpha=16, use_rslora=True)),
    "uniform patterns": (
        "bert",
        lambda: LoraConfig(rank_pattern={"query": 2, "value": 2}, alpha_pattern={r"query|value": 6}),
    ),
    "dora": ("llama", lambda: LoraConfig(use_dora=True, lora_alpha=32)),
    "dora with biases": (
        "bert",
        lambda: LoraConfig(use_dora=True, lora_alpha=32, target_modules=["query", "output.dense"]),
    ),
    "ia3, its feed-forward factors at gated inputs": ("llama", lambda: IA3Config()),
    "ia3 at outputs": ("bert", lambda: IA3Config(target_modules=["key", "value"], feedforward_modules=[])),
    "prefix": ("llama", lambda: PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)),
    "prefix with an MLP": (
        "llama",
        lambda: PrefixTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=4, prefix_projection=True, encoder_hidden_size=7
        ),
    ),
    "prefix in layers of which one rotates": (
        "smollm3",
        lambda: PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    ),
    "prompt": ("llama", lambda: PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)),
    "prompt with positions": (
        "bert",
        lambda: PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=4),
    ),
}


@pytest.mark.parametrize("case", CARRIED)
def test_an_adapter_of_peft_gives_the_same_outputs_here_and_when_it_is_back(tmp_path: Path, case: str) -> None:
    kind, config = CARRIED[case]
    theirs = by_peft(kind, config())
    expected = run(theirs)
    assert (expected - run(upstream(kind))).abs().max() > 1e-3
    theirs.save_pretrained(tmp_path / "there")
    model = ours(kind)
    assert model.load_adapter(tmp_path / "there", set_active=True) == "default"
    assert_close(run(model), expected, rtol=1e-5, atol=1e-6)
    model.save_peft_adapter(tmp_path / "back", "default")
    back = PeftModel.from_pretrained(upstream(kind), tmp_path / "back").eval()
    assert_close(run(back), expected, rtol=1e-5, atol=1e-6)


OWN = {
    "lora": "lora[r=4,alpha=16,dropout=0.1]",
    "lora in all places": "lora[attn_matrices=['q','k','v','o'],intermediate_lora=True,output_lora=True,leave_out=[0]]",
    "dora": "dora[alpha=16]",
    "ia3": "ia3[alpha=2]",
    "flat prefix": "prefix_tuning_flat[prefix_length=3]",
    "prefix": "prefix_tuning[prefix_length=3,bottleneck_size=7,dropout=0.5]",
    "prompt": "prompt_tuning[prompt_length=3]",
}


@pytest.mark.parametrize("case", OWN)
def test_an_adapter_of_ours_gives_the_same_outputs_in_peft(tmp_path: Path, case: str) -> None:
    model = ours("llama")
    model.add_adapter("a", OWN[case])
    shake(model, lambda key: ".a." in key)
    model.set_active_adapters("a")
    model.train()
    model.save_peft_adapter(tmp_path, "a")
    assert model.training
    model.eval()
    theirs = PeftModel.from_pretrained(upstream("llama"), tmp_path).eval()
    assert_close(run(theirs), run(model), rtol=1e-5, atol=1e-6)
    assert (run(model) - run(upstream("llama"))).abs().max() > 1e-3


def test_layers_that_rotate_are_told_by_their_keys_whatever_runs_and_whether_it_is_trained() -> None:
    model = ours("smollm3")
    model.add_adapter("a", "prefix_tuning_flat[prefix_length=3]")
    model.train_adapter("a")
    model.train()
    model.model.layers[0].eval()
    assert rotating_layers(model.adapters_base, 2) == [True, False]
    assert model.training and model.active_adapters is not None
    assert [layer.mlp.training for layer in model.model.layers] == [False, True]
    assert rotating_layers(ours("llama").adapters_base, 2) == [True, True]
    with pytest.raises(UnsupportedMethodError, match="of 3 layers 2 keep keys"):
        rotating_layers(ours("llama").adapters_base, 3)


FUSED = {
    "gpt2": ("one after the other", "c_attn"),
    "bloom": ("in each head", "query_key_value"),
    "codegen": ("values before keys, in each of four groups", "qkv_proj"),
    "falcon": ("heads with one key", "query_key_value"),
}


@pytest.mark.parametrize("config", ["lora[r=4,alpha=16]", "lora[r=4,attn_matrices=['k']]", "ia3"])
@pytest.mark.parametrize("kind", [pytest.param(kind, id=order) for kind, (order, _) in FUSED.items()])
def test_parts_of_a_fused_projection_are_the_same_in_peft(tmp_path: Path, kind: str, config: str) -> None:
    model = ours(kind)
    model.add_adapter("a", config)
    shake(model, lambda key: ".a." in key)
    model.set_active_adapters("a")
    expected = run(model)
    model.save_peft_adapter(tmp_path, "a")
    theirs = PeftModel.from_pretrained(upstream(kind), tmp_path).eval()
    assert_close(run(theirs), expected, rtol=1e-4, atol=1e-5)
    assert (expected - run(upstream(kind))).abs().max() > 1e-3


@pytest.mark.parametrize("kind", [pytest.param(kind, id=order) for kind, (order, _) in FUSED.items()])
def test_an_adapter_of_peft_in_a_fused_projection_is_read(tmp_path: Path, kind: str) -> None:
    theirs = by_peft(kind, LoraConfig(r=4, lora_alpha=16, target_modules=[FUSED[kind][1]]))
    theirs.save_pretrained(tmp_path)
    model = ours(kind)
    model.load_adapter(tmp_path, set_active=True)
    assert_close(run(model), run(theirs), rtol=1e-4, atol=1e-5)


def test_the_exact_files_and_tensors_of_peft(tmp_path: Path) -> None:
    model = ours("bert_classifier")
    model.add_adapter("a", "lora[leave_out=[1]]")
    model.save_peft_adapter(tmp_path, "a", with_head=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    place = "base_model.model.bert.encoder.layer.0.attention.self"
    assert set(load_file(tmp_path / "adapter_model.safetensors")) == {
        f"{place}.query.lora_A.weight",
        f"{place}.query.lora_B.weight",
        f"{place}.value.lora_A.weight",
        f"{place}.value.lora_B.weight",
        "base_model.model.classifier.weight",
        "base_model.model.classifier.bias",
    }
    document = json.loads((tmp_path / "adapter_config.json").read_text())
    assert document["target_modules"] == [f"encoder.layer.0.attention.self.{name}" for name in ("query", "value")]
    assert (document["peft_type"], document["task_type"]) == ("LORA", "SEQ_CLS")
    assert document["modules_to_save"] == ["classifier"]


def test_an_adapter_of_a_bare_model_of_peft_fits_a_model_with_a_head(tmp_path: Path) -> None:
    by_peft("bert", LoraConfig()).save_pretrained(tmp_path)
    bare, wrapped = ours("bert"), ours("bert_classifier")
    for model in (bare, wrapped):
        model.load_adapter(tmp_path, load_as="b")
    values = dict(bare.adapter_parameters("b"))
    assert {f"bert.{key}" for key in values} == {key for key, _ in wrapped.adapter_parameters("b")}
    assert all(torch.equal(value, values[key.removeprefix("bert.")]) for key, value in wrapped.adapter_parameters("b"))


def test_a_pickle_of_peft_is_read_without_running_code(tmp_path: Path) -> None:
    theirs = by_peft("bert", LoraConfig())
    theirs.save_pretrained(tmp_path, safe_serialization=False)
    if not (tmp_path / "adapter_model.bin").is_file():  # newer releases of PEFT write safetensors only
        torch.save(load_file(tmp_path / "adapter_model.safetensors"), tmp_path / "adapter_model.bin")
        (tmp_path / "adapter_model.safetensors").unlink()
    model = ours("bert")
    model.load_adapter(tmp_path, set_active=True)
    assert_close(run(model), run(theirs))
    torch.save({"x": torch.nn.Linear(1, 1)}, tmp_path / "adapter_model.bin")
    with pytest.raises(AdapterFileError, match="objects other than tensors"):
        ours("bert").load_adapter(tmp_path)


def test_options_of_the_caller_are_honoured(tmp_path: Path) -> None:
    by_peft("llama", LoraConfig()).save_pretrained(tmp_path)
    model = ours("llama")
    model.load_adapter(tmp_path, load_as="b", config={"dropout": 0.25}, leave_out=[0])
    config = model.adapters_config.get("b")
    assert (config["dropout"], list(config["leave_out"])) == (0.25, [0])
    assert not any(".layers.0." in key for key, _ in model.adapter_parameters("b"))


# Heads


def test_the_head_goes_along(tmp_path: Path) -> None:
    theirs = by_peft("bert_classifier", LoraConfig(task_type="SEQ_CLS"))
    theirs.save_pretrained(tmp_path / "there")
    model = ours("bert_classifier")
    model.load_adapter(tmp_path / "there", set_active=True)
    assert_close(run(model), run(theirs))
    model.save_peft_adapter(tmp_path / "back", "default", with_head=True)
    back = PeftModel.from_pretrained(upstream("bert_classifier"), tmp_path / "back").eval()
    assert_close(run(back), run(theirs))
    without = ours("bert_classifier")
    before = without.classifier.weight.clone()
    without.load_adapter(tmp_path / "there", with_head=False)
    assert torch.equal(without.classifier.weight, before)


def test_a_head_of_peft_becomes_a_flexible_one(tmp_path: Path) -> None:
    theirs = by_peft("bert_classifier", LoraConfig(task_type="SEQ_CLS"))
    theirs.save_pretrained(tmp_path)
    model = AutoAdapterModel.from_config(tiny_config("bert")).eval()
    model.bert.load_state_dict(upstream("bert_classifier").bert.state_dict())
    model.load_adapter(tmp_path, load_as="b", set_active=True)
    assert model.active_head == "b"
    assert_close(run(model), run(theirs))


@pytest.mark.parametrize("with_head", [True, False])
@pytest.mark.parametrize("kind", ["bert", "bert_classifier"])
def test_modules_of_the_base_model_that_peft_trained_are_trained_along(
    kind: str, with_head: bool, tmp_path: Path
) -> None:
    theirs = by_peft(kind, LoraConfig(modules_to_save=["pooler", "position_embeddings"]))
    theirs.save_pretrained(tmp_path)
    model = ours(kind)
    base = run(model)
    model.load_adapter(tmp_path, load_as="a", set_active=True, with_head=with_head)
    assert model.adapters_config.get("a").also_train == ("embeddings.position_embeddings", "pooler.dense")
    assert_close(run(model), run(theirs))
    assert not torch.allclose(run(model), base, atol=1e-3)
    model.delete_adapter("a")
    assert torch.equal(run(model), base)


@pytest.mark.parametrize("kind", ["bert", "bert_classifier"])
def test_modules_that_are_trained_along_are_saved_by_peft_too(kind: str, tmp_path: Path) -> None:
    model = ours(kind)
    model.add_adapter("a", "lora[also_train=('pooler', 'position_embeddings')]", set_active=True)
    shake(model, lambda key: ".a." in key)
    model.save_peft_adapter(tmp_path, "a")
    document = json.loads((tmp_path / "adapter_config.json").read_text())
    assert document["modules_to_save"] == ["embeddings.position_embeddings", "pooler.dense"]
    theirs = PeftModel.from_pretrained(upstream(kind), tmp_path).eval()
    assert_close(run(theirs), run(model))
    again = ours(kind)
    again.load_adapter(tmp_path, set_active=True)
    assert torch.equal(run(again), run(model))


def test_what_peft_would_take_for_another_module_too_is_not_written(tmp_path: Path) -> None:
    model = ours("llama")
    model.add_adapter("a", "lora[also_train='norm']")
    with pytest.raises(UnsupportedMethodError, match="layernorm"):
        model.save_peft_adapter(tmp_path / "x", "a")
    assert not (tmp_path / "x").exists()


def test_peft_trains_nothing_along_with_prefixes(tmp_path: Path) -> None:
    model = ours("llama")
    model.add_adapter("a", "prefix_tuning[also_train='input_layernorm']")
    with pytest.raises(UnsupportedMethodError, match="also_train"):
        model.save_peft_adapter(tmp_path / "x", "a")


def test_token_embeddings_that_peft_trained_are_refused(tmp_path: Path) -> None:
    by_peft("bert", LoraConfig(modules_to_save=["word_embeddings"])).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedMethodError, match="embeds the tokens"):
        ours("bert").load_adapter(tmp_path)


def test_a_flexible_head_is_not_written(tmp_path: Path) -> None:
    model = AutoAdapterModel.from_config(tiny_config("bert"))
    model.add_adapter("a", "lora")
    with pytest.raises(UnsupportedMethodError, match="Write without it: with_head=False"):
        model.save_peft_adapter(tmp_path / "x", "a", with_head=True)
    assert not (tmp_path / "x").exists()


# What is refused on reading

REFUSED: dict[str, tuple[str, Callable[[], Any], str]] = {
    "an embedding": ("bert", lambda: LoraConfig(target_modules=["word_embeddings"]), "lora_embedding_A"),
    "a module without a role": ("bert", lambda: LoraConfig(target_modules=["query", "pooler.dense"]), "pooler.dense"),
    "ranks that differ": (
        "bert",
        lambda: LoraConfig(rank_pattern={"query": 4}),
        "one rank here, but PEFT's differ: 4",
    ),
    "scalings that differ": ("bert", lambda: LoraConfig(alpha_pattern={"query": 4}), "one scaling here"),
    "other modules in each layer": (
        "bert",
        lambda: LoraConfig(target_modules=r".*(0\.attention\.self\.query|1\.attention\.self\.key)"),
        "other modules in some layers",
    ),
    "biases": ("bert", lambda: LoraConfig(bias="all"), "bias='all'"),
    "biases of lora": ("bert", lambda: LoraConfig(lora_bias=True), "lora_bias=True"),
    "a start that changes weights": ("bert", lambda: LoraConfig(init_lora_weights="olora"), "'olora', which changes"),
    "inputs before an activation": ("bert", lambda: IA3Config(), "PEFT scales the inputs of"),
    "a method that is not known": ("bert", lambda: VeraConfig(target_modules=["query", "value"]), "method VERA"),
    "absolute positions": (
        "bert",
        lambda: PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=4),
        "counts the positions of tokens from the prefix on",
    ),
    "a classifier that reads the prompt": (
        "bert_classifier",
        lambda: PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4),
        "reads the first position of the prompt",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_counterpart_is_refused_and_the_model_stays_as_it_was(tmp_path: Path, case: str) -> None:
    kind, config, message = REFUSED[case]
    by_peft(kind, config()).save_pretrained(tmp_path)
    model = ours(kind)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(UnsupportedMethodError, match=message):
        model.load_adapter(tmp_path, set_active=True)
    assert not model.has_adapters()
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_a_prefix_for_absolute_positions_can_be_had_with_the_positions_of_peft(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = by_peft("bert", PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=4))
    theirs.save_pretrained(tmp_path)
    model = ours("bert")
    model.load_adapter(tmp_path, set_active=True, strict=False)
    assert "Pass position_ids" in caplog.text
    assert_close(run(model, position_ids=torch.arange(4, 10)[None]), run(theirs))


DAMAGED: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], type[AdapterError], str]] = {
    "half of a module": (
        lambda tensors: tensors.pop("base_model.model.encoder.layer.0.attention.self.query.lora_B.weight"),
        AdapterFileError,
        "has only lora_A of",
    ),
    "a module": (
        lambda tensors: [tensors.pop(key) for key in list(tensors) if "layer.0.attention.self.query" in key],
        UnsupportedMethodError,
        "Missing from the file",
    ),
    "all": (
        lambda tensors: (tensors.clear(), tensors.update(x=torch.ones(1))),
        AdapterFileError,
        "hold no LORA adapter",
    ),
    "a width": (
        lambda tensors: tensors.update(
            {key: torch.ones(3, 7) for key in tensors if "layer.0" in key and "lora_A" in key}
        ),
        UnsupportedMethodError,
        "one rank",
    ),
    "a shape": (
        lambda tensors: tensors.update(
            {key: torch.ones(8, 7) for key in tensors if "layer.0" in key and "lora_A" in key}
        ),
        AdapterMismatchError,
        "of another shape",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_of_peft_is_refused(tmp_path: Path, case: str) -> None:
    spoil, error, message = DAMAGED[case]
    by_peft("bert", LoraConfig()).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    spoil(tensors)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    model = ours("bert")
    with pytest.raises(error, match=message):
        model.load_adapter(tmp_path)
    assert not model.has_adapters()


def test_an_option_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    by_peft("bert", LoraConfig()).save_pretrained(tmp_path)
    document = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**document, "use_magic": 3}))
    with pytest.raises(UnsupportedMethodError, match="no counterpart here: use_magic=3"):
        ours("bert").load_adapter(tmp_path)


# What is refused on writing


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        pytest.param("bert", "seq_bn", "is a SeqBnConfig, which PEFT has no counterpart of", id="bottleneck"),
        pytest.param("llama", "lora|seq_bn", "is a union of methods", id="union"),
        pytest.param("llama", "lora[use_gating=True]", "no counterpart of a gate", id="gated lora"),
        pytest.param("llama", "ia3[use_gating=True]", "no counterpart of a gate", id="gated ia3"),
        pytest.param("bert", "vera", "VeRA's vectors", id="vera"),
        pytest.param("llama", "dora[dora_form='adapters']", "DoRA in the form of 'adapters'", id="dora of adapters"),
        pytest.param("llama", "prefix_tuning[use_gating=True]", "no counterpart of a gate", id="gated prefix"),
        pytest.param("llama", "prefix_tuning[leave_out=[0]]", "into every self-attention", id="prefix in some layers"),
        pytest.param("bert", "prefix_tuning", "counts the positions", id="prefix with absolute positions"),
        pytest.param("bert", "prompt_tuning", "insert_at='token_embeddings'", id="prompt behind the positions"),
        pytest.param(
            "llama", "prompt_tuning[combine='prefix_after_bos']", "in front of all tokens", id="prompt after bos"
        ),
    ],
)
def test_what_peft_cannot_express_is_not_written(tmp_path: Path, kind: str, config: str, message: str) -> None:
    model = ours(kind)
    model.add_adapter("a", config)
    with pytest.raises(UnsupportedMethodError, match=message):
        model.save_peft_adapter(tmp_path / "x", "a")
    assert not (tmp_path / "x").exists()


def test_parts_of_a_fused_projection_are_joined_exactly() -> None:
    """Two of three parts of a projection, each with matrices of rank 2 of its own."""
    generator = torch.Generator().manual_seed(0)
    down, up = torch.randn(4, 5, generator=generator), torch.randn(6, 2, generator=generator)
    x = torch.randn(7, 5, generator=generator)
    whole_down, whole_up = joined(down, up, [(0, 3), (6, 9)], 9, 2)
    assert (whole_down.shape, whole_up.shape) == ((4, 5), (9, 4))
    expected = torch.zeros(7, 9)
    expected[:, 0:3] = x @ down[:2].t() @ up[:3].t()
    expected[:, 6:9] = x @ down[2:].t() @ up[3:].t()
    assert_close(x @ whole_down.t() @ whole_up.t(), expected)
    assert joined(down, up, [(0, 6)], 6, 2) == (down, up)
