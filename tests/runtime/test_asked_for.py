"""Nothing that a config asks for is dropped in silence: an error where no layer has a place, a warning where some have none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BartConfig, BartModel, PreTrainedModel

from adapter_runtime import init
from adapter_runtime.errors import InvalidConfigError
from adapter_runtime.methods.bottleneck.config import BnConfig, DoubleSeqBnConfig, SeqBnConfig
from adapter_runtime.methods.lora.config import IA3Config, LoRAConfig
from adapter_runtime.methods.placing import says
from adapter_runtime.roles import AttentionRoles
from runtime_models import adapted


@pytest.fixture
def model() -> PreTrainedModel:
    return adapted("llama")


def lacking(model: PreTrainedModel, path: str, *layers: int) -> PreTrainedModel:
    """`model`, in which some layers have no module at `path`, as in models whose layers differ."""
    for index in layers:
        layer = model.layers[index]
        layer.roles = dataclasses.replace(layer.roles, optional=(*layer.roles.optional, path))
        owner, _, name = path.rpartition(".")
        setattr(layer.get_submodule(owner), name, None)
    return model


@pytest.mark.parametrize(
    ("config", "found"),
    [
        pytest.param("lora", False, id="a preset"),
        pytest.param(LoRAConfig(attn_matrices=["q", "v"]), False, id="the default value again"),
        pytest.param(LoRAConfig(attn_matrices=["q", "v", "o"]), True, id="another value"),
        pytest.param(LoRAConfig().replace(attn_matrices=["k"]), True, id="a changed copy"),
    ],
)
def test_an_option_is_said_where_it_differs_from_the_default(config: str | LoRAConfig, found: bool) -> None:
    given = LoRAConfig() if isinstance(config, str) else config
    assert says(given, "attn_matrices") is found


def test_what_has_no_default_is_said() -> None:
    config = BnConfig(mh_adapter=True, output_adapter=True, reduction_factor=2, non_linearity="relu")
    assert says(config, "mh_adapter") and not says(DoubleSeqBnConfig(), "mh_adapter")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("seq_bn[cross_adapter=True]", r"cross_adapter=True, but no layer .* places for output_adapter=True"),
        ("seq_bn[leave_out=[1,7]]", r"leave_out names the layers \[7\], but LlamaModel has 0 to 2"),
        ("lora[leave_out=[3]]", r"leave_out names the layers \[3\]"),
        ("prefix_tuning[leave_out=[-1]]", r"leave_out names the layers \[-1\]"),
        ("loreft[layers=[0,9]]", r"layers names the layers \[9\]"),
        ("lora|seq_bn[leave_out=[5]]", r"leave_out names the layers \[5\]"),
    ],
)
def test_what_no_layer_has_is_an_error(model: PreTrainedModel, config: str, message: str) -> None:
    with pytest.raises(InvalidConfigError, match=message):
        model.add_adapter("a", config)
    assert "a" not in model.adapters_config


def test_a_reduction_factor_of_a_layer_that_is_not_there_is_an_error(model: PreTrainedModel) -> None:
    with pytest.raises(InvalidConfigError, match=r"reduction_factor names the layers \[8\]"):
        model.add_adapter("a", SeqBnConfig(reduction_factor={"0": 2, "8": 4, "default": 16}))


def test_layers_that_are_not_there_cannot_be_skipped(model: PreTrainedModel) -> None:
    model.add_adapter("a", "seq_bn")
    with pytest.raises(InvalidConfigError, match=r"skip_layers names the layers \[3\]"):
        model.set_active_adapters("a", skip_layers=[0, 3])
    assert model.active_adapters is None


@pytest.mark.parametrize("config", [LoRAConfig(intermediate_lora=True), LoRAConfig(attn_matrices=["q", "k", "o"])])
def test_a_projection_that_no_layer_has_is_an_error(config: LoRAConfig) -> None:
    path = "mlp.up_proj" if config.intermediate_lora else "self_attn.k_proj"
    with pytest.raises(
        InvalidConfigError, match=r"(intermediate_lora=True|'k' in attn_matrices), but no layer .*'q' in"
    ):
        lacking(adapted("llama"), path, 0, 1, 2).add_adapter("a", config)


def test_what_only_some_layers_have_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    model = lacking(lacking(adapted("llama"), "mlp.up_proj", 0, 1), "self_attn.v_proj", 2)
    model.add_adapter("a", "lora[intermediate_lora=True]|seq_bn")
    (record,) = caplog.records
    assert "'v' in attn_matrices (layer 2); intermediate_lora=True (layers 0-1)" in record.getMessage()
    assert model.active_adapters is None and "a" in model.adapters_config


def without_attention(model: PreTrainedModel, *layers: int) -> PreTrainedModel:
    """`model`, in which something else stands in the place of some attentions, as in models with mixers."""
    for index in layers:
        layer = model.layers[index]
        attentions = tuple(dataclasses.replace(one, core_classes=("Attends",)) for one in layer.roles.attentions)
        layer.roles = dataclasses.replace(layer.roles, attentions=attentions)
    return model


@pytest.mark.parametrize(
    ("config", "gap"),
    [
        pytest.param("prefix_tuning", "a prefix in self-attention (layers 0-1)", id="layers without attention"),
        pytest.param("prefix_tuning[leave_out=[1]]", "a prefix in self-attention (layer 0)", id="one is left out"),
        pytest.param("prefix_tuning[leave_out=[0,1]]", "", id="both are"),
    ],
)
def test_layers_that_can_hold_no_prefix_are_named(config: str, gap: str, caplog: pytest.LogCaptureFixture) -> None:
    without_attention(adapted("llama"), 0, 1).add_adapter("a", config)
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == ([f"{gap}."] if gap else [])


def hold_no_prefix(attention: nn.Module) -> None:
    """Give an attention upstream's class back: a kind of attention for which none was generated."""
    attention.__class__ = next(cls for cls in type(attention).__mro__ if cls.__module__.startswith("transformers"))


