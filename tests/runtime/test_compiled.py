"""`torch.compile` sees one graph, whatever is active, and follows a change of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from adapter_runtime import AdapterSetup
from runtime_models import adapted, randomise

CONFIGS = [
    None,
    "seq_bn",
    "double_seq_bn",
    "par_bn",
    "lora",
    "lora[use_gating=True]",
    "ia3",
    "dora",
    "vera",
    "dvora",
    "mtl_lora[n_up_projection=2]",
    "prefix_tuning",
    "unipelt",
]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(("kind", "attention"), [("llama", "sdpa"), ("bert", "eager")])
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
        gradients = []
        for output in (expected, given):
            model.zero_grad()
            output.square().sum().backward()
            gradients.append([parameter.grad.clone() for parameter in model.trained_parameters("a")])
        torch.testing.assert_close(*gradients)


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
