"""`Seq2SeqAdapterTrainer` on an encoder-decoder, generated for the test into a folder: no such model is checked in yet."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = textwrap.dedent("""
    import torch
    from transformers import BartConfig, BartForConditionalGeneration, Seq2SeqTrainingArguments

    import my_models
    from adapter_runtime.training import Seq2SeqAdapterTrainer

    torch.manual_seed(0)
    model = BartForConditionalGeneration(BartConfig(
        vocab_size=60, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=32, dropout=0.0,
        init_std=0.3,  # random logits as large as those of a trained model: the frozen head must be able to decide
    ))
    my_models.init(model)
    model.add_adapter("copy", "double_seq_bn[reduction_factor=1]")
    model.train_adapter("copy")
    frozen = {key: p.clone() for key, p in model.named_parameters() if not p.requires_grad}

    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(10, 60, (32, 5), generator=generator)
    data = [{"input_ids": row.tolist(), "labels": [*row[:3].tolist(), 2]} for row in tokens]
    seen = []

    def metrics(prediction):
        seen.append(prediction.predictions)
        return {"seen": 1.0}

    args = Seq2SeqTrainingArguments(
        output_dir="runs", max_steps=60, per_device_train_batch_size=8, learning_rate=1e-2, save_strategy="steps",
        save_steps=30, logging_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
        predict_with_generate=True, generation_max_length=6, generation_num_beams=2, dataloader_pin_memory=False,
    )
    trainer = Seq2SeqAdapterTrainer(model, args, train_dataset=data, eval_dataset=data[:8], compute_metrics=metrics)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    after = trainer.evaluate()["eval_loss"]
    assert after < 0.8 * before, (before, after)
    assert all(torch.equal(p, frozen[key]) for key, p in model.named_parameters() if key in frozen)

    inputs = torch.tensor([row["input_ids"] for row in data[:8]])
    expected = model.generate(inputs, max_length=6, num_beams=2)
    assert torch.equal(torch.tensor(seen[-1])[:, : expected.shape[1]], expected)

    kept = {key: p.detach().clone() for key, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key in kept:
                parameter.zero_()
    trainer = Seq2SeqAdapterTrainer(model, args, train_dataset=data)
    trainer.train(resume_from_checkpoint="runs/checkpoint-30")
    assert all(torch.equal(p, kept[key]) for key, p in model.named_parameters() if key in kept)
""")


def run(*command: str, cwd: Path) -> None:
    # The folder of the package comes first: the checked-in models stay out of this process.
    path = os.pathsep.join([str(cwd), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    result = subprocess.run(
        command, cwd=cwd, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]


def test_a_sequence_to_sequence_model_learns_and_generates(tmp_path: Path) -> None:
    command = "from adapter_codegen.cli import cli; cli()"
    run(sys.executable, "-c", command, "add-model", "bart", "--output", str(tmp_path / "my_models"), cwd=tmp_path)
    run(sys.executable, "-c", SCRIPT, cwd=tmp_path)
