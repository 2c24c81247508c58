"""Heads that tell voices apart: what is recognised in upstream's code, and what is not."""

from __future__ import annotations

import pytest

from adapter_codegen.parse import parse_module
from adapter_codegen.plan.heads.forms.weighted import WeightedSum, read_weighted_sum
from adapter_codegen.plan.heads.forms.xvector import read_xvector
from adapter_codegen.plan.heads.logits.chain import Step, head_chain
from adapter_codegen.plan.heads.unclear import Unclear
from adapter_codegen.upstream import open_release

PATH = "models/wav2vec2/modeling_wav2vec2.py"
HEAD = "Wav2Vec2ForXVector"


def test_a_head_of_this_form_is_read() -> None:
    facts = parse_module(open_release().read(PATH), PATH)
    head = read_xvector(facts, facts.classes[HEAD], "Wav2Vec2Model")
    assert head is not None
    assert head.layers == ("projector", "tdnn.*.kernel", "feature_extractor", "classifier", None)
    assert head.tensors == (("objective.weight", "4.weight"),)
    assert dict(head.options) == {
        "tdnn_dim_key": "tdnn_dim",
        "tdnn_kernel_key": "tdnn_kernel",
        "tdnn_dilation_key": "tdnn_dilation",
        "xvector_output_dim_key": "xvector_output_dim",
        "scale": 30.0,
        "margin": 0.4,
    }
    assert head.frames == "_get_feat_extract_output_lengths"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("psi = cos_theta - self.margin", "psi = cos_theta + self.margin", id="another loss"),
        pytest.param("nn.functional.normalize(self.weight, dim=0)", "self.weight", id="vectors of any length"),
        pytest.param("dilation=self.dilation)", "dilation=1)", id="frames side by side"),
        pytest.param("self.activation = nn.ReLU()", "self.activation = nn.Tanh()", id="another activation"),
        pytest.param("std_features = hidden_states.std(dim=1)", "std_features = hidden_states.var(dim=1)", id="another statistic"),
        pytest.param("embeddings=output_embeddings", "embeddings=statistic_pooling", id="other vectors are given"),
        pytest.param("(input_length - kernel_size) // stride + 1\n\n        for kernel_size in self.config.tdnn", "(input_length - kernel_size) // stride\n\n        for kernel_size in self.config.tdnn", id="other lengths"),
        pytest.param("AMSoftmaxLoss(config.xvector_output_dim, config.num_labels)", "AMSoftmaxLoss(config.xvector_output_dim, config.voices)", id="as many voices as another field says"),
    ],
)  # fmt: skip
def test_a_head_of_another_form_is_not(old: str, new: str) -> None:
    text = open_release().read(PATH)
    assert old in text
    facts = parse_module(text.replace(old, new), PATH)
    assert read_xvector(facts, facts.classes[HEAD], "Wav2Vec2Model") is None


def test_a_weighted_sum_of_all_layers_is_read() -> None:
    facts = parse_module(open_release().read(PATH), PATH)
    found = read_weighted_sum(facts.classes[HEAD])
    assert found == WeightedSum(flag="use_weighted_layer_sum", weights="layer_weights")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("nn.functional.softmax(self.layer_weights, dim=-1)", "self.layer_weights", id="weights that do not add up to one"),
        pytest.param("norm_weights.view(-1, 1, 1)).sum(dim=1)", "norm_weights.view(-1, 1, 1)).mean(dim=1)", id="a mean"),
        pytest.param("hidden_states = outputs.hidden_states\n", "hidden_states = outputs.hidden_states[1:]\n", id="some of the layers"),
        pytest.param("num_layers = config.num_hidden_layers + 1", "num_layers = config.num_hidden_layers", id="a weight less"),
        pytest.param("num_layers = config.num_hidden_layers + 1", "num_layers = config.depth + 1", id="another number of layers"),
        pytest.param("if config.use_weighted_layer_sum", "if config.use_other_sum", id="another flag makes the weights"),
        pytest.param("nn.Parameter(torch.ones(num_layers)", "nn.Buffer(torch.ones(num_layers)", id="no parameter"),
    ],
)  # fmt: skip
def test_another_sum_is_not(old: str, new: str) -> None:
    before, class_line, after = open_release().read(PATH).partition(f"class {HEAD}")
    assert old in after
    facts = parse_module(before + class_line + after.replace(old, new), PATH)
    assert read_weighted_sum(facts.classes[HEAD]) is None


def test_what_stands_before_the_form_is_followed_back_to_the_base_model() -> None:
    facts = parse_module(open_release().read(PATH), PATH)
    chain = head_chain(facts, HEAD, "Wav2Vec2Model", "wav2vec2", "projector")
    assert [link.step for link in chain.links] == [Step.LINEAR]
    assert chain.requires == (("use_weighted_layer_sum", False),)
    assert not chain.reads


@pytest.mark.parametrize(
    "states",
    [
        pytest.param("torch.softmax(outputs.last_hidden_state, -1)", id="something else was done with the states"),
        pytest.param("outputs.extract_features", id="other states"),
    ],
)
def test_a_form_that_does_not_stand_on_the_hidden_states_has_no_way_back(states: str) -> None:
    before, class_line, after = open_release().read(PATH).partition(f"class {HEAD}")
    text = before + class_line + after.replace("outputs.last_hidden_state", states)
    with pytest.raises(Unclear):
        head_chain(parse_module(text, PATH), HEAD, "Wav2Vec2Model", "wav2vec2", "projector")
