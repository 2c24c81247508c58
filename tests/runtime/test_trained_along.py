"""The option `also_train` of configs: modules of upstream that are trained along with an adapter, each adapter with its own copies."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertModel, PreTrainedModel

from adapter_models import AutoAdapterModel
from adapter_runtime import (
    AdapterConfig,
    AdapterSetup,
    Average,
    BatchSplit,
    ConfigUnion,
    Fuse,
    LoRAConfig,
    MultiTask,
    Parallel,
    PrefixTuningConfig,
    Split,
    Stack,
    init,
)
from adapter_runtime.errors import AdapterMismatchError, InvalidConfigError, UnsupportedMethodError
from adapter_runtime.methods.common.along.copies import ComputesWithCopiesMixin, add_copies, give_back
from adapter_runtime.methods.configs.strings import ADAPTER_CONFIG_MAP
from composite_models import MAKERS, logits, made
from interface_models import qwen2
from runtime_models import adapted, randomise, upstream

TOKENS = {"input_ids": torch.tensor([[1, 7, 5, 9, 11, 3], [2, 8, 3, 4, 21, 6]])}
# A model, the name of what is trained along, and the paths of the modules with parameters in it, from the base model
CASES = {
    "llava": ("multi_modal_projector", ["multi_modal_projector.linear_1", "multi_modal_projector.linear_2"]),
    "gemma3": ("mm_soft_emb_norm", ["multi_modal_projector.mm_soft_emb_norm"]),
    "dual encoder": ("visual_projection", ["visual_projection"]),
    "bert": ("pooler", ["pooler.dense"]),
    "llama": ("norm", ["norm"]),
}


def case(kind: str) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
    if kind in MAKERS:
        return made(kind)
    return adapted(kind), TOKENS


def output(model: PreTrainedModel, inputs: dict[str, torch.Tensor], setup: Any = None) -> torch.Tensor:
    """What depends on the modules of `CASES`."""
    if not isinstance(model, BertModel):
        return logits(model, inputs, setup)
    if setup is not None:
        model.set_active_adapters(setup)
    with torch.no_grad():
        pooled: torch.Tensor = model(**inputs).pooler_output
    return pooled


def copies_of(model: PreTrainedModel, name: str) -> dict[str, nn.Parameter]:
    """The copies of an adapter, named as the parameters that they are copies of."""
    found = {}
    for key, parameter in model.adapters_base.adapter_parameters(name):
        path, _, rest = key.partition(f".trained_along.{name}.")
        if rest:
            found[f"{path}.{rest}"] = parameter
    return found


def snapshot(model: PreTrainedModel) -> Any:
    classes = [type(module) for module in model.modules()]
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}, classes


def assert_as(model: PreTrainedModel, known: Any) -> None:
    state, classes = known
    assert [type(module) for module in model.modules()] == classes
    own = model.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[key], tensor) for key, tensor in state.items())


# The option


@pytest.mark.parametrize("name", ADAPTER_CONFIG_MAP)
def test_every_config_has_the_option_and_writes_it_only_where_it_is_given(name: str) -> None:
    plain = ADAPTER_CONFIG_MAP[name]
    assert "also_train" not in json.dumps(plain.to_dict())
    assert "also_train" not in plain
    config = AdapterConfig.load(f"{name}[also_train=('norm', 'pooler')]")
    assert config.identity() != plain.identity()
    again = AdapterConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.replace(also_train=None) == plain


@pytest.mark.parametrize("names", [3, (), (3,), {"norm"}, b"norm"])
def test_what_is_no_name_is_refused(names: Any) -> None:
    with pytest.raises(InvalidConfigError, match=r"also_train is .* name of a module"):
        LoRAConfig(also_train=names)


# Adding and deleting


@pytest.mark.parametrize("method", ["lora", "seq_bn", "prefix_tuning", "loreft"])
@pytest.mark.parametrize("kind", CASES)
def test_a_new_copy_computes_what_the_module_does(kind: str, method: str) -> None:
    name, paths = CASES[kind]
    outputs = []
    for config in (method, f"{method}[also_train='{name}']"):
        model, inputs = case(kind)
        torch.manual_seed(1)
        model.add_adapter("a", config)
        outputs.append(output(model, inputs, "a"))
    assert torch.equal(*outputs)
    base = model.adapters_base
    expected = {f"{path}.{key}" for path in paths for key in dict(base.get_submodule(path).named_parameters())
                if "trained_along" not in key}  # fmt: skip
    assert copies_of(model, "a").keys() == expected


@pytest.mark.parametrize("kind", CASES)
def test_a_copy_runs_where_its_adapter_is_active_and_nowhere_else(kind: str) -> None:
    name, _ = CASES[kind]
    model, inputs = case(kind)
    base = output(model, inputs)
    for seed, adapter in enumerate("ab"):
        model.add_adapter(adapter, f"lora[also_train={name!r}]")
        randomise(model, adapter, seed)
    model.add_adapter("plain", "lora")
    first, second = output(model, inputs, "a"), output(model, inputs, "b")
    assert not torch.allclose(first, second, atol=1e-4)
    assert torch.equal(output(model, inputs, "plain"), base)
    with AdapterSetup("b"):
        assert torch.equal(output(model, inputs), second)
    assert torch.equal(output(model, inputs), base)
    model.set_active_adapters(None)
    assert torch.equal(output(model, inputs), base)
    model.set_active_adapters("a")
    with AdapterSetup(None):
        assert torch.equal(output(model, inputs), base)
    assert torch.equal(output(model, inputs), first)


@pytest.mark.parametrize("kind", CASES)
def test_the_outputs_are_those_of_a_model_that_has_the_copies_as_its_own(kind: str) -> None:
    name, _ = CASES[kind]
    model, inputs = case(kind)
    model.add_adapter("a", f"lora[also_train={name!r}]")  # a new LoRA changes nothing
    generator = torch.Generator().manual_seed(3)
    for parameter in copies_of(model, "a").values():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    other, _ = case(kind)
    for key, parameter in copies_of(model, "a").items():
        other.adapters_base.get_parameter(key).data.copy_(parameter.data)
    assert torch.equal(output(model, inputs, "a"), output(other, inputs))


@pytest.mark.parametrize("kind", CASES)
def test_deleting_gives_back_what_was_there(kind: str) -> None:
    name, paths = CASES[kind]
    model, inputs = case(kind)
    base, known = output(model, inputs), snapshot(model)
    for adapter in "ab":
        model.add_adapter(adapter, f"lora[also_train={name!r}]")
        randomise(model, adapter)
    expected = output(model, inputs, "b")
    model.delete_adapter("a")
    assert torch.equal(output(model, inputs), expected)
    assert all(isinstance(model.adapters_base.get_submodule(path), ComputesWithCopiesMixin) for path in paths)
    model.delete_adapter("b")
    assert_as(model, known)
    assert torch.equal(output(model, inputs), base)


def test_replacing_an_adapter_replaces_its_copies() -> None:
    model, inputs = case("bert")
    base, known = output(model, inputs), snapshot(model)
    model.add_adapter("a", "lora[also_train='pooler']")
    randomise(model, "a")
    model.add_adapter("a", "lora[also_train='pooler']", overwrite_ok=True)
    assert torch.equal(output(model, inputs, "a"), base)
    model.add_adapter("a", "lora", overwrite_ok=True)
    assert copies_of(model, "a") == {}
    model.delete_adapter("a")
    assert_as(model, known)


def test_members_of_a_union_name_modules_for_one_adapter() -> None:
    model, inputs = case("bert")
    config = ConfigUnion(
        LoRAConfig(also_train="pooler"), PrefixTuningConfig(also_train=("pooler.dense", "embeddings.LayerNorm"))
    )
    model.add_adapter("a", config)
    assert {key.rpartition(".")[0] for key in copies_of(model, "a")} == {"pooler.dense", "embeddings.LayerNorm"}
    randomise(model, "a")
    assert not torch.equal(output(model, inputs, "a"), output(adapted("bert"), inputs))


# Names


def test_a_last_name_means_all_modules_that_have_it() -> None:
    model = adapted("bert")
    model.add_adapter("a", "lora[also_train='LayerNorm']")
    norms = {path for path, module in upstream("bert").named_modules() if isinstance(module, nn.LayerNorm)}
    assert {key.rpartition(".")[0] for key in copies_of(model, "a")} == norms
    assert len(norms) == 7


def test_a_path_means_that_module_alone() -> None:
    model = adapted("bert")
    model.add_adapter("a", "lora[also_train='encoder.layer.1.output.LayerNorm']")
    assert copies_of(model, "a").keys() == {
        "encoder.layer.1.output.LayerNorm.weight",
        "encoder.layer.1.output.LayerNorm.bias",
    }


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("llava", "projector", "multi_modal_projector"),
        ("llava", "lm_head", "head around it"),
        ("llava", "language_model", "is a place of adapters|embeds the tokens"),
        ("llava", "model.multi_modal_projector", "An adapter can train along"),
        ("bert", "", "embeddings.LayerNorm.*in layers: LayerNorm"),
        ("bert", "poole", "pooler"),
        ("bert", "prefix_tuning", "no module of this path"),
        ("bert", "dropout", "no parameters"),
        ("bert", "encoder", "place of adapters"),
        ("bert", "query", "place of adapters"),
        ("bert", "encoder.layer.0.output", "place of adapters"),
        ("bert", "embeddings", "embeds the tokens"),
        ("bert", "word_embeddings", "embeds the tokens"),
        ("bert_lm", "transform", "head around it"),
        ("encoder-decoder", "decoder.cls", "shares"),
    ],
)
def test_a_name_that_means_nothing_to_train_is_refused(kind: str, name: str, message: str) -> None:
    model, _ = case(kind)
    known = snapshot(model)
    config = LoRAConfig(also_train=name)
    assert not model.supports_adapter(config)
    with pytest.raises((InvalidConfigError, UnsupportedMethodError), match=message):
        model.add_adapter("a", config)
    assert_as(model, known)


def test_what_another_adapter_stands_at_is_refused_before_and_after_it_does() -> None:
    model = adapted("bert")
    with pytest.raises(UnsupportedMethodError, match="place of adapters"):
        model.add_adapter("a", "seq_bn[also_train='key']")
    model.add_adapter("b", "lora[attn_matrices=['k']]")
    with pytest.raises(UnsupportedMethodError, match="place of adapters"):
        model.add_adapter("a", "seq_bn[also_train='key']")


class _Odd(nn.Module):
    """Stands where a pooler does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.inner = module

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden[:, 0]


