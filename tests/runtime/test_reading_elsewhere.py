"""Checkpoints of classes that hold a model elsewhere than the adapter model, or that do not have a part of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from torch import nn
from torch.testing import assert_close
from transformers import PreTrainedConfig, PreTrainedModel

from adapter_models import AdapterMismatchError, AutoAdapterModel, init
from adapter_runtime.files.api.elsewhere import moved, tied
from conformance.tiny import tiny_config


class _Model(PreTrainedModel):
    config_class = PreTrainedConfig

    def __init__(self, **inside: nn.Module) -> None:
        super().__init__(PreTrainedConfig())
        for name, module in inside.items():
            setattr(self, name, module)


class Text(_Model):
    """A model of one kind, of some width."""

    def __init__(self, width: int = 2, **inside: nn.Module) -> None:
        super().__init__(dense=nn.Linear(width, width), **inside)


class Layers(_Model):
    """A model that stands in others."""

    def __init__(self) -> None:
        super().__init__(dense=nn.Linear(3, 3))


class Whole(_Model):
    """What holds models."""


class Other(_Model):
    """What holds models, too."""


@pytest.mark.parametrize(
    ("base", "writer", "expected"),
    [
        pytest.param(Whole(text=Text()), Other(text=Text()), {}, id="no: it is where it was"),
        pytest.param(Whole(text=Text()), Other(base=Whole(text=Text())), {}, id="no: upstream knows the prefix"),
        pytest.param(Whole(text=Text()), Other(one=Text(), two=Text()), {}, id="no: there are two of its kind"),
        pytest.param(Whole(a=Text(), b=Text()), Other(one=Text()), {}, id="no: two lack, and there is one"),
        pytest.param(Whole(text=Text()), Other(one=Text(width=3)), {}, id="no: of another size"),
        pytest.param(Whole(text=Text()), Other(one=Text(pooler=nn.Linear(2, 2))), {}, id="no: with one tensor more"),
        pytest.param(Whole(text=nn.Linear(2, 2)), Other(one=nn.Linear(2, 2)), {}, id="no: a projection is no model"),
        pytest.param(
            Whole(text=Text(layers=Layers())),
            Other(one=Text(width=3, layers=Layers())),
            {},
            id="no: what stands in a model of another size belongs to that",
        ),
        pytest.param(
            Whole(decoder=Layers(), units=Text(layers=Layers())),
            Text(width=3, layers=Layers()),
            {},
            id="no: the inside of a model of another size is not another model of the base",
        ),
        pytest.param(
            Whole(text=Text()), Other(text=Text(), one=Text()), {}, id="no: what is read has no need of a second one"
        ),
        pytest.param(Whole(text=Text()), Other(one=Text()), {"one": "base.text"}, id="under another name"),
        pytest.param(
            Whole(text=Text()),
            Other(text=Other(model=Text())),
            {"text.model": "base.text"},
            id="in a model with a head",
        ),
        pytest.param(
            Whole(text=Text(pooler=nn.Linear(2, 2))), Other(one=Text()), {}, id="no: with one tensor less, in it"
        ),
        pytest.param(Whole(text=Text()), Text(pooler=nn.Linear(2, 2)), {}, id="no: the class has more by itself"),
        pytest.param(
            Whole(a=Text(pooler=nn.Linear(2, 2)), b=Text(pooler=nn.Linear(2, 2))),
            Text(),
            {},
            id="no: two are the class with more",
        ),
        pytest.param(
            Whole(text=Text(width=3, pooler=nn.Linear(2, 2))), Text(), {}, id="no: of another size, and with more"
        ),
        pytest.param(Whole(text=Text()), Text(), {"": "base.text"}, id="it is all that the class has"),
        pytest.param(
            Whole(text=Text(pooler=nn.Linear(2, 2))),
            Text(),
            {"": "base.text"},
            id="it is all that the class has, and what holds it has given it more",
        ),
        pytest.param(
            Whole(text=Text(layers=Layers())),
            Other(one=Text(layers=Layers())),
            {"one": "base.text"},
            id="with the model in it, once",
        ),
        pytest.param(
            Whole(text=Text(layers=Layers())),
            Other(one=Layers()),
            {"one": "base.text.layers"},
            id="a model in a model",
        ),
        pytest.param(
            Whole(text=Text(), layers=Layers()),
            Other(one=Text(), two=Layers()),
            {"one": "base.text", "two": "base.layers"},
            id="two of two kinds",
        ),
    ],
)
def test_which_models_are_elsewhere(base: PreTrainedModel, writer: PreTrainedModel, expected: dict[str, str]) -> None:
    assert moved(base, writer, "base") == expected


def _tying(*names: str) -> PreTrainedModel:
    """A class with a table of tokens, whose tensor projections of these names have too."""
    whole = Whole(
        base=Whole(table=nn.Embedding(4, 2)), head=nn.Linear(2, 4, bias=False), other=nn.Linear(2, 4, bias=False)
    )
    for name in names:
        whole.get_submodule(name).weight = whole.base.table.weight
    return whole


@pytest.mark.parametrize(
    ("names", "left_over", "expected"),
    [
        pytest.param(["head"], {"head.weight"}, {"head.weight": "base.table.weight"}, id="yes"),
        pytest.param(["head"], {"other.weight"}, {}, id="no: what is left over is no part of it"),
        pytest.param(["head"], set(), {}, id="no: the head has a place"),
        pytest.param([], {"head.weight"}, {}, id="no: not tied"),
        pytest.param(["head", "other"], {"head.weight", "other.weight"}, {}, id="no: saved twice"),
    ],
)
def test_a_tensor_is_read_from_the_other_name_that_it_has(
    names: list[str], left_over: set[str], expected: dict[str, str]
) -> None:
    assert tied(_tying(*names), "base", left_over, {"base.table.weight"}) == expected
    assert tied(_tying(*names), "base", left_over, set()) == {}


def test_a_base_model_whose_class_is_made_at_run_time_is_found_in_another_class(tmp_path: Path) -> None:
    """Moshi's, which nothing is generated for but the names of its roles, in the model that also speaks."""
    model = transformers.MoshiForConditionalGeneration(tiny_config("moshi"))
    model.save_pretrained(tmp_path)
    read, info = AutoAdapterModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not {key for key in info["missing_keys"] if key.startswith("model.")}
    assert torch.equal(read.model.layers[0].mlp.fc1.weight, model.decoder.model.layers[0].mlp.fc1.weight)


