"""Gates read what their own place is called with, and each row has gates of its own, whatever form its hidden states have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from adapter_runtime import init
from adapter_runtime.call.context import ForwardContext, thread
from adapter_runtime.call.sequences import NotesSequences, sequences_of
from adapter_runtime.composition import Parallel, Stack
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.prefix_tuning.layer import AttentionAdaptersMixin
from adapter_runtime.methods.prefix_tuning.places import gate_width
from adapter_runtime.methods.prefix_tuning.program import Attended, PlacedPrefix
from adapter_runtime.programs.nodes import Keep, SequenceInFront
from conformance.instances import read
from conformance.tiny import tiny_config
from runtime_models import adapted, randomise

GATED = "prefix_tuning_flat[prefix_length=3,use_gating=True]"
UNIPELT = "unipelt"


def model_of(model_type: str) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A tiny model after `init`, and inputs."""
    torch.manual_seed(0)
    found = read(model_type)
    model = found.model_class._from_config(tiny_config(model_type), attn_implementation="eager").eval()
    init(model)
    return model, found.inputs()


def first_output(model: PreTrainedModel, inputs: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        found = model(**inputs)[0]
    assert isinstance(found, Tensor)
    return found


def gates_of(model: PreTrainedModel, inputs: dict[str, Any], name: str) -> dict[int, dict[str, Any]]:
    scores: dict[int, dict[str, Any]] = model(**inputs, output_adapter_gating_scores=True).adapter_gating_scores[name]
    return scores


@pytest.mark.parametrize(
    "model_type",
    [
        pytest.param("segformer", id="stages of several widths"),
        pytest.param("fun_asr_nano_encoder", id="a first layer that reads other states than it gives"),
        pytest.param("sam3_vision_model", id="positions in two dimensions"),
        pytest.param("deepseek_v3", id="queries of low rank"),
    ],
)
def test_a_gate_of_a_prefix_is_as_wide_as_what_it_reads(model_type: str) -> None:
    model, inputs = model_of(model_type)
    without = first_output(model, inputs)
    assert model.supports_adapter(GATED)
    model.add_adapter("a", GATED, set_active=True)
    randomise(model, "a")
    assert not torch.allclose(first_output(model, inputs), without)


def test_a_gate_after_low_rank_queries_reads_the_stream_and_not_what_is_between() -> None:
    model, _ = model_of("deepseek_v3")
    _, layer = next(model.adapters_base.adapted_layers())
    roles, core = next(layer.adapted_attentions())
    assert core.q_b_proj.in_features != core.q_a_proj.in_features == gate_width(layer, roles)


def test_a_gate_that_is_given_states_of_another_width_says_so() -> None:
    model, inputs = model_of("segformer")
    model.add_adapter("a", GATED, set_active=True)
    core = next(module for module in model.modules() if isinstance(module, AttentionAdaptersMixin))
    core.prefix_tuning.placed["a"].gate = nn.Linear(99, 1)
    with pytest.raises(UnsupportedMethodError, match="reads states 99 wide, but the attention has states"):
        model(**inputs)


def test_the_gate_of_a_prefix_is_the_mean_over_all_positions_of_a_row() -> None:
    model = adapted("llama")
    model.add_adapter("a", GATED)
    core = next(module for module in model.modules() if isinstance(module, AttentionAdaptersMixin))
    placed = core.prefix_tuning.placed["a"]
    assert isinstance(placed, PlacedPrefix) and placed.gate is not None
    states = torch.randn(2, 3, 4, placed.gate.in_features)
    key = torch.zeros(2, 2, 12, 12)
    (flat,) = placed.pieces(Attended(key, key, states.flatten(1, 2)))
    (grid,) = placed.pieces(Attended(key, key, states))
    torch.testing.assert_close(grid.key, flat.key)
    assert grid.key.shape == (2, 2, 3, 12)


def test_queries_that_all_rows_have_in_common_stay_so_where_rows_are_divided() -> None:
    """The queries of Granite Speech's Q-former are parameters, with a batch of one."""
    keys, states = torch.randn(4, 1, 2, 3), torch.randn(1, 5, 6)
    assert Attended(keys, keys, states).of(slice(2, 4)).gate_input is states
    own = torch.randn(4, 5, 6)
    found = Attended(keys, keys, own).of(slice(2, 4)).gate_input
    assert found is not None and torch.equal(found, own[2:4])


# Positions of all rows in one dimension


@pytest.mark.parametrize(
    ("model_type", "config"),
    [
        pytest.param("opt", UNIPELT, id="a feed-forward block of positions"),
        pytest.param("opt", "lora[use_gating=True,intermediate_lora=True,output_lora=True]", id="its projections"),
        pytest.param("qwen2_moe", "lora[use_gating=True,intermediate_lora=True]", id="shared experts"),
        pytest.param("fsmt", "double_seq_bn[use_gating=True]", id="the length in front of the batch"),
        pytest.param("longformer", "lora[use_gating=True]", id="projections that see it in front"),
    ],
)
def test_each_row_has_gates_of_its_own(model_type: str, config: str) -> None:
    """No row changes those of another: one alone has the same."""
    model, inputs = model_of(model_type)
    assert model.supports_adapter(config)
    model.add_adapter("a", config, set_active=True)
    randomise(model, "a")
    whole = gates_of(model, inputs, "a")
    alone = gates_of(model, {name: value[1:2] for name, value in inputs.items()}, "a")
    assert whole
    for layer, places in whole.items():
        for place, scores in places.items():
            assert len(scores) == 3, (layer, place)
            torch.testing.assert_close(
                torch.as_tensor(scores[1:2]), torch.as_tensor(alone[layer][place]), atol=1e-5, rtol=1e-4
            )


@pytest.mark.parametrize("model_type", ["opt", "fsmt"])
def test_copies_of_a_batch_have_the_gates_of_each_adapter(model_type: str) -> None:
    model, inputs = model_of(model_type)
    outputs = []
    for seed, name in enumerate("ab"):
        model.add_adapter(name, "double_seq_bn[use_gating=True]", set_active=True)
        randomise(model, name, seed)
        outputs.append(first_output(model, inputs))
    model.set_active_adapters(Parallel("a", "b"))
    torch.testing.assert_close(first_output(model, inputs), torch.cat(outputs), atol=1e-5, rtol=1e-4)


class Note:
    """A context in which a layer was called."""

    def __init__(self, *given: Tensor, index: int = 3) -> None:
        self.context = ForwardContext()
        thread.context = self.context
        NotesSequences(index)(nn.Identity(), given, {})


@pytest.fixture
def note() -> Any:
    yield Note
    thread.context = None


def test_only_all_positions_of_a_layer_are_taken_apart(note: Callable[..., Note]) -> None:
    note(torch.zeros(2, 5, 4))
    assert sequences_of(3, 10) == (2, 5)
    assert sequences_of(3, 8) is None, "some positions only, as experts get them"
    assert sequences_of(2, 10) is None, "another layer"
    note(torch.zeros(10, 4))
    assert sequences_of(3, 10) is None, "the layer has no rows either"
    thread.context = None
    assert sequences_of(3, 10) is None, "no call of a model"


def test_a_program_sees_rows_where_they_show(note: Callable[..., Note]) -> None:
    seen: list[tuple[int, ...]] = []

    class Sees(Keep[Tensor]):
        reads_sequence = True

        def __call__(self, value: Tensor, *rest: Tensor) -> Tensor:
            seen.append((value.dim(), *(other.dim() for other in rest)))
            return value

    program = SequenceInFront([Sees()], 3)
    value = torch.randn(10, 4)
    note(torch.zeros(2, 5, 4))
    assert torch.equal(program(value, value), value)
    assert program(value[:8], value[:8]).shape == (8, 4)
    assert program(value.view(2, 5, 4), value.view(2, 5, 4)).shape == (2, 5, 4)
    assert seen == [(3, 3), (2, 2), (3, 3)]


def test_a_gate_of_some_positions_only_is_refused() -> None:
    """Whose mean would be over what happens to be there."""
    model, inputs = model_of("opt")
    model.add_adapter("a", "seq_bn[use_gating=True]", set_active=True)
    for _, layer in model.adapters_base.iter_layers():
        layer._forward_pre_hooks.clear()
        layer._forward_pre_hooks_with_kwargs.clear()
    with pytest.raises(UnsupportedMethodError, match="gets all tokens of a batch in one row"):
        model(**inputs)


def test_layers_note_sequences_only_while_an_adapter_has_a_gate_there() -> None:
    model = adapted("llama")

    def watched() -> int:
        layers = [layer for _, layer in model.adapters_base.iter_layers()]
        return sum(isinstance(hook, NotesSequences) for layer in layers for hook in layer._forward_pre_hooks.values())

    model.add_adapter("plain", "lora|seq_bn")
    assert watched() == 0
    model.add_adapter("lora", "lora[use_gating=True,leave_out=[0]]")
    model.add_adapter("bottleneck", "seq_bn[use_gating=True]")
    assert watched() == 3
    model.delete_adapter("bottleneck")
    assert watched() == 2
    model.delete_adapter("lora")
    assert watched() == 0


def test_a_prefix_with_a_gate_is_refused_where_all_rows_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted("llama")
    monkeypatch.setattr(
        type(model), "layers_of_form", lambda self, *forms: frozenset({1} if "packed" in forms else ())
    )
    assert not model.supports_adapter(GATED) and model.supports_adapter(GATED.replace("True", "False"))
    with pytest.raises(UnsupportedMethodError, match=r"leave_out=\[1\]"):
        model.add_adapter("a", GATED)
    model.add_adapter("a", GATED.replace("]", ",leave_out=[1]]"))


def test_a_stack_with_a_gate_runs_where_rows_are_put_into_one() -> None:
    model, inputs = model_of("opt")
    for name in "ab":
        model.add_adapter(name, "seq_bn[use_gating=True]")
        randomise(model, name)
    model.set_active_adapters(Stack("a", "b"))
    assert first_output(model, inputs).isfinite().all()


def chunked(model_type: str, size: int) -> PreTrainedModel:
    found = read(model_type)
    model = found.model_class(found.config(chunk_size_feed_forward=size)).eval()
    init(model)
    return model


@pytest.mark.parametrize("model_type", ["bert", "distilbert"])
@pytest.mark.parametrize(
    ("config", "options"),
    [
        pytest.param("seq_bn[use_gating=True]", "output_adapter=False", id="a bottleneck behind the block"),
        pytest.param("lora[use_gating=True,output_lora=True]", "output_lora=False", id="LoRA of its last projection"),
        pytest.param(
            "lora[use_gating=True,intermediate_lora=True]",
            "intermediate_lora=False",
            id="LoRA of its first projection",
        ),
    ],
)
def test_a_gate_is_refused_where_a_feed_forward_block_gets_pieces_of_a_sequence(
    model_type: str, config: str, options: str
) -> None:
    """Before, each piece had a gate of its own, so that the outputs depended on the size of the pieces."""
    model = chunked(model_type, 3)
    with pytest.raises(UnsupportedMethodError, match=rf"chunk_size_feed_forward=0, or {options}"):
        model.add_adapter("a", config)
    assert not model.supports_adapter(config)
    model.add_adapter("a", config.replace("True", "False", 1))


@pytest.mark.parametrize(
    ("config", "size"),
    [
        pytest.param("seq_bn[use_gating=True,output_adapter=False,mh_adapter=True]", 3, id="behind attention"),
        pytest.param("lora[use_gating=True]", 3, id="in attention"),
        pytest.param(GATED, 3, id="a prefix"),
        pytest.param("double_seq_bn[use_gating=True]", 0, id="no pieces"),
        pytest.param("lora[use_gating=True,intermediate_lora=True,output_lora=True]", 0, id="no pieces, LoRA"),
    ],
)
def test_a_gate_holds_where_it_sees_whole_sequences(config: str, size: int) -> None:
    model = chunked("bert", size)
    model.add_adapter("a", config)
    assert model.supports_adapter(config)