class _ListWithWeight(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(2, 2))
        self.scale = nn.Parameter(torch.ones(2))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.LSTM(32, 4), "keeps its parameters"),
        (_ListWithWeight(), "list of modules"),
        (nn.ParameterList([nn.Parameter(torch.zeros(2, dtype=torch.int8), requires_grad=False)]), "quantised"),
        (nn.Sequential(nn.ReLU()), "no parameters"),
    ],
    ids=["its weights are kept in a list too", "a list with a parameter", "no floats", "nothing to learn"],
)
def test_a_module_that_would_not_see_a_copy_is_refused(module: nn.Module, message: str) -> None:
    model = upstream("bert")
    model.pooler = _Odd(module)
    init(model)
    with pytest.raises((InvalidConfigError, UnsupportedMethodError), match=message):
        model.add_adapter("a", "lora[also_train='pooler']")


def test_a_parameter_that_another_module_shares_is_refused() -> None:
    model = upstream("bert")
    model.pooler.dense.weight = model.encoder.layer[0].attention.output.dense.weight
    init(model)
    with pytest.raises(UnsupportedMethodError, match="shares"):
        model.add_adapter("a", "lora[also_train='pooler']")


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Linear(32, 8), nn.GELU(), nn.Sequential(nn.Linear(8, 32))),
        nn.ModuleList([nn.Linear(32, 32), nn.LayerNorm(32)]),
        nn.ParameterList([nn.Parameter(torch.ones(32)), nn.Parameter(torch.zeros(32))]),
    ],
    ids=["a sequence", "a list, which is never called", "parameters in a list"],
)
def test_lists_stand_for_their_entries(module: nn.Module) -> None:
    class Pooler(_Odd):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            first = hidden[:, 0]
            if isinstance(self.inner, nn.Sequential):
                given: torch.Tensor = self.inner(first)
                return given
            for entry in self.inner:
                first = entry(first) if isinstance(entry, nn.Module) else first * entry
            return first

    model = upstream("bert")
    model.pooler = Pooler(copy.deepcopy(module))
    init(model)
    known = output(model, TOKENS)
    model.add_adapter("a", "lora[also_train='pooler']")
    assert torch.equal(output(model, TOKENS, "a"), known)
    assert copies_of(model, "a").keys() == {f"pooler.inner.{key}" for key, _ in module.named_parameters()}
    model.train_adapter("a")
    model(**TOKENS).pooler_output.square().sum().backward()
    assert all(parameter.grad is not None for parameter in copies_of(model, "a").values())
    model.eval()
    for parameter in copies_of(model, "a").values():
        parameter.data.normal_()
    assert not torch.allclose(output(model, TOKENS), known)
    model.delete_adapter("a")
    assert torch.equal(output(model, TOKENS), known)