def test_the_embeddings_of_a_class_that_saves_them_as_its_head_are_read(tmp_path: Path) -> None:
    model = transformers.OpenAIGPTDoubleHeadsModel(tiny_config("openai-gpt"))
    model.save_pretrained(tmp_path)
    read, info = AutoAdapterModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert torch.equal(read.transformer.tokens_embed.weight, model.transformer.tokens_embed.weight)
    read.save_pretrained(tmp_path / "again")
    again = AutoAdapterModel.from_pretrained(tmp_path / "again")
    assert torch.equal(again.transformer.tokens_embed.weight, model.transformer.tokens_embed.weight)


@pytest.mark.parametrize(
    ("architecture", "theirs", "ours"),
    [
        pytest.param("DPRContextEncoder", "ctx_encoder", "question_encoder", id="under another name"),
        pytest.param("DPRReader", "span_predictor.encoder", "question_encoder", id="with a head around it"),
        pytest.param(
            "InstructBlipForConditionalGeneration",
            "language_model.model",
            "language_model",
            id="in a model with a head",
        ),
        pytest.param("PPFormulaNetModel", "", "model", id="all of it, where our base model is the class with a head"),
    ],
)
def test_a_model_that_is_elsewhere_is_read(architecture: str, theirs: str, ours: str, tmp_path: Path) -> None:
    upstream = written(architecture, tmp_path)
    model = AutoAdapterModel.from_pretrained(tmp_path)
    read = model.base_model.get_submodule(ours)
    assert_close(
        dict(read.state_dict()), dict(upstream.get_submodule(theirs).state_dict()), rtol=0.0, atol=0.0, msg=str
    )
    model.save_pretrained(tmp_path / "again")  # under its own names
    again, info = AutoAdapterModel.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not any(info.values())
    assert_close(dict(again.state_dict()), dict(model.state_dict()), rtol=0.0, atol=0.0)


