"""A program: the runtime imports, trains, saves and serves where nothing of the generator is installed.

``test_packaging.py`` runs it with a folder of packages in which they are missing; `tox run -e packaging` after it has uninstalled
them.

    python runtime_alone.py FOLDER    # writes into FOLDER; prints "served" at the end
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import torch

# Everything that adapter-codegen installs for its generator, and the generator.
GENERATOR = ("adapter_codegen", "adapter_templates", "libcst", "jinja2", "black", "click", "rich", "platformdirs")


def is_installed(name: str) -> bool:
    """Whether there is more of a package than a folder with caches, as an uninstallation may leave it."""
    spec = find_spec(name)
    return spec is not None and spec.origin is not None


def main(folder: Path) -> None:
    present = [name for name in GENERATOR if is_installed(name)]
    assert not present, f"this proves nothing: {present} can be imported"
    from transformers import BertConfig, TrainingArguments

    import adapter_models
    from adapter_models import AdapterTrainer, AutoAdapterModel, BertAdapterModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertAdapterModel(BertConfig(vocab_size=100, **sizes))
    model.save_pretrained(folder / "base")
    for name, config in (("a", "lora"), ("b", "seq_bn"), ("c", "prefix_tuning")):
        model.add_adapter(name, config=config)
    model.add_classification_head("a", num_labels=2)
    model.train_adapter("a")
    rows = [{"input_ids": [5, 6, 7], "labels": 1}, {"input_ids": [8, 9, 10], "labels": 0}]
    arguments = TrainingArguments(str(folder / "out"), max_steps=2, use_cpu=True, report_to=[], disable_tqdm=True)
    AdapterTrainer(model, arguments, train_dataset=rows).train()
    model.save_adapter(folder / "adapter", "a")

    served = AutoAdapterModel.from_pretrained(folder / "base")
    served.load_adapter(folder / "adapter", set_active=True)
    inputs = torch.tensor([row["input_ids"] for row in rows])
    with torch.no_grad():
        torch.testing.assert_close(served.eval()(inputs).logits, model.eval()(inputs).logits)

    from adapter_runtime.files.hub.card import CardOptions, render_card

    card = CardOptions("us/a", "a", "load_adapter", "", "bert", True, "", "LoRAConfig", "", (), {})
    assert "# Adapter `us/a`" in render_card(card)
    print(adapter_models.__version__, "served")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