# What reads parameters


def test_what_reads_a_weight_past_the_forward_gets_that_of_the_active_adapter() -> None:
    model = adapted("bert")
    model.add_adapter("a", "lora[also_train='pooler']")
    dense = model.pooler.dense
    own, copied = dense._parameters["weight"], copies_of(model, "a")["pooler.dense.weight"]
    assert dense.weight is own
    model.set_active_adapters("a")
    assert dense.weight is copied
    assert model.pooler.dense.in_features == 32
    assert dict(dense.named_parameters(recurse=False))["weight"] is own
    with AdapterSetup(None):
        assert dense.weight is own


def test_running_means_are_those_of_the_adapter() -> None:
    norm = nn.BatchNorm1d(4)
    known = copy.deepcopy(norm.state_dict())
    host = nn.ModuleDict({"norm": norm})
    add_copies(norm, "a", "norm", -1)
    held = norm.trained_along
    held.activate(Stack("a"), frozenset())
    norm.train()(torch.randn(8, 4))
    assert not torch.equal(held["a"].running_mean, known["running_mean"])
    assert held["a"].num_batches_tracked == 1
    held.delete_adapter("a")
    give_back(host)
    assert type(norm) is nn.BatchNorm1d
    assert all(torch.equal(tensor, known[key]) for key, tensor in norm.state_dict().items())


