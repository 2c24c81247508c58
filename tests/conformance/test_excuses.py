"""What the checks may pass over because upstream itself does not reach it, and what they must not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import DynamicCache

from conformance import sites
from conformance.adapted import FIRST, SECOND, initialised
from conformance.checks import CHECKS, Cell, checkpointing
from conformance.checks.causality import _another
from conformance.checks.checkpointing import _count_runs, upstream_recomputes
from conformance.checks.liveness import assert_gradients
from conformance.checks.lora import shares_a_weight
from conformance.checks.prefix import counts_from_its_cache, positioned
from conformance.checks.union import every_method_together
from conformance.methods import method
from conformance.outputs import run
from conformance.reasons import DoesNotApply, Reason
from conformance.reference.layout import layout_of
from conformance.rows import of_rows
from conformance.sites import Site, _acts_in_double, is_idle, quiet_names
from conformance.subjects import BATCH, FIRST_TOKEN, method_subjects

(LLAMA,) = method_subjects("llama")
QUERY, VALUE = (f"model.layers.1.self_attn.{name}_proj" for name in "qv")


def _quiet(patch: pytest.MonkeyPatch, config: str, dead: Iterable[str]) -> set[str]:
    """Places that are quiet where upstream's parameters `dead` get no gradient."""
    named = tuple(name for name, _ in LLAMA.upstream().named_parameters())
    assert set(dead) <= set(named)
    patch.setattr(sites, "living_parameters", lambda subject: (frozenset(named).difference(dead), named))
    model = initialised(LLAMA)
    model.add_adapter(FIRST, config=config)
    return {name.partition(f".{FIRST}.")[0].rpartition(".")[0] for name in quiet_names(LLAMA, model, FIRST)}


def _trained_by_upstream(patch: pytest.MonkeyPatch, *living: str) -> None:
    named = tuple(name for name, _ in LLAMA.upstream().named_parameters())
    patch.setattr(sites, "living_parameters", lambda subject: (frozenset(living), named))


def test_a_model_at_no_site_of_which_upstream_can_be_trained_does_not_pass(patch: pytest.MonkeyPatch) -> None:
    _trained_by_upstream(patch)
    with pytest.raises(AssertionError, match="no site of the adapter acts and is trained: all were passed over"):
        every_method_together(LLAMA)


def test_a_model_with_one_site_that_acts_passes(patch: pytest.MonkeyPatch) -> None:
    _trained_by_upstream(patch, f"{VALUE}.weight")
    every_method_together(LLAMA)


def test_an_update_of_a_weight_that_upstream_cannot_train_is_quiet_and_no_other_is(patch: pytest.MonkeyPatch) -> None:
    assert _quiet(patch, "lora", [f"{QUERY}.weight"]) == {QUERY}


def test_a_bottleneck_is_not_quiet_because_one_weight_near_it_is(patch: pytest.MonkeyPatch) -> None:
    assert _quiet(patch, "double_seq_bn", [f"{QUERY}.weight", f"{VALUE}.weight"]) == set()


def test_a_fusion_is_quiet_where_upstream_cannot_train_its_layer_and_nowhere_else(patch: pytest.MonkeyPatch) -> None:
    named = tuple(name for name, _ in LLAMA.upstream().named_parameters())
    living = frozenset(name for name in named if "layers.1." not in name)
    patch.setattr(sites, "living_parameters", lambda subject: (living, named))
    model = initialised(LLAMA)
    for name in (FIRST, SECOND):
        model.add_adapter(name, config="seq_bn")
    model.add_adapter_fusion([FIRST, SECOND])
    quiet = quiet_names(LLAMA, model, f"{FIRST},{SECOND}")
    assert quiet == {name for name, _ in model.named_parameters() if "fusion" in name and "layers.1." in name}


def test_an_edit_is_quiet_with_its_orthonormal_rows_and_those_of_other_layers_are_not(
    patch: pytest.MonkeyPatch,
) -> None:
    named = tuple(name for name, _ in LLAMA.upstream().named_parameters())
    living = frozenset(name for name in named if "layers.1." not in name)
    patch.setattr(sites, "living_parameters", lambda subject: (living, named))
    model = initialised(LLAMA)
    model.add_adapter(FIRST, config="loreft")
    edits = {name for name, _ in model.named_parameters() if "reft_layer" in name}
    assert any(".parametrizations." in name for name in edits)
    assert quiet_names(LLAMA, model, FIRST) == {name for name in edits if "layers.1." in name}


def _updates(layer: str, names: str) -> list[Site]:
    paths = [f"{layer}.self_attn.{name}_proj" for name in names]
    return [Site(path, {f"{path}.loras.{FIRST}.lora_A": lambda: torch.zeros(1)}, {}) for path in paths]


def test_an_update_is_idle_where_upstream_computes_the_same_with_another_weight_and_nowhere_else() -> None:
    (begins_with_zeros,) = method_subjects("detr")
    for layer, idle in (("decoder.layers.0", "qk"), ("decoder.layers.1", ""), ("encoder.layers.0", "")):
        found = {site.path for site in _updates(layer, "qk") if is_idle(begins_with_zeros, site)}
        assert found == {site.path for site in _updates(layer, idle)}
    host = Site(
        "decoder.layers.0.self_attn.q_proj", {f"adapters.{FIRST}.adapter_up.weight": lambda: torch.zeros(1)}, {}
    )
    assert not is_idle(begins_with_zeros, host)


