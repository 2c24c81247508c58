"""`AdapterTrainer` on tiny models: it learns, its checkpoints are whole, and it goes on where it stopped, bit by bit."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Seq2SeqTrainingArguments,
    TrainerCallback,
    TrainingArguments,
)

from adapter_models import BertAdapterModel, LlamaAdapterModel, init
from adapter_runtime.composition import Fuse, MultiTask, Parallel, Stack
from adapter_runtime.errors import AdapterError, AdapterFileError, AdapterMismatchError
from adapter_runtime.methods.fusion.config import DynamicAdapterFusionConfig
from adapter_runtime.methods.reft.orthonormal import OrthonormalRows
from adapter_runtime.training import AdapterTrainer, Seq2SeqAdapterTrainer, TrainingSetupError
from runtime_models import BERT, LLAMA, adapted, randomise

Rows = list[dict[str, Any]]


def rows(count: int = 16, length: int = 6) -> Rows:
    """Sequences of random tokens. The label is a property of the first token, which a head can see."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(10, 99, (count, length), generator=generator)
    return [
        {"input_ids": row.tolist(), "attention_mask": [1] * length, "labels": int(row[0] > 54), "text": "not a column"}
        for row in tokens
    ]


def token_rows(count: int = 16) -> Rows:
    """The same with a label per token: the token itself."""
    return [{**row, "labels": row["input_ids"]} for row in rows(count)]


def static_bert() -> PreTrainedModel:
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**BERT))
    init(model)
    return model


def flexible_bert() -> PreTrainedModel:
    torch.manual_seed(0)
    model = BertAdapterModel(BertConfig(**BERT))
    model.add_classification_head("a", layers=1)
    return model


def static_llama() -> PreTrainedModel:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**LLAMA))
    init(model)
    return model


def static_llama_classifier() -> PreTrainedModel:
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(LlamaConfig(**LLAMA))
    init(model)
    return model


def flexible_llama() -> PreTrainedModel:
    torch.manual_seed(0)
    model = LlamaAdapterModel(LlamaConfig(**LLAMA))
    model.add_classification_head("a", layers=1)
    return model


def flexible_llama_lm() -> PreTrainedModel:
    torch.manual_seed(0)
    model = LlamaAdapterModel(LlamaConfig(**LLAMA))
    model.add_causal_lm_head("a", layers=1, activation_function=None, layer_norm=False, bias=False)
    return model


Factory = Callable[[], PreTrainedModel]


def prepared(factory: Factory, config: str = "seq_bn[reduction_factor=4]", **options: Any) -> PreTrainedModel:
    model = factory()
    model.add_adapter("a", config)
    model.train_adapter("a", **options)
    return model


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    defaults = {
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "logging_strategy": "no",
        "dataloader_pin_memory": False,
    }
    cls = options.pop("cls", TrainingArguments)
    return cls(output_dir=str(folder), **{**defaults, **options})


def values(model: nn.Module, trained_only: bool = False) -> dict[str, torch.Tensor]:
    state = model.state_dict(keep_vars=True)
    return {key: tensor.detach().clone() for key, tensor in state.items() if tensor.requires_grad or not trained_only}


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    different = [key for key, tensor in ours.items() if not torch.equal(tensor, theirs[key])]
    assert not different


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


