"""The method that ``docs/a-method-of-your-own.md`` builds, from the very text of that page, and what registering refuses."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import black
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2Model

import adapter_models
from adapter_models import (
    LoRAConfig,
    LowRank,
    MethodRegistrationError,
    MethodSpec,
    Parallel,
    ProjectionSite,
    UnsupportedMethodError,
    projection_method,
    register_method,
)
from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.methods import registering, table
from adapter_runtime.methods.configs.named import NAMED
from adapter_runtime.methods.configs.union import members
from conformance.adapted import adapted_subjects
from conformance.checks import CHECKS, Cell
from conformance.methods import LoRA, Method

PAGE = Path(__file__).parents[2] / "docs" / "a-method-of-your-own.md"
HIRA = Method(
    "hira",
    "hira[r=4,alpha=8]",
    (
        LoRA(
            r=4,
            alpha=8,
            form="own",
            tensors=("lora_A", "lora_B"),
            update=lambda weight, tensors: weight * (tensors["lora_B"] @ tensors["lora_A"]),
        ),
    ),
)


def source() -> str:
    """The first block of code on the page."""
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module", autouse=True)
def hira(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The file of the page, imported; what it registers is gone afterwards."""
    known = (table.METHODS, NAMED, AdapterConfig._architectures)
    before: list[dict[Any, Any]] = [dict(held) for held in known]
    path = tmp_path_factory.mktemp("own") / "hira.py"
    path.write_text(source(), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("hira", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "hira", module)
        spec.loader.exec_module(module)
        yield module
    for held, contents in zip(known, before, strict=True):
        held.clear()
        held.update(contents)


def bert(**options: Any) -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, **options
    )
    model = BertForSequenceClassification(config).eval()
    adapter_models.init(model)
    return model


def randomised(model: Any, *names: str) -> Any:
    for seed, name in enumerate(names):
        generator = torch.Generator().manual_seed(seed)
        for _, parameter in model.adapter_parameters(name):
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model


INPUTS = {"input_ids": torch.arange(5, 17).view(2, 6)}


def test_the_page_needs_at_most_80_lines_of_at_most_100_columns_and_public_names_alone() -> None:
    lines = source().splitlines()
    assert len(lines) <= 80
    assert max(map(len, lines)) <= 100
    assert black.format_str(source(), mode=black.Mode(line_length=100)) == source()
    imported = [line for line in lines if re.match(r"(from|import) adapter", line)]
    assert imported and all(line.startswith("from adapter_models import ") for line in imported)


def test_it_is_a_config_string_with_options_and_stands_in_unions() -> None:
    config = AdapterConfig.load("hira[r=2,alpha=6]")
    assert (type(config).__name__, config["r"], config["architecture"]) == ("HiRAConfig", 2, "hira")
    assert AdapterConfig.from_dict(config.to_dict()) == config
    assert [member.architecture for member in members(AdapterConfig.load("seq_bn|hira"))] == [None, "hira"]


def test_a_new_adapter_changes_nothing_and_is_counted() -> None:
    model = bert()
    bare = model(**INPUTS).logits
    model.add_adapter("a", config="hira[r=2]", set_active=True)
    assert torch.equal(model(**INPUTS).logits, bare)
    row = model.adapter_summary(as_dict=True)[0]
    assert (row["architecture"], row["#param"]) == ("hira", 2 * 2 * 2 * 2 * 16)


@pytest.mark.parametrize("config", ["hira[r=2,alpha=6]", "hira[r=2,intermediate_lora=True,output_lora=True]"])
def test_merging_gives_the_same_outputs_and_is_undone_bit_by_bit(config: str) -> None:
    model = bert()
    model.add_adapter("a", config=config, set_active=True)
    randomised(model, "a")
    weight = model.bert.encoder.layer[0].attention.self.query.weight
    before, adapted = weight.clone(), model(**INPUTS).logits
    model.merge_adapter("a")
    assert not torch.equal(weight, before)
    torch.testing.assert_close(model(**INPUTS).logits, adapted, rtol=1e-5, atol=1e-6)
    model.reset_adapter()
    assert torch.equal(weight, before)


