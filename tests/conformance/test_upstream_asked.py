"""What the checks ask of upstream's own class: of models in which it is so, and of those in which it is nearly so."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import LlamaModel

import adapter_models
from conformance.adapted import initialised
from conformance.checks import MODEL_CHECKS, branches
from conformance.checks.branches import (
    Received,
    _projections,
    _replaces_the_stream,
    _Silent,
    assert_shapes,
    hosts_receive_branches,
    projects_the_stream,
)
from conformance.checks.checkpointing import upstream_trains_reentrant
from conformance.checks.features import features_of, has_features
from conformance.checks.identity import initialised_is_upstream
from conformance.checks.prefix import _count_runs
from conformance.methods import method
from conformance.outputs import seeded
from conformance.reasons import Reason
from conformance.reference.layout import Attention, Layer
from conformance.rows import has_rows, in_each, lists_of_rows, mixed_outputs, of_rows, ragged_outputs, run_by_rows
from conformance.subjects import BATCH, Subject, method_subjects

(LLAMA,) = method_subjects("llama")


@dataclass(frozen=True)
class Asked:
    """In the place of a subject."""

    model: type[nn.Module]
    causal: bool = False

    def upstream(self) -> nn.Module:
        torch.manual_seed(0)
        return self.model()

    def padded_inputs(self) -> dict[str, Tensor]:
        return {"x": torch.arange(BATCH * 4.0).reshape(BATCH, 4) / 4}

    uncached_inputs = padded_inputs


class Fixed(nn.Module):
    """Rows are as long whatever they hold."""

    def longest(self, x: Tensor) -> int:
        return 5

    def forward(self, x: Tensor, **flags: Any) -> dict[str, Tensor]:
        return {"sound": torch.ones(len(x), self.longest(x)), "states": x}


class Spoken(Fixed):
    def longest(self, x: Tensor) -> int:
        return int(x.sum(1).max()) + 1


def test_an_output_as_long_as_its_longest_row_is_ragged_and_no_other() -> None:
    assert ragged_outputs(Asked(Spoken)) == {"sound"}
    assert ragged_outputs(Asked(Fixed)) == set()


def test_rows_are_compared_but_where_the_longest_decides() -> None:
    short, long = ({"sound": torch.ones(BATCH, length), "states": torch.ones(BATCH, 4)} for length in (3, 7))
    assert of_rows(Asked(Spoken), short, short, long) == ["states"]
    assert of_rows(Asked(Spoken), long, long, long)[-1] == "states"


class Steps(Fixed):
    """It writes until a weight says so."""

    def __init__(self) -> None:
        super().__init__()
        self.end = nn.Parameter(torch.arange(9.0)[:, None])

    def forward(self, x: Tensor, **flags: Any) -> dict[str, Any]:
        return {"steps": [x + step for step in range(1 + int(self.end[0]))], "layers": [x, x + 1]}


def test_a_list_is_ragged_where_it_has_as_many_entries_as_weights_say() -> None:
    found = ragged_outputs(Asked(Steps))
    assert {name.partition(".")[0] for name in found} == {"steps"}
    one = torch.ones(BATCH)
    short, long = {"steps.0": one}, {"steps.0": one, "steps.1": one}
    for several in ((short, long), (long, short), (long, long)):
        kept = ["steps.0"] if any(len(one) < 2 for one in several) else ["steps.0", "steps.1"]
        assert [list(one) for one in in_each(Asked(Steps), *several)] == [kept, kept]


@pytest.mark.parametrize(
    ("model", "lacking"),
    [
        pytest.param(Fixed, "steps.1", id="upstream has no such list"),
        pytest.param(Steps, "layers.1", id="of another list"),
        pytest.param(Steps, "sound", id="no entry of a list"),
    ],
)
def test_what_lacks_otherwise_is_compared_and_found(model: type[nn.Module], lacking: str) -> None:
    one, other = {"states": torch.ones(BATCH)}, {"states": torch.ones(BATCH), lacking: torch.ones(BATCH)}
    assert [list(kept) for kept in in_each(Asked(model), one, other)] == [["states"], ["states", lacking]]


class First(Fixed):
    """It reads the first row alone, of which as many numbers come out as there are rows."""

    def forward(self, x: Tensor, **flags: Any) -> dict[str, Tensor]:
        return {"scores": x[0, :BATCH]}


def test_as_many_numbers_as_rows_are_no_rows_where_a_longer_batch_gives_no_more() -> None:
    assert has_rows(Asked(Fixed))
    assert not has_rows(Asked(First))


class Noisy(Fixed):
    """It draws numbers in evaluation too, though the same ones for the first rows of any batch."""

    def forward(self, x: Tensor, **flags: Any) -> dict[str, Tensor]:
        noise = torch.stack([torch.rand(4) for _ in x])
        return {"sound": x + noise, "states": x, "alike": x - x.mean(0)}


def test_what_is_drawn_at_random_or_compares_rows_is_compared_by_no_row() -> None:
    assert mixed_outputs(Asked(Noisy)) == {"sound", "alike"}
    assert mixed_outputs(Asked(Fixed)) == set()


def test_another_shape_under_a_block_is_a_fault_where_upstream_decides_none() -> None:
    short, long = ({"sound": torch.ones(BATCH, length), "states": torch.ones(BATCH, 4)} for length in (3, 7))
    with pytest.raises(AssertionError, match="sound"):
        of_rows(Asked(Fixed), short, short, long)


class Listed(Fixed):
    """Images of one row lie in a list, one entry each; so do the states of its layers."""

    def forward(self, x: Tensor, **flags: Any) -> dict[str, Any]:
        return {"images": [row[:1] for row in x.repeat_interleave(2, dim=0)], "layers": [x, x + 1, x + 2]}


def test_a_list_grows_with_the_batch_where_its_entries_are_of_rows() -> None:
    assert lists_of_rows(Asked(Listed)) == {"images"}
    assert lists_of_rows(Asked(Fixed)) == set()


def test_entries_of_rows_are_compared_one_behind_the_other() -> None:
    subject = Asked(Listed)
    inputs = subject.padded_inputs()
    outputs = run_by_rows(subject, Listed(), inputs)
    assert outputs["images"].tolist() == [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]
    assert set(of_rows(subject, outputs)) == {"images", "layers.0", "layers.1", "layers.2"}


class Flat(nn.Module):
    """A layer under a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def activation_checkpointing_enable(self, options: dict[str, bool]) -> None:
        self.options = options

    def layer(self, x: Tensor) -> Any:
        return self.linear(x), 1

    def forward(self, x: Tensor, **flags: Any) -> dict[str, Tensor]:
        out, _ = checkpoint(self.layer, x, **self.options)
        return {"states": out if isinstance(out, Tensor) else out[0]}