def test_nothing_is_quiet_where_upstream_trains_everything(patch: pytest.MonkeyPatch) -> None:
    assert _quiet(patch, "lora", []) == set()


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    return monkeypatch


def test_liveness_is_not_empty_because_everything_is_passed_over() -> None:
    model = initialised(LLAMA)
    model.add_adapter(FIRST, config="lora")
    model.train_adapter(FIRST)
    names = [name for name, _ in model.named_parameters() if f".{FIRST}." in name]
    with pytest.raises(AssertionError, match="would be empty"):
        assert_gradients(model, method("lora"), names)


def test_runs_are_counted_of_modules_in_layers_alone() -> None:
    model = initialised(LLAMA)
    ran = _count_runs(model)
    with torch.no_grad():
        model(**LLAMA.padded_inputs())
    assert ran["model.layers.0"] == ran["model.layers.1.self_attn"] == 1
    assert "model.norm" not in ran


@pytest.mark.parametrize(
    ("model_type", "counts"),
    [
        ("musicgen_melody", True),
        pytest.param("llama", False, id="rotary positions are as given"),
        pytest.param("gpt2", False, id="learned positions are as given"),
    ],
)
def test_positions_that_go_on_after_a_cache_are_told_apart(model_type: str, counts: bool) -> None:
    subject = next(one for one in method_subjects(model_type) if one.kind == "decoder" and not one.cross)
    upstream = subject.upstream()
    heads = upstream.config.num_key_value_heads if model_type == "llama" else upstream.config.num_attention_heads
    width = upstream.config.hidden_size // upstream.config.num_attention_heads
    cache = DynamicCache()
    for layer in range(upstream.config.num_hidden_layers):
        states = torch.randn(BATCH, heads, 4, width, generator=torch.Generator().manual_seed(layer))
        cache.update(states, states, layer)
    assert counts_from_its_cache(upstream, positioned(subject.padded_inputs()), cache) is counts


@pytest.mark.parametrize(
    ("model_type", "labels"),
    [
        ("musicgen", ["cross"]),
        pytest.param("bert", ["encoder", "decoder", "cross"], id="a field brings its cross-attention in"),
        pytest.param("musicgen_melody", ["encoder", "decoder", "cross"], id="states of an encoder stand in front"),
    ],
)
def test_only_what_cannot_do_without_an_encoder_is_always_given_one(model_type: str, labels: list[str]) -> None:
    assert [subject.label for subject in method_subjects(model_type)] == labels


def test_a_weight_is_shared_where_two_targets_have_one_and_nowhere_else() -> None:
    upstream = LLAMA.upstream()
    assert not shares_a_weight(upstream, [QUERY, VALUE])
    upstream.get_submodule(QUERY).weight = upstream.get_submodule(VALUE).weight
    assert shares_a_weight(upstream, [QUERY, VALUE])
    assert not shares_a_weight(upstream, [QUERY, QUERY.replace("layers.1", "layers.0")])


def test_blocks_by_rows_do_not_apply_where_upstream_draws_for_every_output_and_only_there() -> None:
    for model_type, draws in (("vit_mae", True), ("llama", False)):
        (subject,) = method_subjects(model_type)
        outputs = run(subject.upstream(), subject.padded_inputs())
        if draws:
            with pytest.raises(DoesNotApply, match="other rows"):
                of_rows(subject, outputs)
        else:
            assert of_rows(subject, outputs) == list(outputs)


def test_an_option_that_has_no_place_in_any_part_is_left_out() -> None:
    """CLIP's towers attend to nothing else, so that `add_adapter` raises for another reason than that parts lack the method."""
    subject = next(one for one in method_subjects("clip"))
    assert Cell(CHECKS[0], method("cross_bn"), subject).why_not() is Reason.NO_CROSS_ATTENTION
    assert Cell(CHECKS[0], method("double_seq_bn"), subject).why_not() is None


def test_another_token_is_another_one_of_the_vocabulary() -> None:
    for size in (16, 99):
        tokens = torch.arange(FIRST_TOKEN, size)
        others = _another(tokens, size)
        assert not bool((others == tokens).any())
        assert int(others.min()) >= FIRST_TOKEN and int(others.max()) < size


def test_checkpointing_of_layers_without_adapters_is_none_of_those_with_some(patch: pytest.MonkeyPatch) -> None:
    subject, *_ = method_subjects("bert")
    assert upstream_recomputes.__wrapped__(subject)
    layout = layout_of(initialised(subject))
    beside = replace(layout, layers=(replace(layout.layers[0], path="bert.embeddings"),))
    patch.setattr(checkpointing, "layout_of", lambda model: beside)
    assert not upstream_recomputes.__wrapped__(subject)


class _Weak(nn.Module):
    """What an adapter gives is added with a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.adapters = nn.ModuleDict({"a": nn.Linear(4, 4, bias=False)})
        nn.init.zeros_(self.adapters["a"].weight)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": x + self.factor * self.adapters["a"](x)}


@pytest.mark.parametrize(
    ("factor", "acts"),
    [
        pytest.param(0.0, False, id="an edit that is not there"),
        pytest.param(1e-14, False, id="no more than double precision rounds"),
        pytest.param(1e-7, True, id="what single precision rounds away"),
    ],
)
def test_a_site_that_is_weak_is_told_from_a_silent_one_in_double_precision(factor: float, acts: bool) -> None:
    assert _acts_in_double(_Weak(factor), "a", 0, {"x": torch.ones(2, 4)}) is acts