def test_files_hold_its_tensors_and_give_the_same_outputs(tmp_path: Path) -> None:
    model = bert()
    model.add_adapter("a", config="hira[r=2,attn_matrices=['q']]", set_active=True)
    randomised(model, "a")
    model.save_adapter(tmp_path, "a", with_head=False)
    fresh = bert()
    assert fresh.load_adapter(str(tmp_path), set_active=True) == "a"
    assert fresh.adapters_config.get("a") == model.adapters_config.get("a")
    assert torch.equal(fresh(**INPUTS).logits, model(**INPUTS).logits)
    names = {name.partition("loras.a.")[2] for name in fresh.state_dict() if ".loras." in name}
    assert names == {"lora_A", "lora_B"}


def test_a_whole_model_is_saved_with_it_and_loaded(tmp_path: Path) -> None:
    model = bert()
    model.add_adapter("a", config="hira[r=2]", set_active=True)
    randomised(model, "a").save_pretrained(tmp_path)
    fresh = adapter_models.load_model(tmp_path, BertForSequenceClassification).eval()
    fresh.set_active_adapters("a")
    assert torch.equal(fresh(**INPUTS).logits, model(**INPUTS).logits)


def test_training_changes_it_alone() -> None:
    model = bert()
    model.add_adapter("a", config="hira[r=2]")
    model.train_adapter("a")
    own = {name for name, _ in model.adapter_parameters("a")}
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(**INPUTS, labels=torch.tensor([0, 1])).loss.backward()
        optimizer.step()
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert own <= changed
    assert all("classifier" in name for name in changed - own)


def test_parallel_gives_each_its_own_outputs() -> None:
    model = bert()
    for name in "ab":
        model.add_adapter(name, config="hira[r=2]")
    randomised(model, "a", "b")
    alone = []
    for name in "ab":
        model.set_active_adapters(name)
        alone.append(model(**INPUTS).logits)
    model.set_active_adapters(Parallel("a", "b"))
    torch.testing.assert_close(model(**INPUTS).logits, torch.cat(alone))


def test_parts_of_a_fused_projection_that_stores_its_weight_transposed() -> None:
    torch.manual_seed(0)
    model = GPT2Model(GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2)).eval()
    adapter_models.init(
        model,
        interface=adapter_models.AdapterModelInterface(
            adapter_methods=["lora"],
            model_embeddings="wte",
            model_layers="h",
            layer_self_attn="attn",
            layer_cross_attn=None,
            attn_o_proj="c_proj",
            attn_qkv_proj="c_attn",
            layer_intermediate_proj="mlp.c_fc",
            layer_output_proj="mlp.c_proj",
        ),
    )
    model.add_adapter("a", config="hira[r=2,attn_matrices=['q','v']]", set_active=True)
    randomised(model, "a")
    projection = model.h[0].attn.c_attn
    adapter = projection.loras["a"]
    x = torch.randn(2, 3, 16)
    expected = projection.weight.T.clone()  # [48, 16]
    for part, rows in enumerate((slice(0, 16), slice(32, 48))):
        update = adapter.lora_B[16 * part : 16 * part + 16] @ adapter.lora_A[2 * part : 2 * part + 2]
        expected[rows] += 16 * expected[rows] * update
    scaled = AdapterConfig.load("hira[r=2]")
    assert scaled["alpha"] / scaled["r"] == 16
    torch.testing.assert_close(projection(x), x @ expected.T + projection.bias, rtol=1e-4, atol=1e-4)


def test_a_model_says_that_it_supports_it_and_peft_that_it_does_not() -> None:
    model = bert()
    assert model.supports_adapter("hira")
    model.add_adapter("a", config="hira")
    with pytest.raises(adapter_models.UnsupportedMethodError, match="which PEFT has no counterpart of"):
        model.save_peft_adapter("unused", "a")


@pytest.mark.parametrize("option", ["use_dora=True", "init_weights='bert'", "composition_mode='scale',r=1"])
def test_options_that_it_does_not_have_are_refused(option: str) -> None:
    with pytest.raises(adapter_models.InvalidConfigError, match=r"HiRAConfig|composition_mode"):
        bert().add_adapter("a", config=f"hira[{option}]")


# What cannot be registered


@dataclass(frozen=True, eq=False)
class Forgotten(LoRAConfig):
    """A config that says no architecture of its own."""


