"""A package of the user's own: written with ``--output``, registered by its import, used by `init` and the auto classes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from adapter_codegen.cli import cli

# Of one that the library has, too, and of one that it may have or not.
MODELS = ("llama", "mistral")

PROGRAM = """
import torch
{imports}
from transformers import AutoModel, CONFIG_MAPPING

for model_type in {models}:
    config = CONFIG_MAPPING[model_type](
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
    )
    upstream = AutoModel.from_config(config).eval()
    tokens = torch.arange(12).reshape(2, 6)
    expected = upstream(tokens).last_hidden_state
    adapter_models.init(upstream)
    upstream.add_adapter("a", config="lora")
    upstream.set_active_adapters("a")
    assert torch.equal(upstream(tokens).last_hidden_state, expected)  # LoRA starts at nothing
    layer = upstream.layers[0]
    print(model_type, "init", type(layer).__module__, type(layer.self_attn).__module__)
    print(model_type, "auto", type(adapter_models.AutoAdapterModel.from_config(config)).__module__)
bert = AutoModel.from_config(CONFIG_MAPPING["bert"](vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32))
adapter_models.init(bert)
print("bert", type(bert.encoder.layer[0].attention.self).__module__)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    result = CliRunner().invoke(cli, ["add-model", *MODELS, "--output", str(folder / "my_adapters")])
    assert result.exit_code == 0, result.output
    return folder


def run(folder: Path, program: str) -> list[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=folder, env=environment
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.mark.parametrize(
    "imports",
    [
        pytest.param("import adapter_models, my_adapters", id="after the library"),
        pytest.param("import my_adapters, adapter_models", id="before the library"),
        pytest.param("import my_adapters as adapter_models, adapter_models as theirs", id="in its place"),
    ],
)
def test_init_and_the_auto_class_use_it_rather_than_the_library(folder: Path, imports: str) -> None:
    told = run(folder, PROGRAM.format(imports=imports, models=MODELS))
    for name in MODELS:
        modeling = f"my_adapters.{name}.modeling_{name}"
        assert f"{name} init {modeling} {modeling}" in told
        assert f"{name} auto my_adapters.{name}.adapter_model" in told
    assert told[-1] == "bert adapter_models.bert.modeling_bert"


def test_it_offers_what_the_library_offers_and_needs_nothing_of_it(folder: Path) -> None:
    program = (
        "import sys, my_adapters; from my_adapters import AutoAdapterModel, MistralAdapterModel, init;"
        "print(MistralAdapterModel.__module__, 'adapter_models' in sys.modules, hasattr(my_adapters, 'Nothing'))"
    )
    assert run(folder, program) == ["my_adapters.mistral.adapter_model False False"]


def test_it_stands_in_no_checkout_and_has_no_tests_and_no_pages(folder: Path) -> None:
    assert [path.name for path in folder.iterdir() if path.name != "__pycache__"] == ["my_adapters"]
    assert CliRunner().invoke(cli, ["check", "--output", str(folder / "my_adapters")]).exit_code == 0