class Losses(TrainerCallback):
    """Remembers what was logged."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            self.losses.append(logs["loss"])


# Training


@pytest.mark.parametrize(
    ("factory", "data"),
    [
        pytest.param(static_bert, rows, id="static head"),
        pytest.param(flexible_bert, rows, id="flexible head"),
        pytest.param(static_llama, token_rows, id="static LM head"),
        pytest.param(flexible_llama_lm, token_rows, id="flexible LM head"),
        pytest.param(flexible_llama, rows, id="flexible head, last token"),
    ],
)
@pytest.mark.parametrize("config", ["seq_bn[reduction_factor=4]", "lora[r=4]", "prefix_tuning[bottleneck_size=8]"])
def test_the_loss_falls_and_the_base_stays(
    factory: Factory, data: Callable[[], Rows], config: str, tmp_path: Path
) -> None:
    model = prepared(factory, config)
    before, frozen = values(model), {key for key, p in model.named_parameters() if not p.requires_grad}
    seen = Losses()
    args = arguments(tmp_path, max_steps=32, learning_rate=2e-2, logging_strategy="steps", logging_steps=8)
    AdapterTrainer(model, args, train_dataset=data(), callbacks=[seen]).train()
    # The projection to the vocabulary is left alone, so that only the adapter learns.
    assert seen.losses[-1] < (0.999 if data is token_rows else 0.95) * seen.losses[0]
    after = values(model)
    assert frozen
    assert_same({key: after[key] for key in frozen}, {key: before[key] for key in frozen})
    assert all(not torch.equal(after[key], before[key]) for key, _ in model.adapter_parameters("a"))


def test_a_new_model_of_model_init_gets_the_setup(tmp_path: Path) -> None:
    made = []

    def make() -> PreTrainedModel:
        model = prepared(flexible_bert)
        model.set_active_adapters(None)
        made.append(model)
        return model

    trainer = AdapterTrainer(
        args=arguments(tmp_path, max_steps=1), model_init=make, train_dataset=rows(), adapter_names="a"
    )
    trainer.train()
    assert len(made) == 2
    assert trainer.model is made[-1]
    assert trainer.model.active_adapters == Stack("a")


def test_columns_that_no_forward_takes_are_left_out_and_those_of_calls_are_not(tmp_path: Path) -> None:
    trainer = AdapterTrainer(prepared(flexible_bert), arguments(tmp_path), train_dataset=rows())
    batch = next(iter(trainer.get_train_dataloader()))
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert "task_ids" in trainer._signature_columns


@pytest.mark.parametrize(
    "factory",
    [
        pytest.param(static_bert, id="a static loss that ignores the number of items"),
        pytest.param(static_llama_classifier, id="one that upstream hands no number"),
        pytest.param(static_llama, id="a static loss that divides by it"),
        pytest.param(flexible_bert, id="a flexible head"),
    ],
)
def test_accumulated_gradients_are_those_of_the_whole_batch(factory: Factory, tmp_path: Path) -> None:
    data = token_rows(8) if factory is static_llama else rows(8)
    results = []
    for size, steps in ((8, 1), (2, 4)):
        model = prepared(factory)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        args = arguments(
            tmp_path,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            max_steps=1,
            optim="sgd",
            learning_rate=1.0,
            max_grad_norm=0.0,
            lr_scheduler_type="constant",
        )
        AdapterTrainer(model, args, train_dataset=data).train()
        results.append(values(model, trained_only=True))
    for key, tensor in results[0].items():
        torch.testing.assert_close(results[1][key], tensor, rtol=1e-4, atol=1e-5)


def test_finding_out_what_a_loss_counts_draws_no_random_number(tmp_path: Path) -> None:
    from adapter_runtime.training.losses import uses_item_count

    model = prepared(static_llama)
    batch = {"input_ids": torch.randint(10, 99, (2, 5)), "labels": torch.randint(10, 99, (2, 5))}
    state = torch.get_rng_state()
    assert uses_item_count(model, batch)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not uses_item_count(prepared(static_bert), {**batch, "labels": torch.tensor([0, 1])})


def test_label_smoothing_shifts_the_labels_of_a_flexible_causal_head(tmp_path: Path) -> None:
    """Upstream tells causal models by the names of classes, which adapter models are not among."""
    static, flexible = prepared(static_llama), prepared(flexible_llama_lm)
    flexible.heads["a"][0].weight = static.lm_head.weight
    flexible.model.load_state_dict(static.model.state_dict())
    losses = []
    for model in (static.eval(), flexible.eval()):
        trainer = AdapterTrainer(model, arguments(tmp_path, label_smoothing_factor=0.1), train_dataset=token_rows())
        batch = next(iter(trainer.get_train_dataloader()))
        losses.append(trainer.compute_loss(model, dict(batch)))
    torch.testing.assert_close(losses[0], losses[1])


# Fusions and several heads


@pytest.mark.parametrize(
    ("factory", "data", "steps"),
    [
        pytest.param(flexible_bert, rows, 1, id="one batch"),
        pytest.param(flexible_bert, rows, 2, id="two batches, losses averaged"),
        pytest.param(static_llama, token_rows, 2, id="two batches, losses summed"),
    ],
)
def test_the_regularisation_of_a_fusion_acts_in_its_own_step(
    factory: Factory, data: Callable[[], Rows], steps: int, tmp_path: Path
) -> None:
    """In `adapters` its gradients land in the step after. Here a single step shows it, once, whatever was accumulated."""
    moved = []
    for weight in (0.0, 0.01):
        model = fused(factory=factory)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        fusions = {key: p for key, p in model.named_parameters() if key.endswith("mix.value.weight")}
        before = {}
        with torch.no_grad():
            for key, parameter in fusions.items():
                parameter.mul_(3.0)
                before[key] = parameter.clone()
        if weight == 0.0:
            model.get_fusion_regularization_loss = lambda: None
        args = arguments(
            tmp_path,
            max_steps=1,
            gradient_accumulation_steps=steps,
            optim="sgd",
            learning_rate=1.0,
            max_grad_norm=0.0,
            lr_scheduler_type="constant",
        )
        AdapterTrainer(model, args, train_dataset=data()).train()
        moved.append({key: parameter.detach() - before[key] for key, parameter in fusions.items()})
    assert moved[0]
    for key, plain in moved[0].items():
        value = before[key]
        expected = plain - 0.01 * 2 * (value - torch.eye(value.shape[0]))
        torch.testing.assert_close(moved[1][key], expected, rtol=1e-4, atol=1e-5)


def test_evaluation_losses_are_without_regularisation(tmp_path: Path) -> None:
    model = fused()
    for key, parameter in model.named_parameters():
        if key.endswith("value.weight") and "mix" in key:
            parameter.data.mul_(3.0)
    loss = AdapterTrainer(model, arguments(tmp_path)).evaluate(rows(8))["eval_loss"]
    batch = {key: torch.tensor([row[key] for row in rows(8)]) for key in ("input_ids", "attention_mask", "labels")}
    with torch.no_grad():
        assert loss == pytest.approx(model.eval()(**batch).loss.item(), rel=1e-4)


def parallel() -> PreTrainedModel:
    torch.manual_seed(0)
    model = BertAdapterModel(BertConfig(**BERT))
    for name, labels in (("a", 2), ("b", 3)):
        model.add_adapter(name, "seq_bn[reduction_factor=4]")
        model.add_classification_head(name, layers=1, num_labels=labels)
    model.train_adapter(Parallel("a", "b"))
    return model


def test_parallel_adapters_learn_with_a_head_each(tmp_path: Path) -> None:
    model = parallel()
    before = values(model, trained_only=True)
    trainer = AdapterTrainer(model, arguments(tmp_path, max_steps=2), train_dataset=rows())
    assert trainer.label_names == ["labels"]
    trainer.train()
    after = values(model)
    assert all(not torch.equal(after[key], tensor) for key, tensor in before.items())
    prediction = trainer.predict(rows(6))
    assert [logits.shape for logits in prediction.predictions] == [(6, 2), (6, 3)]
    batch = {key: torch.tensor([row[key] for row in rows(6)]) for key in ("input_ids", "attention_mask", "labels")}
    with torch.no_grad():
        outputs = model.eval()(**batch)
    assert prediction.metrics["test_loss"] == pytest.approx(outputs.loss.item(), rel=1e-4)
    for ours, theirs in zip(prediction.predictions, outputs.head_outputs, strict=True):
        torch.testing.assert_close(torch.tensor(ours), theirs.logits)


def test_columns_that_only_a_head_takes_are_kept(tmp_path: Path) -> None:
    model = prepared(flexible_bert)
    model.add_dependency_parsing_head("d", num_labels=3)
    trainer = AdapterTrainer(model, arguments(tmp_path, max_steps=1), train_dataset=rows())
    columns = ("labels_arcs", "labels_rels", "word_starts")
    data = [{"input_ids": [2, 5, 6, 3], "text": "", **{key: [0, 1] for key in columns}} for _ in range(4)]
    batch = next(iter(trainer.get_eval_dataloader(data)))
    assert set(batch) == {"input_ids", *columns}


def test_tasks_learn_from_their_rows(tmp_path: Path) -> None:
    model = flexible_bert()
    for name in ("x", "y"):
        model.add_adapter(name, "mtl_lora[r=2]")
    model.train_adapter(MultiTask("x", "y"))
    model.active_head = "a"
    before = values(model, trained_only=True)
    data = [{**row, "task_ids": 1} for row in rows()]
    AdapterTrainer(model, arguments(tmp_path, max_steps=2), train_dataset=data).train()
    after = values(model)
    touched = {
        key.split(".loras.")[1][0] for key in before if ".loras." in key and not torch.equal(after[key], before[key])
    }
    assert touched == {"y"}


# What is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda: BertModel(BertConfig(**BERT)), "has no adapters.*init", id="an upstream model"),
        pytest.param(flexible_bert, "No adapter is active.*none, see add_adapter", id="no adapter"),
    ],
)
def test_a_model_without_active_adapters_is_refused(make: Factory, message: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingSetupError, match=message):
        AdapterTrainer(make(), arguments(tmp_path), train_dataset=rows())


def test_a_base_that_was_never_frozen_is_refused(tmp_path: Path) -> None:
    model = flexible_bert()
    model.add_adapter("a", set_active=True)
    trainer = AdapterTrainer(model, arguments(tmp_path, max_steps=1), train_dataset=rows())
    with pytest.raises(TrainingSetupError, match=r"not frozen.*\n.*bert.embeddings"):
        trainer.train()
    model.train_adapter("a")  # also after the trainer was made
    trainer.train()


def test_nothing_to_train_is_refused(tmp_path: Path) -> None:
    model = prepared(flexible_bert).requires_grad_(False)
    with pytest.raises(TrainingSetupError, match="No parameter"):
        AdapterTrainer(model, arguments(tmp_path), train_dataset=rows()).train()


@pytest.mark.parametrize("flag", ["is_fsdp_enabled", "is_deepspeed_enabled", "is_distributed_loading_by_transformers"])
def test_sharded_models_are_refused(flag: str, tmp_path: Path) -> None:
    trainer = AdapterTrainer(prepared(flexible_bert), arguments(tmp_path), train_dataset=rows())
    setattr(trainer, flag, True)
    with pytest.raises(TrainingSetupError, match="DistributedDataParallel"):
        trainer._refuse_sharding()


def test_two_names_of_the_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingSetupError, match="two names"):
        AdapterTrainer(
            prepared(flexible_bert), arguments(tmp_path), tokenizer=tokenizer(), processing_class=tokenizer()
        )


def test_adapters_on_a_quantized_base_are_trained(tmp_path: Path) -> None:
    class Quantizer:
        is_trainable = True

    model = prepared(flexible_bert)
    model.is_quantized, model.hf_quantizer = True, Quantizer()
    AdapterTrainer(model, arguments(tmp_path), train_dataset=rows())
    assert model.is_quantized
    model.hf_quantizer.is_trainable = False
    with pytest.raises(TrainingSetupError, match="No gradients flow"):
        AdapterTrainer(model, arguments(tmp_path), train_dataset=rows())


def test_a_name_like_a_checkpoint_is_refused_when_saving(tmp_path: Path) -> None:
    model = flexible_bert()
    model.add_adapter("checkpoint-7")
    model.train_adapter("checkpoint-7")
    with pytest.raises(TrainingSetupError, match="name of a checkpoint"):
        AdapterTrainer(model, arguments(tmp_path), train_dataset=rows()).save_model()


# Evaluation


def test_label_names_are_those_of_the_active_head(tmp_path: Path) -> None:
    model = prepared(flexible_bert)
    model.add_qa_head("q")
    trainer = AdapterTrainer(model, arguments(tmp_path), train_dataset=rows())
    assert trainer.label_names == ["start_positions", "end_positions"]
    data = [{"input_ids": [5, 6, 7], "start_positions": 0, "end_positions": 1} for _ in range(4)]
    assert trainer.evaluate(data)["eval_loss"] > 0
    model.active_head = "a"
    assert AdapterTrainer(model, arguments(tmp_path), train_dataset=rows()).label_names == ["labels"]
    args = arguments(tmp_path, label_names=["mine"])
    assert AdapterTrainer(model, args, train_dataset=rows()).label_names == ["mine"]


def test_a_bare_base_model_trains_with_a_loss_of_its_users(tmp_path: Path) -> None:
    """In `adapters` a model without heads has no attribute that its trainer reads."""
    model = adapted("bert")
    model.add_adapter("a", "seq_bn[reduction_factor=4]")
    model.train_adapter("a")

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        return outputs.last_hidden_state.pow(2).mean()

    before = values(model, trained_only=True)
    args = arguments(tmp_path, max_steps=1, save_strategy="steps", save_steps=1)
    AdapterTrainer(model, args, train_dataset=rows(), compute_loss_func=loss).train()
    assert not torch.equal(values(model)[next(iter(before))], next(iter(before.values())))
    assert (tmp_path / "checkpoint-1" / "a" / "adapter.safetensors").is_file()


@pytest.mark.parametrize("factory", [static_llama, flexible_llama_lm])
def test_seq2seq_trainer_evaluates_what_the_model_generates(factory: Factory, tmp_path: Path) -> None:
    model = prepared(factory)
    seen: list[Any] = []

    def metrics(prediction: Any) -> dict[str, float]:
        seen.append(prediction)
        return {"length": float(prediction.predictions.shape[1])}

    args = arguments(
        tmp_path, cls=Seq2SeqTrainingArguments, predict_with_generate=True, generation_max_length=9, max_steps=2
    )
    trainer = Seq2SeqAdapterTrainer(
        model, args, train_dataset=token_rows(), eval_dataset=token_rows(4), compute_metrics=metrics
    )
    trainer.train()
    result = trainer.evaluate()
    inputs = torch.tensor([row["input_ids"] for row in token_rows(4)])
    expected = model.generate(inputs, attention_mask=torch.ones_like(inputs), max_length=9)
    assert torch.equal(torch.tensor(seen[0].predictions)[:, : expected.shape[1]], expected)
    assert result["eval_length"] >= 9
    assert result["eval_loss"] > 0


# Checkpoints

ADAPTER = {"a/adapter_config.json", "a/adapter.safetensors"}
HEAD = {"a/head_config.json", "a/model_head.safetensors"}
STATE = {"optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json", "training_args.bin"}


@pytest.mark.parametrize("factory", [static_bert, flexible_bert])
def test_a_checkpoint_holds_adapters_and_heads_and_no_model(factory: Factory, tmp_path: Path) -> None:
    args = arguments(tmp_path, max_steps=1, save_strategy="steps", save_steps=1)
    trainer = AdapterTrainer(prepared(factory), args, train_dataset=rows())
    trainer.train()
    assert files(tmp_path) == {f"checkpoint-1/{name}" for name in ADAPTER | HEAD | STATE}
    trainer.save_model(str(tmp_path / "end"))
    assert files(tmp_path / "end") == ADAPTER | HEAD | {"training_args.bin"}


def tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1}, "[UNK]")), pad_token="[PAD]"
    )


def test_the_tokenizer_is_saved(tmp_path: Path) -> None:
    trainer = AdapterTrainer(prepared(flexible_bert), arguments(tmp_path), train_dataset=rows(), tokenizer=tokenizer())
    trainer.save_model()
    assert "tokenizer.json" in files(tmp_path)


RUNS = [
    pytest.param(static_bert, {}, "seq_bn[dropout=0.1]", id="static head"),
    pytest.param(flexible_bert, {}, "lora[r=4,dropout=0.1]", id="flexible head"),
    pytest.param(flexible_bert, {"train_embeddings": True}, "seq_bn", id="with embeddings"),
    pytest.param(flexible_llama_lm, {}, "prefix_tuning[bottleneck_size=8,dropout=0.1]", id="prefix"),
]


@pytest.mark.parametrize(("factory", "options", "config"), RUNS)
def test_going_on_from_a_checkpoint_is_bitwise_the_uninterrupted_run(
    factory: Factory, options: dict[str, Any], config: str, tmp_path: Path
) -> None:
    def run(checkpoint: str | None = None) -> dict[str, torch.Tensor]:
        model = prepared(factory, config, **options)
        args = arguments(tmp_path, max_steps=6, save_strategy="steps", save_steps=3, weight_decay=0.1)
        data = token_rows() if factory is flexible_llama_lm else rows()
        if checkpoint is not None:
            randomise(model, "a", seed=9)  # all that is trained must come from the checkpoint
        AdapterTrainer(model, args, train_dataset=data).train(resume_from_checkpoint=checkpoint)
        return values(model)

    whole = run()
    assert (tmp_path / "checkpoint-3" / "training_state.safetensors").is_file() is bool(options)
    assert_same(run(str(tmp_path / "checkpoint-3")), whole)


def fused(config: Any = "dynamic", factory: Factory = flexible_bert, **options: Any) -> PreTrainedModel:
    """A model whose fusion "mix" of the adapters "b" and "c" is trained."""
    model = factory()
    for name in ("b", "c"):
        model.add_adapter(name, "seq_bn[reduction_factor=4]")
        randomise(model, name)
    model.add_adapter_fusion(Fuse("b", "c", name="mix"), config)
    model.train_adapter_fusion(Fuse("b", "c", name="mix"), **options)
    return model


def test_going_on_with_a_named_fusion_whose_temperature_falls_is_bitwise_the_same(tmp_path: Path) -> None:
    """`adapters` finds fusions of a checkpoint by a comma in the name, and begins anew with the temperature."""
    config = DynamicAdapterFusionConfig(temperature=True)

    def run(checkpoint: str | None = None) -> dict[str, torch.Tensor]:
        model = fused(config, unfreeze_adapters=True)
        args = arguments(tmp_path, max_steps=4, save_strategy="steps", save_steps=2, weight_decay=0.1)
        AdapterTrainer(model, args, train_dataset=rows()).train(resume_from_checkpoint=checkpoint)
        return values(model)

    whole = run()
    folder = tmp_path / "checkpoint-2"
    fusion = {"mix/adapter_fusion_config.json", "mix/model_adapter_fusion.safetensors", "training_state.safetensors"}
    assert fusion <= files(folder)
    assert_same(run(str(folder)), whole)
    shutil.rmtree(folder / "mix")
    with pytest.raises(AdapterFileError, match="lacks the fusion 'mix'"):
        run(str(folder))


def test_a_model_that_was_never_frozen_can_be_saved(tmp_path: Path) -> None:
    """In `adapters` its trainer lacks an attribute that saving reads."""
    model = flexible_bert()
    model.add_adapter("a", set_active=True)
    AdapterTrainer(model, arguments(tmp_path), train_dataset=rows()).save_model()
    assert files(tmp_path) == ADAPTER | HEAD | {"training_args.bin"}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    args = arguments(tmp_path, max_steps=2, save_strategy="steps", save_steps=2)
    AdapterTrainer(prepared(flexible_bert), args, train_dataset=rows()).train()
    return tmp_path / "checkpoint-2"


def resume(model: PreTrainedModel, folder: Path) -> None:
    args = arguments(folder.parent, max_steps=3)
    AdapterTrainer(model, args, train_dataset=rows()).train(resume_from_checkpoint=str(folder))


def test_a_checkpoint_without_what_is_trained_is_refused(checkpoint: Path) -> None:
    model = flexible_bert()
    model.add_adapter("b")
    model.train_adapter("b")
    with pytest.raises(AdapterFileError, match="lacks the adapter 'b'"):
        resume(model, checkpoint)
    model = prepared(flexible_bert)
    model.add_tagging_head("t")
    with pytest.raises(AdapterFileError, match="lacks the head 't'"):
        resume(model, checkpoint)
    model = prepared(flexible_bert, "seq_bn[reduction_factor=4]", train_embeddings=True)
    with pytest.raises(AdapterMismatchError, match=r"missing from the file.*\n.*word_embeddings"):
        resume(model, checkpoint)


def test_a_folder_without_adapters_is_no_checkpoint(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(AdapterFileError, match="checkpoint"):
            resume(prepared(flexible_bert), folder)


def test_a_checkpoint_that_fits_in_part_changes_nothing(checkpoint: Path) -> None:
    (checkpoint / "a" / "model_head.safetensors").write_bytes(b"damaged")
    model = prepared(flexible_bert)
    before = values(model)
    with pytest.raises(AdapterFileError, match="damaged"):
        resume(model, checkpoint)
    assert_same(values(model), before)


def test_what_the_model_does_not_have_is_reported_and_not_loaded(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = flexible_bert()
    other.add_adapter("b")
    other.save_adapter(checkpoint / "b", "b")
    model = prepared(flexible_bert)
    with caplog.at_level("WARNING"):
        resume(model, checkpoint)
    assert "also holds the adapter b" in caplog.text
    assert list(model.adapters_config) == ["a"]


class Evil:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("executed"),)


def test_resuming_runs_no_code_from_the_checkpoint(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (checkpoint / "training_args.bin").write_bytes(pickle.dumps(Evil()))
    (checkpoint / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    resume(prepared(flexible_bert), checkpoint)
    (checkpoint / "a" / "adapter.safetensors").unlink()
    (checkpoint / "a" / "pytorch_adapter.bin").write_bytes(pickle.dumps({"x": Evil()}))
    with pytest.raises(AdapterError, match="objects other than tensors"):
        resume(prepared(flexible_bert), checkpoint)
    assert not Path("executed").exists()


@pytest.mark.parametrize("factory", [static_bert, flexible_bert])
def test_the_best_adapters_and_heads_come_back(factory: Factory, tmp_path: Path) -> None:
    scores = iter([0.2, 0.9, 0.5])
    kept: list[dict[str, torch.Tensor]] = []

    class Keep(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            kept.append(values(model))

    args = arguments(
        tmp_path,
        max_steps=3,
        save_strategy="steps",
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="score",
        greater_is_better=True,
    )
    model = prepared(factory)
    trainer = AdapterTrainer(
        model,
        args,
        train_dataset=rows(),
        eval_dataset=rows(4),
        compute_metrics=lambda _: {"score": next(scores)},
        callbacks=[Keep()],
    )
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    assert_same(values(model), kept[1])
    assert any(not torch.equal(kept[1][key], kept[2][key]) for key in kept[1])


# Weight decay


def groups(model: PreTrainedModel, folder: Path) -> tuple[set[str], set[str]]:
    """The names of trained parameters with and without decay."""
    trainer = AdapterTrainer(model, arguments(folder, weight_decay=0.1), train_dataset=rows())
    optimizer = trainer.create_optimizer()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, spared = optimizer.param_groups
    assert decayed["weight_decay"] == 0.1
    assert spared["weight_decay"] == 0.0
    return {names[id(p)] for p in decayed["params"]}, {names[id(p)] for p in spared["params"]}


def of_layers(pattern: str, layers: int = 3) -> set[str]:
    return {pattern.format(layer) for layer in range(layers)}


def test_weight_decay_spares_biases_norms_and_factors(tmp_path: Path) -> None:
    model = prepared(flexible_bert, "seq_bn[ln_before=True,ln_after=True,scaling='learned',use_gating=True]")
    decayed, spared = groups(model, tmp_path)
    place = "bert.encoder.layer.{}.output.adapters.a."
    assert decayed == {
        *of_layers(place + "adapter_down.1.weight"),
        *of_layers(place + "adapter_up.weight"),
        *of_layers(place + "gate.weight"),
        "heads.a.1.weight",
    }
    assert spared == {
        *of_layers(place + "adapter_norm_before.weight"),
        *of_layers(place + "adapter_norm_before.bias"),
        *of_layers(place + "adapter_down.1.bias"),
        *of_layers(place + "adapter_up.bias"),
        *of_layers(place + "adapter_norm_after.weight"),
        *of_layers(place + "adapter_norm_after.bias"),
        *of_layers(place + "scaling"),
        *of_layers(place + "gate.bias"),
        "heads.a.1.bias",
    }


def test_weight_decay_spares_the_factors_of_ia3_but_not_lora(tmp_path: Path) -> None:
    decayed, spared = groups(prepared(static_bert, "ia3"), tmp_path)
    assert decayed == {"classifier.weight"}
    place = "bert.encoder.layer.{}."
    assert spared == {
        "classifier.bias",
        *of_layers(place + "attention.self.key.loras.a.lora_B"),
        *of_layers(place + "attention.self.value.loras.a.lora_B"),
        *of_layers(place + "intermediate.dense.loras.a.lora_B"),
    }
    decayed, spared = groups(prepared(static_bert, "lora"), tmp_path)
    assert len(decayed) == 1 + 3 * 2 * 2
    assert spared == {"classifier.bias"}


def test_weight_decay_spares_the_value_matrices_of_fusions(tmp_path: Path) -> None:
    """`adapters` means to, but asks an attribute that is never there."""
    decayed, spared = groups(fused(), tmp_path)
    place = "bert.encoder.layer.{}.output.adapter_fusion_layer.mix."
    assert decayed == {"heads.a.1.weight", *of_layers(place + "query.weight"), *of_layers(place + "key.weight")}
    assert spared == {
        "heads.a.1.bias",
        *of_layers(place + "value.weight"),
        *of_layers(place + "query.bias"),
        *of_layers(place + "key.bias"),
    }


def test_weight_decay_spares_magnitudes_and_other_factors(tmp_path: Path) -> None:
    spared = groups(prepared(static_bert, "dora"), tmp_path)[1]
    assert {name.rsplit(".", 2)[-2] for name in spared if ".loras." in name} == {"m"}
    spared = groups(prepared(static_bert, "mtl_lora"), tmp_path)[1]
    assert {name.rsplit(".", 1)[-1] for name in spared if ".loras." in name} == {"values"}
    spared = groups(prepared(static_bert, "compacter[reduction_factor=2]"), tmp_path)[1]
    assert {name.rsplit(".", 1)[-1] for name in spared if ".adapters." in name} == {"b"}


def test_weight_decay_leaves_the_rotation_of_loreft_orthonormal(tmp_path: Path) -> None:
    """In `adapters` a parameter that is cut to an integer moves below one, and the projection is gone in three steps."""
    model = prepared(static_bert, "loreft[r=2]")
    args = arguments(tmp_path, max_steps=8, weight_decay=0.5, learning_rate=0.1)
    AdapterTrainer(model, args, train_dataset=rows()).train()
    found = [module for module in model.modules() if isinstance(module, OrthonormalRows)]
    assert found
    for module in found:
        kept = module.rows()
        torch.testing.assert_close(kept @ kept.T, torch.eye(2), rtol=0, atol=1e-5)


def test_names_of_adapters_and_heads_do_not_decide_about_decay(tmp_path: Path) -> None:
    """Upstream spares all parameters with "bias" or "norm" anywhere in their names."""
    model = BertAdapterModel(BertConfig(**BERT))
    model.add_adapter("debias", "seq_bn")
    model.add_classification_head("layernorm", layers=1)
    model.train_adapter("debias")
    decayed, spared = groups(model, tmp_path)
    assert {name.rsplit(".", 1)[1] for name in decayed} == {"weight"}
    assert {name.rsplit(".", 1)[1] for name in spared} == {"bias"}


def test_embeddings_that_are_trained_decay_as_upstream_says(tmp_path: Path) -> None:
    model = prepared(flexible_bert, "seq_bn", train_embeddings=True)
    model.bert.embeddings.LayerNorm.requires_grad_(True)
    decayed, spared = groups(model, tmp_path)
    assert "bert.embeddings.word_embeddings.weight" in decayed
    assert {"bert.embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.bias"} <= spared