class Nested(Flat):
    def layer(self, x: Tensor) -> Any:
        return (self.linear(x),), 1


class Leaving(Flat):
    """The layer, run twice, leaves what it computed for the second run."""

    def layer(self, x: Tensor) -> Any:
        self.left, before = self.linear(x), getattr(self, "left", 0)
        return self.left + before, 1

    def forward(self, x: Tensor, **flags: Any) -> dict[str, Tensor]:
        self.left = 0
        return {"states": super().forward(super().forward(x)["states"])["states"]}


def test_a_reentrant_checkpoint_loses_gradients_only_in_a_tuple_within_a_tuple() -> None:
    assert upstream_trains_reentrant(Asked(Flat))
    assert not upstream_trains_reentrant(Asked(Nested))


def test_a_reentrant_checkpoint_does_not_go_back_through_what_a_layer_leaves_beside_its_output() -> None:
    assert not upstream_trains_reentrant(Asked(Leaving))


def test_a_model_whose_input_needs_no_gradient_is_no_excuse() -> None:
    """Adapters make their own way to a gradient there; that is what the check is about."""
    assert upstream_trains_reentrant(LLAMA)


def test_a_class_that_upstream_cannot_make_is_left_out_and_its_base_model_is_not() -> None:
    base, head = (Subject("hiera", f"Hiera{name}", "vision", name) for name in ("Model", "ForPreTraining"))
    identity = MODEL_CHECKS[0]
    assert identity.why_not(head) is Reason.UPSTREAM_DOES_NOT_RUN
    assert identity.why_not(base) is not Reason.UPSTREAM_DOES_NOT_RUN


