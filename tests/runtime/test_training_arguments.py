"""`AdapterArguments` on a command line, and what `setup_adapter_training` makes of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, HfArgumentParser, PreTrainedModel

from adapter_models import BertAdapterModel
from adapter_runtime.composition import Stack
from adapter_runtime.errors import AdapterFileError, InvalidConfigError
from adapter_runtime.methods.bottleneck.config import SeqBnConfig
from adapter_runtime.methods.lora.config import LoRAConfig
from adapter_runtime.training import AdapterArguments, TrainingSetupError, setup_adapter_training
from runtime_models import BERT, randomise


def model() -> PreTrainedModel:
    torch.manual_seed(0)
    return BertAdapterModel(BertConfig(**BERT))


def trained(model: PreTrainedModel) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def saved(folder: Path, name: str, config: str) -> Path:
    source = model()
    source.add_adapter(name, config)
    randomise(source, name)
    source.save_adapter(folder, name)
    return folder


def test_the_fields_are_those_of_adapters() -> None:
    fields = {field.name: field.default for field in dataclasses.fields(AdapterArguments)}
    assert fields == {
        "train_adapter": False,
        "load_adapter": "",
        "adapter_config": "seq_bn",
        "load_lang_adapter": None,
        "lang_adapter_config": None,
    }


def test_they_are_read_from_a_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    parser = HfArgumentParser(AdapterArguments)
    line = ["--train_adapter", "--adapter_config", "lora[r=4]", "--load_lang_adapter", "somewhere"]
    (read,) = parser.parse_args_into_dataclasses(line)
    assert read == AdapterArguments(True, "", "lora[r=4]", "somewhere", None)
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    assert "--lang_adapter_config" in capsys.readouterr().out
    assert parser.parse_args_into_dataclasses([]) == (AdapterArguments(),)


def test_a_new_adapter_is_added_and_trained() -> None:
    ours = model()
    args = AdapterArguments(train_adapter=True, adapter_config="lora[r=4]")
    names = setup_adapter_training(ours, args, "task", adapter_config_kwargs={"alpha": 2})
    assert names == ("task", None)
    assert ours.adapters_config.get("task") == LoRAConfig(r=4, alpha=2)
    assert ours.active_adapters == Stack("task")
    assert trained(ours) == {name for name, _ in ours.adapter_parameters("task")}


def test_an_adapter_that_is_there_is_trained_on() -> None:
    ours = model()
    ours.add_adapter("task", "lora")
    randomise(ours, "task")
    before = {name: parameter.clone() for name, parameter in ours.adapter_parameters("task")}
    setup_adapter_training(ours, AdapterArguments(train_adapter=True), "task")
    assert all(torch.equal(parameter, before[name]) for name, parameter in ours.adapter_parameters("task"))


def test_a_saved_adapter_is_loaded_with_the_config_of_its_files(tmp_path: Path) -> None:
    """As in `adapters`, where the config of the options, which has a default, does not matter then."""
    saved(tmp_path, "old", "lora[r=4]")
    ours = model()
    args = AdapterArguments(train_adapter=True, load_adapter=str(tmp_path))
    assert setup_adapter_training(ours, args, "task") == ("task", None)
    assert ours.adapters_config.get("task") == LoRAConfig(r=4)


def test_a_language_adapter_runs_first_and_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved(tmp_path, "en", "seq_bn[reduction_factor=4]")
    ours = model()
    args = AdapterArguments(train_adapter=True, load_lang_adapter=str(tmp_path), lang_adapter_config="seq_bn")
    with caplog.at_level("WARNING"):
        assert setup_adapter_training(ours, args, "task") == ("task", "en")
    assert "The files are right" in caplog.text
    assert ours.adapters_config.get("en") == SeqBnConfig(reduction_factor=4)
    assert ours.active_adapters == Stack("en", "task")
    assert trained(ours) == {name for name, _ in ours.adapter_parameters("task")}


def test_without_training_nothing_happens() -> None:
    ours = model()
    assert setup_adapter_training(ours, AdapterArguments(), "task") == (None, None)
    assert not ours.has_adapters()


@pytest.mark.parametrize("option", ["load_adapter", "load_lang_adapter"])
def test_loading_without_training_is_refused(option: str) -> None:
    with pytest.raises(TrainingSetupError, match="train_adapter=True"):
        setup_adapter_training(model(), AdapterArguments(**{option: "somewhere"}), "task")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        pytest.param({"adapter_config": "no_such_method"}, InvalidConfigError, id="an unknown config"),
        pytest.param({"load_adapter": "./nowhere"}, AdapterFileError, id="a missing folder"),
    ],
)
def test_an_error_leaves_the_model_as_it_was(options: dict[str, Any], error: type[Exception], tmp_path: Path) -> None:
    """Also after the language adapter was loaded."""
    saved(tmp_path, "en", "seq_bn")
    ours = model()
    keys, before = list(ours.state_dict()), trained(ours)
    with pytest.raises(error):
        setup_adapter_training(
            ours, AdapterArguments(train_adapter=True, load_lang_adapter=str(tmp_path), **options), "task"
        )
    assert list(ours.state_dict()) == keys
    assert trained(ours) == before
    assert not ours.has_adapters()


def test_both_adapters_need_names_of_their_own(tmp_path: Path) -> None:
    saved(tmp_path, "task", "seq_bn")
    args = AdapterArguments(train_adapter=True, load_lang_adapter=str(tmp_path))
    with pytest.raises(TrainingSetupError, match="both called 'task'"):
        setup_adapter_training(model(), args, "task")
