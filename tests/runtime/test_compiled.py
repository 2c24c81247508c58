"""`torch.compile` sees one graph, whatever is active, and follows a change of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from adapter_runtime import AdapterSetup
from adapter_runtime.methods.configs.strings import ADAPTER_CONFIG_MAP
from runtime_models import adapted, randomise

# Every method by its name, in sizes that fit the models of this test, and options with code of their own.
SIZED = {
    "compacter": "compacter[reduction_factor=8]",
    "compacter++": "compacter++[reduction_factor=8]",
    "mtl_lora": "mtl_lora[n_up_projection=2]",
    "loreft": "loreft[suffix_positions=1]",
}
DISTINCT = {config.identity(): name for name, config in reversed(ADAPTER_CONFIG_MAP.items())}  # without old names
CONFIGS = [
    None,
    *(SIZED.get(name, name) for name in sorted(DISTINCT.values())),
    "seq_bn_inv[inv_adapter='glow']",
    "lora[use_gating=True]",
    "prompt_tuning[combine='prefix_after_bos']",
    "noreft[tied_weights=True]",
]


# A graph takes seconds to trace: one config of each family is always tried, in Llama and in BERT, whose layers are called in another way.
OF_EACH_FAMILY = {None, "seq_bn", "prefix_tuning", "lora", "loreft[suffix_positions=1]", "prompt_tuning", "seq_bn_inv"}
TRACED = [
    pytest.param(kind, attention, config, marks=[] if config in OF_EACH_FAMILY else [pytest.mark.full])
    for kind, attention in (("llama", "sdpa"), ("bert", "eager"))
    for config in CONFIGS
]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(("kind", "attention", "config"), TRACED)
def test_one_graph(kind: str, attention: str, config: str | None, inputs: dict[str, torch.Tensor]) -> None:
    model = adapted(kind, attention)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    if config is not None:
        model.add_adapter("a", config)
        randomise(model, "a")
        model.train_adapter("a")
        model.eval()
    expected = model(**inputs, use_cache=False)[0]
    given = compiled(**inputs, use_cache=False)[0]
    torch.testing.assert_close(given, expected)
    if config is not None:
        assert_same_step(model, compiled, inputs)


def assert_same_step(model: Any, compiled: Any, inputs: dict[str, torch.Tensor]) -> None:
    """A step of training, dropout and all, changes the same parameters by the same amounts."""
    model.train()
    start = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    ends = []
    for run in (model, compiled):
        model.load_state_dict(start)
        optimizer = torch.optim.SGD(model.trained_parameters("a"), lr=0.1)
        torch.manual_seed(0)
        run(**inputs, use_cache=False)[0].square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        ends.append({key: tensor.clone() for key, tensor in model.state_dict().items()})
    torch.testing.assert_close(ends[1], ends[0])
    assert any(not torch.equal(start[key], ends[0][key]) for key in start)


def test_each_family_is_traced() -> None:
    assert set(CONFIGS) >= OF_EACH_FAMILY


def test_the_graph_follows_what_is_active(inputs: dict[str, torch.Tensor]) -> None:
    model = adapted("llama", "sdpa")
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for name in ("a", "b"):
        model.add_adapter(name, "unipelt")
        randomise(model, name, seed=ord(name))

    def check() -> torch.Tensor:
        with torch.no_grad():
            given, expected = (run(**inputs, use_cache=False)[0] for run in (compiled, model))
        torch.testing.assert_close(given, expected)
        return expected

    outputs = [check()]
    model.set_active_adapters("a")
    outputs.append(check())
    with AdapterSetup("b"):
        outputs.append(check())
    with AdapterSetup(None):
        torch.testing.assert_close(check(), outputs[0])
    assert not torch.allclose(outputs[1], outputs[0]) and not torch.allclose(outputs[1], outputs[2])