def test_a_class_of_upstream_that_init_changes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the model that is called afterwards was never called before."""
    init, forward = adapter_models.init, LlamaModel.forward

    def other(self: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = forward(self, *args, **kwargs)
        outputs.last_hidden_state = outputs.last_hidden_state + (type(self) is LlamaModel)
        return outputs

    def changing(model: nn.Module, *args: Any) -> None:
        init(model, *args)
        monkeypatch.setattr(LlamaModel, "forward", other)

    monkeypatch.setattr(adapter_models, "init", changing)
    with pytest.raises(AssertionError, match="upstream after init"):
        initialised_is_upstream(LLAMA)


def test_layers_that_are_dropped_at_random_are_the_same_ones_from_one_seed() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist()

    def drawn() -> Iterator[float]:
        with seeded(3):
            yield from (random.random(), np.random.uniform(0, 1), float(torch.rand(())))

    assert list(drawn()) == list(drawn())
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


class Attending(nn.Module):
    """Its first sublayer takes the place of the stream, its second is added."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"out": nn.Linear(4, 4)})
        self.mlp, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)

    def forward(self, states: Tensor) -> Tensor:
        states = self.norm(self.first(states))
        return self.norm(states + self.mlp(states))

    def first(self, states: Tensor) -> Tensor:
        return self.attention["out"](states)


class Adding(Attending):
    def first(self, states: Tensor) -> Tensor:
        return states + self.attention["out"](states)


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize(("kind", "replaces"), [(Attending, True), (Adding, False)])
def test_an_attention_replaces_the_stream_where_nothing_comes_past_it(
    kind: type[nn.Module], replaces: bool, by_name: bool
) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = kind()

        def forward(self, x: Tensor, **flags: Any) -> dict[str, Tensor]:
            return {"states": self.layer(states=x) if by_name else self.layer(x)}

    attention = Attention("layer", "layer.attention", "self", "", "", "", "", "layer.attention.out", in_encoder=False)
    layer = Layer("layer", (attention,), (), (), ())
    assert _replaces_the_stream(Asked(Model), layer, ["layer.attention.out"]) is replaces
    assert not _replaces_the_stream(Asked(Model), layer, ["layer.attention.out", "layer.mlp"])


class Wider(nn.Module):
    """A layer that projects the stream to another width before a sublayer, here silent, is added to it."""

    def __init__(self, width: int, past: bool) -> None:
        super().__init__()
        self.proj, self.more = nn.Linear(4, width), nn.Linear(width, width)
        self.past = past

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        stream = self.proj(states)
        total = stream + torch.zeros_like(stream)
        return stream, total + self.proj(states.tanh()) if self.past else total + 0 * self.more.weight.sum()


@pytest.mark.parametrize(
    ("width", "past", "left", "projects"),
    [
        pytest.param(6, False, ["layer.proj"], True, id="to another width"),
        pytest.param(4, False, ["layer.proj"], False, id="no: of the same width, it is a sublayer"),
        pytest.param(6, True, ["layer.proj"], False, id="no: it also adds something past the host"),
        pytest.param(6, False, ["layer.proj", "layer.more"], False, id="no: two of them are a block"),
        pytest.param(6, False, ["layer.more"], False, id="no: another one"),
    ],
)
def test_a_projection_to_another_width_is_the_stream_and_no_sublayer(
    width: int, past: bool, left: list[str], projects: bool
) -> None:
    model = nn.ModuleDict({"layer": Wider(width, past)})
    stream, end = model["layer"](torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1)))
    silent = _Silent(model, {}, {"layer": end}, {}, {"layer": stream})
    assert projects_the_stream(silent, Layer("layer", (), (), (), ()), left) is projects
    assert not projects_the_stream(replace(silent, residuals={}), Layer("layer", (), (), (), ()), left)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8, 1, 1))
        self.experts = nn.Parameter(torch.ones(2, 8, 4))


