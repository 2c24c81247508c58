"""Invertible adapters of models that add positions to what their table of tokens gives: they stand at the table."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    OPTConfig,
    OPTForCausalLM,
    PegasusConfig,
    PegasusForConditionalGeneration,
    PreTrainedModel,
    WhisperConfig,
    WhisperForAudioClassification,
    WhisperForConditionalGeneration,
    XGLMConfig,
    XGLMForCausalLM,
)

import adapter_models
from adapter_runtime.composition import Parallel
from adapter_runtime.errors import AdapterMismatchError, UnsupportedMethodError

HALVES = {
    **{"vocab_size": 60, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4},
    **{
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "pad_token_id": 0,
        "bos_token_id": 1,
    },
    **{"eos_token_id": 2, "decoder_start_token_id": 2, "max_position_embeddings": 40, "forced_eos_token_id": None},
}
SOUNDS = {"num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 40, "begin_suppress_tokens": None}
DECODER = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "pad_token_id": 0, "eos_token_id": None}
CONFIGS: dict[str, tuple[Any, Any]] = {
    "whisper": (WhisperForConditionalGeneration, lambda: WhisperConfig(**HALVES, **SOUNDS)),
    "opt": (OPTForCausalLM, lambda: OPTConfig(**DECODER, ffn_dim=48, num_attention_heads=4, word_embed_proj_dim=16)),
    "m2m_100": (M2M100ForConditionalGeneration, lambda: M2M100Config(**HALVES, scale_embedding=True)),
    "pegasus": (PegasusForConditionalGeneration, lambda: PegasusConfig(**HALVES, scale_embedding=True)),
    "xglm": (
        XGLMForCausalLM,
        lambda: XGLMConfig(vocab_size=60, d_model=32, num_layers=2, attention_heads=4, ffn_dim=48),
    ),
}
PLACES = {
    "whisper": "decoder.embed_tokens",
    "opt": "decoder.embed_tokens",
    "m2m_100": "encoder.embed_tokens",
    "pegasus": "encoder.embed_tokens",
    "xglm": "embed_tokens",
}
INVERTIBLE = "seq_bn[output_adapter=False,inv_adapter='nice',inv_adapter_reduction_factor=2]"
IDS = torch.randint(5, 60, (2, 7), generator=torch.Generator().manual_seed(1))
TARGETS = torch.randint(5, 60, (2, 5), generator=torch.Generator().manual_seed(2))


def upstream(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    cls, config = CONFIGS[kind]
    model = cls(config())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return model.eval()


def adapted(kind: str, names: str = "a") -> PreTrainedModel:
    """The model with invertible adapters of values that matter, the first of them active."""
    model = upstream(kind)
    adapter_models.init(model)
    for name in names:
        model.add_adapter(name, INVERTIBLE)
        generator = torch.Generator().manual_seed(ord(name))
        with torch.no_grad():
            for _, parameter in model.adapter_parameters(name):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    model.set_active_adapters(names[0])
    return model


def inputs(kind: str, ids: Tensor = IDS) -> dict[str, Tensor]:
    if kind == "whisper":
        sounds = torch.randn(2, 8, 40, generator=torch.Generator().manual_seed(3))
        return {"input_features": sounds, "decoder_input_ids": ids}
    return {"input_ids": ids, **({"decoder_input_ids": TARGETS} if kind in ("m2m_100", "pegasus") else {})}


def run(model: PreTrainedModel, given: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**given).logits


def place(model: PreTrainedModel, kind: str) -> nn.Module:
    return model.base_model.get_submodule(PLACES[kind])


def without_undoing(model: PreTrainedModel) -> PreTrainedModel:
    """The projection sees hidden states as they are: its hooks are gone."""
    model.get_output_embeddings()._forward_pre_hooks.clear()
    return model


def of_all(check: Callable[[str], None]) -> None:
    for kind in CONFIGS:
        try:
            check(kind)
        except Exception as error:
            raise AssertionError(f"{kind}: {error}") from error


def seen(model: PreTrainedModel, given: dict[str, Tensor]) -> Tensor:
    """What the projection to the vocabulary is given."""
    found: list[Tensor] = []
    handle = model.get_output_embeddings().register_forward_pre_hook(lambda module, args: found.append(args[0]))
    run(model, given)
    handle.remove()
    return found[-1]


def test_it_is_as_if_the_model_had_another_table() -> None:
    def check(kind: str) -> None:
        model, plain = without_undoing(adapted(kind)), upstream(kind)
        coupling, table = model.base_model.get_invertible_adapter(), place(plain, kind)
        scale = getattr(table, "embed_scale", 1.0)
        other = coupling(table.weight.detach() * scale) / scale
        assert (other - table.weight).abs().max() > 0.1
        table.weight = nn.Parameter(other)  # and no other module gets it
        assert_close(run(model, inputs(kind)), run(plain, inputs(kind)), rtol=1e-4, atol=1e-4)

    of_all(check)


def test_embeddings_that_are_given_are_changed_like_those_of_tokens() -> None:
    def check(kind: str) -> None:
        model = adapted(kind)
        given, table = inputs(kind), place(model, kind)
        expected = run(model, given)
        name = "decoder_input_ids" if kind == "whisper" else "input_ids"
        embeddings = table(given.pop(name))
        assert torch.equal(embeddings, place(upstream(kind), kind)(IDS))  # who asks the table gets what is in it
        if kind == "pegasus":  # its encoder multiplies what it embeds, and no embeddings that it is given
            embeddings = embeddings * model.model.encoder.embed_scale
            assert model.model.encoder.embed_scale != 1
        given[name.replace("input_ids", "inputs_embeds")] = embeddings
        if kind in (
            "m2m_100",
            "xglm",
        ):  # positions of embeddings count from the first one, those of tokens without padding
            assert IDS.min() > model.config.pad_token_id
        assert_close(run(model, given), expected, rtol=1e-4, atol=1e-4)

    of_all(check)


def test_a_tied_projection_undoes_them() -> None:
    def check(kind: str) -> None:
        model = adapted(kind)
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
        undone = seen(model, inputs(kind))
        states = seen(without_undoing(model), inputs(kind))
        assert not torch.allclose(undone, states, atol=1e-3)
        assert_close(undone, model.base_model.get_invertible_adapter()(states, rev=True), rtol=1e-4, atol=1e-4)

    of_all(check)


def test_a_new_table_that_both_halves_get_changes_nothing_in_the_decoder() -> None:
    model = adapted("m2m_100")
    expected = run(model, inputs("m2m_100"))
    table = copy.deepcopy(model.model.shared)
    table._forward_hooks.clear()
    table.weight = model.model.shared.weight
    model.model.encoder.embed_tokens = model.model.decoder.embed_tokens = model.model.shared = table
    assert_close(run(model, inputs("m2m_100")), expected)


def test_generation_goes_step_by_step() -> None:
    def check(kind: str) -> None:
        model = adapted(kind)
        given = inputs(kind)
        given.pop("decoder_input_ids", None)
        options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
        tokens = model.generate(**given, **options)
        assert torch.equal(model.generate(**given, **options, use_cache=False), tokens)
        if "encoder" not in PLACES[kind]:  # what was generated comes from the same logits as one call gives
            name = "decoder_input_ids" if kind == "whisper" else "input_ids"
            last = run(model, {**inputs(kind), name: tokens[:, :-1]})[:, -1].argmax(-1)
            assert torch.equal(last, tokens[:, -1]) or kind == "whisper"  # which has processors of its own

    of_all(check)


def test_each_child_of_parallel_runs_for_its_copy() -> None:
    def check(kind: str) -> None:
        model = adapted(kind, "ab")
        one = run(model, inputs(kind))
        model.set_active_adapters("b")
        two = run(model, inputs(kind))
        assert not torch.allclose(one, two, atol=1e-3)
        model.set_active_adapters(Parallel("a", "b"))
        assert_close(run(model, inputs(kind)), torch.cat([one, two]), rtol=1e-4, atol=1e-4)

    of_all(check)


def test_nothing_is_left_where_none_runs_or_is() -> None:
    def hooks(model: PreTrainedModel) -> Iterator[str]:
        for path, module in model.base_model.named_modules():
            if module is not model.get_output_embeddings():
                yield from (
                    f"{path}: {hook}"
                    for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
                )

    def check(kind: str) -> None:
        model, plain = adapted(kind), upstream(kind)
        model.set_active_adapters(None)
        assert torch.equal(run(model, inputs(kind)), run(plain, inputs(kind)))
        none = upstream(kind)
        adapter_models.init(none)
        model.delete_adapter("a")
        assert sorted(hooks(model)) == sorted(hooks(none))

    of_all(check)


def test_the_keys_are_those_of_what_reads_the_tokens() -> None:
    def check(kind: str) -> None:
        keys = {key for key, _ in adapted(kind).base_model.adapter_parameters("a")}
        assert len(keys) == 8, keys
        front = "encoder.invertible_adapters.a." if PLACES[kind].startswith("encoder.") else "invertible_adapters.a."
        assert {key[: len(front)] for key in keys} == {front}, keys

    of_all(check)


def test_a_class_that_hears_only_has_none_and_says_so() -> None:
    model = WhisperForAudioClassification(CONFIGS["whisper"][1]())
    adapter_models.init(model)
    with pytest.raises(UnsupportedMethodError, match="does not show by which table it embeds tokens"):
        model.add_adapter("a", INVERTIBLE)


def test_whisper_does_not_take_what_stood_behind_its_encoder() -> None:
    with tempfile.TemporaryDirectory() as folder:
        written = adapted("whisper")
        written.add_adapter("b", "seq_bn_inv[reduction_factor=8]")
        written.save_adapter(folder, "b")
        weights = Path(folder) / "adapter.safetensors"
        tensors = {key.replace("model.inv", "model.encoder.inv"): value for key, value in load_file(weights).items()}
        assert any(key.startswith("model.encoder.invertible_adapters.b.") for key in tensors)
        save_file(tensors, weights)
        model = upstream("whisper")
        adapter_models.init(model)
        with pytest.raises(AdapterMismatchError, match="behind the last layer of an encoder that reads no tokens"):
            model.load_adapter(folder)
        assert not list(model.adapters_config)
        model.load_adapter(folder, config={"inv_adapter": None}, strict=False)  # the way out that the message names
        assert model.base_model.get_invertible_adapter() is None and list(model.adapters_config) == ["b"]