def test_constants_are_not_copied() -> None:
    module = nn.Linear(2, 2)
    module.register_buffer("table", torch.ones(2), persistent=False)
    add_copies(module, "a", "", -1)
    assert set(module.trained_along["a"].state_dict()) == {"weight", "bias"}


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_one_graph(kind: str) -> None:
    torch._dynamo.reset()
    model = adapted(kind)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for seed, name in enumerate("ab"):
        model.add_adapter(name, f"lora[also_train={CASES[kind][0]!r}]")
        randomise(model, name, seed)
    for setup in ("a", "b", None):
        model.set_active_adapters(setup)
        expected, given = model(**TOKENS, use_cache=False)[-1 if kind == "bert" else 0], compiled(
            **TOKENS, use_cache=False
        )
        torch.testing.assert_close(given[-1 if kind == "bert" else 0], expected)
    torch._dynamo.reset()


def test_skipped_layers_compute_with_their_own_norms() -> None:
    model = adapted("bert")
    model.add_adapter(
        "a", "seq_bn[also_train=('encoder.layer.0.output.LayerNorm', 'encoder.layer.2.output.LayerNorm')]"
    )
    randomise(model, "a")
    model.set_active_adapters("a", skip_layers=[0])
    layers = model.encoder.layer
    assert layers[0].output.LayerNorm.weight is layers[0].output.LayerNorm._parameters["weight"]
    assert layers[2].output.LayerNorm.weight is copies_of(model, "a")["encoder.layer.2.output.LayerNorm.weight"]
    assert set(model.get_adapter("a")[2]) >= {"encoder.layer.2.output.LayerNorm"}


def test_layers_that_are_left_out_have_no_copies() -> None:
    model = adapted("bert")
    model.add_adapter("a", "seq_bn[leave_out=[1], also_train='LayerNorm']")
    assert not any("layer.1." in key for key in copies_of(model, "a"))
    assert any("layer.0." in key for key in copies_of(model, "a"))
    with pytest.raises(InvalidConfigError, match="left out"):
        model.add_adapter("b", "seq_bn[leave_out=[1], also_train='encoder.layer.1.output.LayerNorm']")


