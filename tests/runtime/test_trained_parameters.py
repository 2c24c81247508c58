"""What is trained is what the layers declare, for every method: nothing more, nothing less, and all of it learns."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, PreTrainedModel

from adapter_models import LlamaAdapterModel
from adapter_runtime.composition import Fuse, Stack
from adapter_runtime.errors import UnknownAdapterError
from adapter_runtime.files.keys import owner
from runtime_models import LLAMA, adapted

# Config strings, and the last parts of the names of parameters that stay as they are.
METHODS = {
    "seq_bn": set(),
    "double_seq_bn": set(),
    "par_bn": set(),
    "scaled_par_bn": set(),
    "seq_bn[use_gating=True,ln_before=True,ln_after=True,scaling='channel']": set(),
    "seq_bn_inv": set(),
    "seq_bn[inv_adapter='glow',inv_adapter_reduction_factor=2]": set(),
    "compacter[reduction_factor=2]": set(),
    "compacter[reduction_factor=2,shared_W_phm=True]": set(),
    "compacter[reduction_factor=2,factorized_phm_rule=True]": set(),
    "compacter++[reduction_factor=2,learn_phm=False]": {"phm_rule"},
    "compacter++[reduction_factor=2,learn_phm=False,shared_phm_rule=False]": {"phm_rule"},
    "prefix_tuning": set(),
    "prefix_tuning[use_gating=True]": set(),
    "prefix_tuning_flat": set(),
    "prompt_tuning": set(),
    "lora[intermediate_lora=True,output_lora=True]": set(),
    "lora[use_gating=True]": set(),
    "ia3": set(),
    "dora": set(),
    "vera": {"lora_A", "lora_B"},
    "dvora": {"lora_A", "lora_B"},
    "mtl_lora[n_up_projection=3]": set(),
    "mtl_lora[task_specific_matrix_type='linear',n_up_projection=2]": set(),
    "loreft[suffix_positions=2]": set(),
    "noreft[suffix_positions=2]": set(),
    "direft[suffix_positions=2]": set(),
    "direft": {"weight", "bias"},  # of the unit for the end of the sequence, where no position is edited
    "loreft[tied_weights=True]": set(),
    "mam": set(),
    "unipelt": set(),
}


def model(kind: str, config: str) -> PreTrainedModel:
    made = adapted(kind)
    for name in ("other", "a"):
        made.add_adapter(name, config)
    return made


def own(made: PreTrainedModel, name: str) -> dict[str, nn.Parameter]:
    """The parameters of an adapter by their names in the state dict, whatever its layers declare."""
    return {key: parameter for key, parameter in made.named_parameters() if owner(key) == name}


def gradients(made: PreTrainedModel, draws: int = 6) -> Iterator[dict[str, torch.Tensor]]:
    """Gradients of random functions of the outputs, for weights that are nowhere at a point where gradients vanish."""
    generator = torch.Generator().manual_seed(4)
    for _ in range(draws):
        with torch.no_grad():
            for parameter in own(made, "a").values():
                parameter.copy_(parameter + 0.2 * torch.randn(parameter.shape, generator=generator))
        tokens = torch.randint(3, 99, (2, 9), generator=generator)
        made.zero_grad()
        hidden = made(tokens).last_hidden_state
        (hidden * torch.randn(hidden.shape, generator=generator)).sum().backward()
        yield {key: p.grad.clone() for key, p in made.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("config", METHODS)
def test_exactly_what_is_declared_is_trained_and_all_of_it_learns(config: str, kind: str) -> None:
    made = model(kind, config)
    made.train_adapter("a")
    made.eval()  # no dropout: a gradient of zero is no accident
    trained = {key for key, parameter in made.named_parameters() if parameter.requires_grad}
    declared = {id(parameter) for parameter in made.trained_parameters("a")}
    assert {id(parameter) for parameter in made.parameters() if parameter.requires_grad} == declared
    kept = {key for key in own(made, "a") if key not in trained}
    assert trained
    assert trained <= own(made, "a").keys()  # no parameter of the base model, none of the other adapter
    assert {key.rsplit(".", 1)[1] for key in kept} == METHODS[config]
    moved: set[str] = set()
    for found in gradients(made):
        assert found.keys() <= trained
        moved |= {key for key, gradient in found.items() if gradient.abs().max() > 0}
    assert trained - moved == set()


def test_a_second_adapter_takes_the_place_of_the_first() -> None:
    made = model("bert", "seq_bn")
    made.train_adapter("other")
    made.train_adapter("a")
    assert {owner(key) for key, parameter in made.named_parameters() if parameter.requires_grad} == {"a"}
    made.train_adapter(Stack("other", "a"))
    assert {owner(key) for key, parameter in made.named_parameters() if parameter.requires_grad} == {"a", "other"}


def test_nested_compositions_are_trained() -> None:
    """In `adapters` blocks in blocks have no hash, and train_adapter raises TypeError."""
    made = model("bert", "seq_bn")
    made.add_adapter("third", "seq_bn")
    made.add_adapter_fusion(Fuse("a", "other"))
    made.train_adapter(Stack("third", Fuse("a", "other")))
    trained = {owner(key) for key, parameter in made.named_parameters() if parameter.requires_grad}
    assert trained - {None} == {"a", "other", "third"}


def test_training_a_fusion_leaves_its_adapters_alone_unless_asked() -> None:
    made = model("bert", "seq_bn")
    made.add_adapter_fusion(Fuse("a", "other"))
    made.train_adapter_fusion(Fuse("a", "other"))
    trained = {key for key, parameter in made.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(".adapter_fusion_layer.a,other." in key for key in trained)
    made.train_adapter_fusion(Fuse("a", "other"), unfreeze_adapters=True)
    assert {owner(key) for key, p in made.named_parameters() if p.requires_grad} == {None, "a", "other"}


def vocabulary(made: PreTrainedModel) -> set[str]:
    """The trained parameters of the projection to the vocabulary."""
    projection = {id(parameter) for parameter in made.get_output_embeddings().parameters()}
    return {
        key for key, parameter in made.named_parameters() if parameter.requires_grad and id(parameter) in projection
    }


def with_lm_head(kind: str) -> PreTrainedModel:
    if kind == "static":
        made = adapted("llama_lm")
    else:
        made = LlamaAdapterModel(LlamaConfig(**LLAMA, tie_word_embeddings=False))
        made.add_causal_lm_head("lm", layers=1, layer_norm=False)
    for name in ("a", "b"):
        made.add_adapter(name, "seq_bn")
    made.add_adapter_fusion(Fuse("a", "b"))
    return made


@pytest.mark.parametrize("kind", ["static", "flexible"])
def test_the_projection_to_the_vocabulary_is_trained_with_the_embeddings_only(kind: str) -> None:
    made = with_lm_head(kind)
    made.train_adapter("a", train_embeddings=True)
    assert vocabulary(made)
    made.train_adapter("a")
    assert not vocabulary(made)
    made.train_adapter("a", train_embeddings=True)
    made.train_adapter_fusion(Fuse("a", "b"))
    assert not vocabulary(made)


def test_a_failing_call_leaves_the_projection_as_it_was() -> None:
    made = with_lm_head("static")
    before = vocabulary(made)
    with pytest.raises(UnknownAdapterError):
        made.train_adapter("missing")
    assert vocabulary(made) == before