def nowhere(model: Any, name: str, config: Any) -> int:
    return 0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (MethodSpec(name="lora", configs=(Forgotten,), place=nowhere), "There is a method 'lora' already"),
        (
            MethodSpec(name="own", configs=(Forgotten,), place=nowhere, named={"ia3": Forgotten()}),
            "'ia3' stand for configs already",
        ),
        (MethodSpec(name="own", configs=(LoRAConfig,), place=nowhere), "is a config of the method 'lora'"),
        (
            MethodSpec(name="own", configs=(Forgotten,), place=nowhere),
            "Forgotten has the architecture 'lora'.*architecture: str . None = 'own'",
        ),
        (MethodSpec(name="own", configs=(Forgotten,), place=nowhere, places="loras"), "places is 'loras'"),
        (MethodSpec(name="own", configs=(), place=nowhere), "no config classes"),
        (
            MethodSpec(name="own", configs=(Forgotten,), place=nowhere, named={"own": LoRAConfig()}),
            "'own' stands for a config of another method",
        ),
    ],
)
def test_what_cannot_be_told_apart_is_not_registered(spec: Any, message: str) -> None:
    known = dict(table.METHODS), dict(NAMED)
    with pytest.raises(MethodRegistrationError, match=message):
        register_method(spec)
    assert (dict(table.METHODS), dict(NAMED)) == known


def test_the_same_spec_may_be_registered_again(hira: ModuleType) -> None:
    register_method(table.METHODS["hira"])


# Entry points


class OneEntry(Distribution):
    """An installed distribution with one entry point."""

    def __init__(self, value: str) -> None:
        self.value = value

    @property
    def metadata(self) -> Any:
        return {"Name": "broken-methods"}

    def read_text(self, filename: str) -> str | None:
        return None

    def locate_file(self, path: Any) -> Any:
        return Path(path)

    def entry(self) -> EntryPoint:
        return EntryPoint("mine", self.value, registering.GROUP)._for(self)  # type: ignore[attr-defined]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretends that a distribution is installed whose entry point has the given value."""

    def pretend(value: str) -> None:
        monkeypatch.setattr(registering, "_discovery", registering._Discovery())
        monkeypatch.setattr(registering, "entry_points", lambda group: [OneEntry(value).entry()])

    return pretend


@pytest.mark.parametrize("text", ["mine", "mine[r=2]"])
def test_a_name_that_nobody_knows_is_looked_for_in_entry_points(installed: Any, text: str) -> None:
    installed("no_such_module:SPEC")
    with pytest.raises(MethodRegistrationError, match=r"'broken-methods'.*cannot be imported: ModuleNotFoundError"):
        AdapterConfig.load(text)
    with pytest.raises(MethodRegistrationError, match="broken-methods"):
        AdapterConfig.from_dict({"architecture": "mine"})


def test_known_names_look_at_no_entry_point(installed: Any) -> None:
    installed("no_such_module:SPEC")
    assert AdapterConfig.load("lora[r=2]")["r"] == 2


def test_an_entry_point_that_names_something_else_is_refused(installed: Any) -> None:
    installed("math:pi")
    with pytest.raises(MethodRegistrationError, match="names a float, not a MethodSpec"):
        AdapterConfig.load("mine")