def test_a_model_with_an_interface() -> None:
    model, inputs = qwen2(), TOKENS
    base = logits(model, inputs)
    model.add_adapter("a", "lora[also_train=('norm', 'input_layernorm')]")
    assert torch.equal(logits(model, inputs, "a"), base)
    randomise(model, "a")
    assert not torch.allclose(logits(model, inputs), base)
    model.delete_adapter("a")
    assert torch.equal(logits(model, inputs), base)


# Training


@pytest.mark.parametrize("kind", CASES)
def test_the_copies_are_trained_and_the_originals_are_not(kind: str) -> None:
    name, _ = CASES[kind]
    model, inputs = case(kind)
    model.add_adapter("a", f"lora[also_train={name!r}]")
    model.add_adapter("b", f"lora[also_train={name!r}]")
    model.train_adapter("a")
    trained = {key for key, parameter in model.adapters_base.named_parameters() if parameter.requires_grad}
    assert trained == {key for key, _ in model.adapters_base.adapter_parameters("a")}
    model(**inputs)[-1 if kind == "bert" else 0].square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in copies_of(model, "a").values())
    assert all(parameter.grad is None for parameter in copies_of(model, "b").values())


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(reentrant: bool) -> None:
    gradients = []
    for checkpoints in (False, True):
        model = adapted("llama_lm")
        model.add_adapter("a", "lora[also_train=('norm', 'input_layernorm')]")
        randomise(model, "a")
        model.train_adapter("a")
        if checkpoints:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model(**TOKENS).logits.square().sum().backward()
        gradients.append([parameter.grad for parameter in copies_of(model, "a").values()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


# Compositions


@pytest.mark.parametrize("kind", ["llava", "bert"])
@pytest.mark.parametrize("make", [Parallel, BatchSplit, Average, Split, Fuse, MultiTask])
def test_blocks_in_which_a_module_would_compute_for_others_are_refused(kind: str, make: Any) -> None:
    model, inputs = case(kind)
    model.add_adapter("a", f"seq_bn[also_train={CASES[kind][0]!r}]")
    model.add_adapter("b", "seq_bn")
    options = {BatchSplit: {"batch_sizes": [1, 1]}, Split: {"splits": [3, 3]}}
    block = make("a", "b", **options.get(make, {}))
    if make is Fuse:
        model.add_adapter_fusion(block)
    model.set_active_adapters("b")
    expected = output(model, inputs)
    for setup in (block, Stack("b", block)):
        with pytest.raises(UnsupportedMethodError):
            model.set_active_adapters(setup)
    with AdapterSetup(block), pytest.raises(UnsupportedMethodError, match="also_train"):
        output(model, inputs)
    assert torch.equal(output(model, inputs), expected)


@pytest.mark.parametrize("kind", ["llava", "bert"])
def test_in_a_stack_one_adapter_may_have_a_module(kind: str) -> None:
    model, inputs = case(kind)
    for seed, name in enumerate("ac"):
        model.add_adapter(name, f"{'lora' if name == 'a' else 'seq_bn'}[also_train={CASES[kind][0]!r}]")
        randomise(model, name, seed)
    model.add_adapter("b", "seq_bn")
    randomise(model, "b", 5)
    first, both = output(model, inputs, "b"), output(model, inputs, Stack("a", "b"))
    assert not torch.allclose(first, both)
    assert torch.equal(output(model, inputs, Stack("b", "a")), both)
    with pytest.raises(UnsupportedMethodError, match=r"'a', 'c' in .* each train"):
        model.set_active_adapters(Stack("a", "b", "c"))
    assert torch.equal(output(model, inputs), both)


def test_adapters_of_a_stack_may_have_different_modules() -> None:
    model = adapted("bert")
    model.add_adapter("a", "lora[also_train='pooler']")
    model.add_adapter("b", "lora[also_train='embeddings.LayerNorm']")
    model.set_active_adapters(Stack("a", "b"))
    assert model.pooler.dense.weight is copies_of(model, "a")["pooler.dense.weight"]
    assert model.embeddings.LayerNorm.weight is copies_of(model, "b")["embeddings.LayerNorm.weight"]


def test_parallel_of_others_goes_on() -> None:
    model, inputs = case("llava")
    model.add_adapter("a", "lora[also_train='multi_modal_projector']")
    for name in "bc":
        model.add_adapter(name, "lora")
    assert len(output(model, inputs, Parallel("b", "c"))) == 4


def test_merging_is_refused() -> None:
    model, inputs = case("llava")
    model.add_adapter("a", "lora[also_train='multi_modal_projector']")
    expected = output(model, inputs, "a")
    with pytest.raises(UnsupportedMethodError, match=r"multi_modal_projector\.linear_1"):
        model.merge_adapter("a")
    assert torch.equal(output(model, inputs), expected)


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.25, 0.75), (1.0, -1.0), (0.3, 0.3)])
@pytest.mark.parametrize("strategy", ["linear", "lora_linear_only_negate_b"])
def test_an_average_is_one_of_changes(weights: tuple[float, float], strategy: str) -> None:
    model = adapted("bert")
    for seed, name in enumerate("ab"):
        model.add_adapter(name, "lora[also_train='pooler']")
        randomise(model, name, seed)
    model.average_adapter("c", ["a", "b"], weights, combine_strategy=strategy, normalize_weights=False)
    for key, parameter in copies_of(model, "c").items():
        start = model.get_parameter(key)
        changes = [copies_of(model, name)[key] - start for name in "ab"]
        expected = start + weights[0] * changes[0] + weights[1] * changes[1]
        torch.testing.assert_close(parameter, expected, atol=1e-6, rtol=1e-5)