@pytest.mark.parametrize(
    ("config", "gap"),
    [
        pytest.param("prefix_tuning", "a prefix in cross-attention (layer 1)", id="one cross-attention"),
        pytest.param("prefix_tuning[cross_prefix=False]", "", id="none is asked for in cross-attention"),
    ],
)
def test_an_attention_that_can_hold_no_prefix_does_not_hide_behind_another(
    config: str, gap: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = adapted("bert_decoder")
    hold_no_prefix(model.encoder.layer[1].crossattention.self)
    model.add_adapter("a", config)
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == ([f"{gap}."] if gap else [])


@pytest.mark.parametrize(("config", "gaps"), [("prefix_tuning", 1), ("prefix_tuning[encoder_prefix=False]", 0)])
def test_an_encoder_that_is_to_have_no_prefix_lacks_none(
    config: str, gaps: int, caplog: pytest.LogCaptureFixture
) -> None:
    model = BartModel(BartConfig(vocab_size=99, d_model=32, encoder_layers=2, decoder_layers=2))
    init(model)
    hold_no_prefix(model.encoder.layers[0].self_attn)
    model.add_adapter("a", config)
    assert len(caplog.records) == gaps


@pytest.mark.parametrize(("config", "shown"), [("loreft", "layers='all'"), ("loreft[layers=[0,2]]", "layers=[0, 2]")])
def test_layers_that_can_hold_no_edit_are_named(
    config: str, shown: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = adapted("llama")
    monkeypatch.setattr(type(model), "layers_of_form", lambda self, *forms: frozenset({0, 1} if forms else ()))
    model.add_adapter("a", config)
    (record,) = caplog.records
    assert record.getMessage().endswith(f": {shown} ({'layers 0-1' if 'all' in shown else 'layer 0'}).")
    with pytest.raises(InvalidConfigError, match=r"layers=\[1\], but no layer"):
        model.add_adapter("b", "loreft[layers=[1]]")


class Tables(nn.Module):
    """Weights of several experts, [experts, outputs, inputs]."""

    def __init__(self, experts: int, width: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.zeros(experts, 7, width))
        self.down = nn.Parameter(torch.zeros(experts, width, 7))


def block(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 7), nn.ReLU(), nn.Linear(7, width))


def test_an_attention_without_a_projection_does_not_hide_behind_another(caplog: pytest.LogCaptureFixture) -> None:
    """Mask2Former's decoder attends to the image by a module of torch's."""
    model = adapted("bert_decoder")
    for index in (1, 2):
        layer = model.encoder.layer[index]
        attentions = tuple(
            AttentionRoles(core=one.core, kind="cross") if one.kind == "cross" else one
            for one in layer.roles.attentions
        )
        layer.roles = dataclasses.replace(layer.roles, attentions=attentions)
    model.add_adapter("a", "lora")
    (record,) = caplog.records
    gap = "'q' in attn_matrices, 'v' in attn_matrices (cross-attention of layers 1-2)"
    assert record.getMessage().endswith(f"as these layers have no place for it: {gap}.")


@pytest.mark.parametrize(
    "experts",
    [
        pytest.param(lambda: Tables(3, 32), id="tables"),
        pytest.param(lambda: nn.ModuleList(block(32) for _ in range(3)), id="a list of blocks"),
        pytest.param(lambda: nn.ModuleDict({"one": block(32), "two": block(32)}), id="blocks by name"),
    ],
)
def test_routed_experts_beside_a_block_with_places_are_named(
    experts: Callable[[], nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    model = adapted("llama")
    model.layers[1].mlp.experts = experts()
    model.add_adapter("a", "lora[intermediate_lora=True,output_lora=True]")
    (record,) = caplog.records
    assert record.getMessage().endswith(": intermediate_lora=True, output_lora=True (routed experts of layer 1).")
    model.add_adapter("b", "lora")
    assert len(caplog.records) == 1, "the attentions have what is asked for"


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda: Tables(1, 32), id="tables of one"),
        pytest.param(lambda: Tables(3, 31), id="tables of another width"),
        pytest.param(lambda: nn.Conv1d(32, 3, 3), id="a convolution"),
        pytest.param(lambda: nn.ModuleList([block(32)]), id="a list of one block"),
        pytest.param(lambda: nn.ModuleList([block(32), nn.Linear(32, 32)]), id="a list of different things"),
        pytest.param(lambda: nn.ModuleList([block(31), block(31)]), id="blocks of another width"),
    ],
)
def test_what_holds_no_experts_is_taken_for_none(
    other: Callable[[], nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    model = adapted("llama")
    model.layers[1].mlp.other = other()
    model.add_adapter("a", "lora[intermediate_lora=True]")
    assert caplog.records == []


def test_modules_of_other_adapters_are_no_experts(caplog: pytest.LogCaptureFixture) -> None:
    """MTL-LoRA has tables of several up-projections, as wide as the stream."""
    model = adapted("llama")
    options = "n_up_projection=3,output_lora=True,intermediate_lora=True,r=32"
    for name in ("a", "b"):
        model.add_adapter(name, f"mtl_lora[{options}]")
    assert caplog.records == []


def test_layers_that_are_left_out_lack_nothing(caplog: pytest.LogCaptureFixture) -> None:
    lacking(adapted("llama"), "mlp.up_proj", 0, 1).add_adapter("a", "lora[intermediate_lora=True,leave_out=[0,1]]")
    assert caplog.records == []


def test_what_only_the_defaults_of_a_preset_ask_for_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    lacking(adapted("llama"), "mlp.up_proj", 0, 1, 2).add_adapter("a", IA3Config())
    assert ["intermediate_lora=True (all layers)" in record.getMessage() for record in caplog.records] == [True]


def test_models_whose_layers_have_everything_warn_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    for kind in ("bert", "bert_decoder", "llama"):
        model = adapted(kind)
        configs = (
            "mam",
            "unipelt",
            "double_seq_bn",
            "ia3",
            "prefix_tuning|lora[attn_matrices=['q','v']]",
            "compacter[reduction_factor=8]",
        )
        for index, config in enumerate(configs):
            model.add_adapter(f"a{index}", config)
    model = adapted("bert_decoder")
    model.add_adapter("cross", "seq_bn[cross_adapter=True]")
    assert caplog.records == []


def test_an_adapter_from_a_file_gets_what_it_had(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = lacking(adapted("llama"), "mlp.up_proj", 0, 1, 2)
    model.add_adapter("a", "ia3")
    caplog.clear()
    model.save_adapter(str(tmp_path), "a")
    other = lacking(adapted("llama"), "mlp.up_proj", 0, 1, 2)
    other.add_adapter("b", "ia3")
    caplog.clear()
    other.load_adapter(str(tmp_path))
    other.average_adapter("c", ["a", "b"])
    assert caplog.records == []
    assert not any(isinstance(module, nn.ModuleDict) and "a" in module for module in other.layers[0].mlp.modules())