def test_a_scale_of_channels_is_no_projection_and_experts_in_one_parameter_are() -> None:
    model = nn.ModuleDict({"layer": Scaled()})
    assert [path.rpartition(".")[2] for path, _ in _projections(model, "layer")] == ["experts"]


@pytest.mark.parametrize(
    ("branch", "stream", "fits"),
    [
        pytest.param((2, 3, 4), (2, 3, 4), True, id="the same"),
        pytest.param((6, 4), (1, 6, 4), True, id="without the axis of one row"),
        pytest.param((6, 4), (2, 6, 4), False, id="without the axis of two rows"),
        pytest.param((1, 4), (6, 4), False, id="one vector for all positions"),
        pytest.param((4,), (1, 4), False, id="no positions"),
        pytest.param((1, 6, 4), (6, 4), False, id="with an axis that the stream lacks"),
        pytest.param((6, 2, 4), (1, 2, 4), True, id="one row of queries for all that they attend to"),
        pytest.param((6, 2, 4), (2, 2, 4), False, id="of two rows"),
        pytest.param((6, 2, 4), (1, 1, 4), False, id="one query in one row"),
        pytest.param((1, 2, 4), (6, 2, 4), False, id="one branch for all rows"),
        pytest.param((6, 4), (1, 4), False, id="one position for all"),
    ],
)
def test_a_branch_may_lack_the_axis_of_one_row(branch: tuple[int, ...], stream: tuple[int, ...], fits: bool) -> None:
    one = Received(Layer("", (), (), (), ()), "host", "output", torch.zeros(branch), torch.zeros(stream))
    with contextlib.nullcontext() if fits else pytest.raises(AssertionError, match="to add to"):
        assert_shapes(one)


@pytest.mark.parametrize("again", [True, False], ids=["and again with them", "and never with them"])
def test_hosts_may_run_without_gradients_first(monkeypatch: pytest.MonkeyPatch, again: bool) -> None:
    def cycling(subject: Subject) -> nn.Module:
        model = initialised(subject)
        forward = model.forward

        def run(**inputs: Any) -> Any:
            with torch.no_grad():
                outputs = forward(**inputs)
            return forward(**inputs) if again else outputs

        model.forward = run
        return model

    monkeypatch.setattr(branches, "initialised", cycling)
    with contextlib.nullcontext() if again else pytest.raises(AssertionError, match="without gradients only"):
        hosts_receive_branches(LLAMA, method("double_seq_bn"))


@pytest.mark.parametrize(("model_type", "once"), [("llama", True), ("hrm_text", False)])
def test_a_cache_can_be_filled_where_each_core_runs_once(model_type: str, once: bool) -> None:
    subject, *_ = method_subjects(model_type)
    upstream = subject.upstream()
    runs = _count_runs(upstream, [path for path, _ in upstream.named_modules() if path.endswith("self_attn")])
    with torch.no_grad():
        upstream(**subject.padded_inputs())
    assert bool(runs) and all(count == 1 for count in runs.values()) is once


@pytest.mark.parametrize(
    ("model_type", "outputs"),
    [("altclip", {"get_text_features", "get_image_features"}), ("xclip", {"get_video_features"})],
)
def test_features_are_compared_with_outputs_where_upstreams_own_are_the_same(
    model_type: str, outputs: set[str]
) -> None:
    """X-CLIP adds to those of its text what the video prompts."""
    subject = next(subject for subject in method_subjects(model_type) if has_features(subject))
    found = features_of(subject)
    assert {one.name for one in found if one.in_outputs} == outputs
    assert {one.name for one in found} >= outputs | {"get_text_features"}