def test_adapters_that_train_other_modules_have_no_average() -> None:
    model = adapted("bert")
    model.add_adapter("a", "lora[also_train='pooler']")
    model.add_adapter("b", "lora")
    with pytest.raises(InvalidConfigError, match="also_train"):
        model.average_adapter("c", ["a", "b"])


# Files


def test_the_copies_are_in_the_file(tmp_path: Path) -> None:
    model, inputs = case("llava")
    model.add_adapter("a", "lora[parts='text', also_train='multi_modal_projector']")
    randomise(model, "a")
    expected = output(model, inputs, "a")
    model.save_adapter(tmp_path, "a")
    stored = json.loads((tmp_path / "adapter_config.json").read_text())["config"]
    assert stored["also_train"] == ["multi_modal_projector"]
    names = {key for key in load_file(tmp_path / "adapter.safetensors") if "trained_along" in key}
    assert names == {
        f"model.multi_modal_projector.linear_{number}.trained_along.a.{key}"
        for number in (1, 2)
        for key in ("weight", "bias")
    }
    other = made("llava").model
    base = output(other, inputs)
    other.load_adapter(tmp_path, load_as="again", set_active=True)
    assert torch.equal(output(other, inputs), expected)
    other.delete_adapter("again")
    assert torch.equal(output(other, inputs), base)


@pytest.mark.parametrize("kind", CASES)
def test_an_adapter_comes_back_from_its_file(kind: str, tmp_path: Path) -> None:
    model, inputs = case(kind)
    model.add_adapter("a", f"seq_bn[also_train={CASES[kind][0]!r}]")
    randomise(model, "a")
    expected = output(model, inputs, "a")
    model.save_adapter(tmp_path, "a")
    other, _ = case(kind)
    other.load_adapter(tmp_path, set_active=True)
    assert torch.equal(output(other, inputs), expected)


def test_a_load_that_fails_changes_nothing(tmp_path: Path) -> None:
    model, _ = case("bert")
    model.add_adapter("a", "lora[also_train='pooler']")
    model.save_adapter(tmp_path, "a")
    without = upstream("bert")
    without.pooler = None
    init(without)
    known = snapshot(without)
    with pytest.raises(InvalidConfigError, match="no module"):
        without.load_adapter(tmp_path)
    assert_as(without, known)
    tensors = load_file(tmp_path / "adapter.safetensors")
    del tensors["pooler.dense.trained_along.a.bias"]
    save_file(tensors, tmp_path / "adapter.safetensors")
    other = adapted("bert")
    known = snapshot(other)
    with pytest.raises(AdapterMismatchError, match=r"pooler\.dense\.trained_along\.a\.bias"):
        other.load_adapter(tmp_path)
    assert_as(other, known)
    assert "a" not in other.adapters_config