def test_an_entry_point_brings_its_method(installed: Any, hira: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = table.METHODS.pop("hira")
    config = NAMED.pop("hira")
    monkeypatch.setattr(hira, "SPEC", spec, raising=False)
    installed("hira:SPEC")
    assert AdapterConfig.load("hira") == config
    assert table.METHODS["hira"] is spec


# The conformance checks


def cells() -> Iterator[Cell]:
    for model_type in ("bert", "llama"):
        for check in CHECKS:
            for subject in adapted_subjects(model_type):
                yield Cell(check, HIRA, subject)


@pytest.mark.parametrize("cell", list(cells()), ids=lambda cell: f"{cell.subject.model_type}-{cell.label}")
def test_every_conformance_check(cell: Cell) -> None:
    if reason := cell.why_not():
        pytest.skip(reason.value)
    cell.check.run(cell.subject, cell.method)


# What two builders of further variants met


@dataclass(frozen=True, eq=False)
class SVDConfig(LoRAConfig):
    """Options of a method whose factors are those of the weight (LoRA-XS, arXiv:2405.17604)."""

    architecture: str | None = "svd"


class SVD(LowRank):
    """Only R [r, r] is trained between frozen factors of the weight."""

    frozen_parameters = ("lora_A", "lora_B")

    def __init__(self, config: SVDConfig, site: ProjectionSite) -> None:
        super().__init__(config, site)
        (weight,) = site.frozen_weights()
        if config.r > min(weight.shape):
            raise UnsupportedMethodError(
                f"r={config.r} is too large for {self.place.location} of layer {self.place.layer}."
            )
        u, s, vh = torch.linalg.svd(weight.float(), full_matrices=False)
        self.lora_A = nn.Parameter(vh[: config.r].clone(), requires_grad=False)
        self.lora_B = nn.Parameter(u[:, : config.r] * s[: config.r], requires_grad=False)
        self.lora_R = nn.Parameter(torch.zeros(config.r, config.r))

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.lora_A, self.lora_B @ self.lora_R


def svd_method() -> MethodSpec[SVDConfig]:
    return projection_method("svd", SVDConfig(r=4), SVD)


def small_adapter_model() -> Any:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    return adapter_models.BertAdapterModel(config)


@pytest.mark.parametrize("config", ["svd[r=4]", "vera"])
def test_a_whole_model_keeps_what_is_frozen(config: str, tmp_path: Path) -> None:
    register_method(SPEC)
    model = small_adapter_model()
    model.add_adapter("a", config=config)
    model.save_pretrained(tmp_path)
    loaded = adapter_models.BertAdapterModel.from_pretrained(tmp_path)
    flags, names = ({key: p.requires_grad for key, p in m.adapter_parameters("a")} for m in (model, loaded))
    assert flags == names and set(flags.values()) == {True, False}
    for (_, theirs), (_, ours) in zip(model.adapter_parameters("a"), loaded.adapter_parameters("a"), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


SPEC = svd_method()


def test_an_option_that_does_not_fit_can_name_its_place() -> None:
    register_method(SPEC)
    with pytest.raises(UnsupportedMethodError, match="r=20 is too large for selfattn_lora of layer 0"):
        small_adapter_model().add_adapter("a", config="svd[r=20]")


def test_a_method_that_is_defined_anew_takes_the_place_of_itself() -> None:
    register_method(SPEC)
    redefined = type("SVDConfig", (SVDConfig,), {"__module__": __name__, "__qualname__": "SVDConfig"})
    register_method(projection_method("svd", redefined(r=2), SVD))
    assert type(AdapterConfig.load("svd")) is redefined and AdapterConfig.load("svd")["r"] == 2
    register_method(SPEC)
    assert type(AdapterConfig.load("svd")) is SVDConfig


class Unnamed(SVD):
    """Forgets to say what is frozen."""

    frozen_parameters = ("lora_A",)


class Misnamed(SVD):
    """Says that something is frozen which is not there."""

    frozen_parameters = ("lora_A", "lora_B", "lora_Z")


@pytest.mark.parametrize(
    ("adapter", "message"),
    [(Unnamed, "lora_B with requires_grad=False, but training would"), (Misnamed, "names lora_Z, but it has")],
)
def test_frozen_parameters_are_held_to_what_they_say(adapter: type[SVD], message: str) -> None:
    kind = type("OtherConfig", (SVDConfig,), {"architecture": adapter.__name__})
    register_method(projection_method(adapter.__name__, kind(r=2), adapter))
    model = small_adapter_model()
    with pytest.raises(TypeError, match=message):
        model.add_adapter("a", config=adapter.__name__)
    assert not model.has_adapters()


def test_what_is_not_written_is_named() -> None:
    with pytest.raises(NotImplementedError, match=r"LowRank has no factors\(\)"):
        LowRank.factors(LowRank.__new__(LowRank))
    with pytest.raises(adapter_models.InvalidConfigError, match="honours names use_doora"):
        projection_method("svd", SVDConfig(), SVD, honours=("use_doora",))
    with pytest.raises(adapter_models.InvalidConfigError, match="text in quotes"):
        AdapterConfig.load("lora[attn_matrices=[q]]")