@pytest.mark.parametrize(
    ("architecture", "part"),
    [
        pytest.param("T5EncoderModel", "transformer.decoder", id="the encoder alone"),
        pytest.param("WhisperForCausalLM", "model.encoder", id="the decoder alone, without a flexible head"),
        pytest.param("BlipForQuestionAnswering", "blip.text_model", id="two models of a kind, of which it is none"),
        pytest.param("Blip2ForImageTextRetrieval", "blip.language_model", id="a model that the class does not have"),
        pytest.param("SeamlessM4TForTextToText", "seamless_m4t.vocoder", id="what upstream does not report"),
    ],
)
def test_a_checkpoint_without_a_part_is_refused_unless_asked_for(
    architecture: str, part: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    upstream = written(architecture, tmp_path)
    with pytest.raises(AdapterMismatchError) as refused:
        AutoAdapterModel.from_pretrained(tmp_path)
    message = str(refused.value)
    assert f"    {part}\n" in message
    assert f"adapter_models.init({architecture}.from_pretrained(...))" in message
    assert "allow_random_parts=True" in message
    AutoAdapterModel.from_pretrained(tmp_path, allow_random_parts=True)
    (told,) = (one for one in caplog.messages if "random values" in one)
    assert part in told
    init(upstream)  # what the message says


@pytest.mark.parametrize(
    ("architecture", "part"),
    [
        pytest.param("WhisperForAudioClassification", "model.decoder", id="its head runs without"),
        pytest.param("BertForMaskedLM", "bert.pooler", id="no layers: a pooler"),
        pytest.param("PPFormulaNetModel", "model.lm_head", id="no layers: a projection"),
    ],
)
def test_what_is_random_is_named_where_the_rest_can_be_used(
    architecture: str, part: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written(architecture, tmp_path)
    AutoAdapterModel.from_pretrained(tmp_path)
    (told,) = (one for one in caplog.messages if "random values" in one)
    assert f"nothing of {part}, which" in told
    assert ("does not run them" in told) == (architecture != "PPFormulaNetModel")


def test_nothing_is_random_where_tensors_are_tied(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written("T5ForConditionalGeneration", tmp_path)
    AutoAdapterModel.from_pretrained(tmp_path)
    assert "random values" not in caplog.text


def test_nothing_is_said_of_adapters_that_the_config_names_and_the_file_does_not_have(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = AutoAdapterModel.from_config(tiny_config("bert"))
    model.add_adapter("a")
    model.save_pretrained(tmp_path)
    state = {name: tensor for name, tensor in model.state_dict().items() if ".adapters." not in name}
    caplog.clear()
    again, info = type(model).from_pretrained(
        None, config=transformers.AutoConfig.from_pretrained(tmp_path), state_dict=state, output_loading_info=True
    )
    assert info["missing_keys"] and set(again.adapters_config.adapters) == {"a"}
    assert "random values" not in caplog.text


def test_who_gives_no_tensors_gets_random_ones() -> None:
    model = AutoAdapterModel.from_config(tiny_config("bert"))
    again = type(model).from_pretrained(None, config=model.config, state_dict={})
    assert again.state_dict().keys() == model.state_dict().keys()


def written(architecture: str, folder: Path) -> PreTrainedModel:
    """A model of upstream's class, whose checkpoint is in `folder`."""
    torch.manual_seed(0)
    cls = getattr(transformers, architecture)
    model: PreTrainedModel = cls(tiny_config(cls.config_class.model_type))
    model.save_pretrained(folder)
    return model.eval()