def test_a_caller_leaves_the_copies_in_the_file(tmp_path: Path) -> None:
    model, inputs = case("llava")
    model.add_adapter("a", "lora[also_train=('multi_modal_projector', 'pre_layrnorm')]")
    randomise(model, "a")
    model.save_adapter(tmp_path, "a")
    other = made("llava").model
    other.load_adapter(tmp_path, config={"also_train": None}, set_active=True)
    assert copies_of(other, "a") == {}
    for key, parameter in copies_of(model, "a").items():
        parameter.data.copy_(model.adapters_base.get_parameter(key))
    assert torch.equal(output(other, inputs), output(model, inputs, "a"))
    third = made("llava").model
    third.load_adapter(tmp_path, config={"also_train": "pre_layrnorm"})
    assert {key.rpartition(".")[0] for key in copies_of(third, "a")} == {"vision_tower.pre_layrnorm"}


def test_layers_that_are_left_out_on_loading_bring_no_copies(tmp_path: Path) -> None:
    model = adapted("bert")
    model.add_adapter("a", "seq_bn[also_train='LayerNorm']")
    randomise(model, "a")
    model.save_adapter(tmp_path, "a")
    other = adapted("bert")
    other.load_adapter(tmp_path, leave_out=[0, 1])
    given = copies_of(model, "a")
    for key, parameter in copies_of(other, "a").items():
        assert "layer.0." not in key
        assert torch.equal(parameter, given[key])


@pytest.mark.parametrize("kind", ["llava", "bert"])
def test_a_whole_checkpoint_has_the_copies(kind: str, tmp_path: Path) -> None:
    model, inputs = case(kind)
    model.add_adapter("a", f"lora[also_train={CASES[kind][0]!r}]")
    randomise(model, "a")
    expected, bare = output(model, inputs, "a"), output(case(kind)[0], inputs)
    model.save_pretrained(tmp_path)
    plain = type(upstream("bert") if kind == "bert" else MAKERS[kind]().model).from_pretrained(tmp_path).eval()
    assert torch.allclose(output(plain, inputs), bare, atol=1e-6)
    init(plain)
    assert copies_of(plain, "a").keys() == copies_of(model, "a").keys()
    assert torch.allclose(output(plain, inputs), bare, atol=1e-6)
    whole = AutoAdapterModel.from_pretrained(tmp_path).eval()
    given = copies_of(whole, "a")
    assert given.keys() == copies_of(model, "a").keys()
    assert all(torch.equal(given[key], parameter) for key, parameter in copies_of(model, "a").items())
    if kind == "bert":
        assert torch.allclose(output(whole.base_model, inputs, "a"), expected, atol=1e-6)


@pytest.mark.parametrize("kind", CASES)
def test_copies_and_pickles_have_tensors_of_their_own(kind: str) -> None:
    model, inputs = case(kind)
    model.add_adapter("a", f"lora[also_train={CASES[kind][0]!r}]", set_active=True)
    randomise(model, "a")
    others = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    expected = output(model, inputs)
    for other in others:
        assert torch.equal(output(other, inputs), expected)
        for parameter in copies_of(other, "a").values():
            parameter.data.zero_()
        assert not torch.equal(output(other, inputs), expected)
    assert torch.equal(output(model, inputs), expected)


# What is shown


@pytest.mark.parametrize("kind", ["llava", "bert"])
def test_the_summary_has_a_row_for_each_name(kind: str) -> None:
    model, _ = case(kind)
    name, _ = CASES[kind]
    model.add_adapter("a", f"lora[also_train={name!r}]")
    model.add_adapter("b", "lora")
    model.train_adapter("a")
    first, second, full = model.adapter_summary(as_dict=True)
    own = sum(parameter.numel() for parameter in copies_of(model, "a").values())
    (row,) = first["also_trained"]
    assert (row["name"], row["#param"], row["#train"], row["active"]) == (name, own, own, True)
    assert first["#param"] == second["#param"] + own
    assert sum(part["#param"] for part in first.get("parts", [second])) == second["#param"]
    assert "also_trained" not in second
    assert full["#param"] == sum(parameter.numel() for parameter in case(kind)[0].adapters_base.parameters())
    assert any(line.split()[:2] == [name, "copy"] for line in model.adapter_summary().splitlines() if line.strip())
