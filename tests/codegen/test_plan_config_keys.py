"""What a config calls the values that the runtime reads from every config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from adapter_codegen.parse import AutoMappings, ModelEntry, ModuleFacts, parse_module
from adapter_codegen.plan.flow.kinds import Kinds
from adapter_codegen.plan.heads.config_keys import plan_config_keys
from adapter_codegen.plan.stream.lists.candidates import Candidates
from adapter_codegen.upstream import Release, open_release

MODEL = """
from torch import nn

class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads = config.n_heads
        self.key_value_heads = config.n_kv_heads
        self.dropout = config.attn_drop
    def forward(self, x):
        return nn.functional.scaled_dot_product_attention(x, x, x)

class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.attention = Attention(config)
        self.drop = nn.Dropout(config.drop_rate)

class TinyModel(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList([Layer(config)])
"""
FIELDS = "vocab_size width n_heads n_kv_heads attn_drop drop_rate"
OTHER = "models/other/configuration_other.py"


def keys(tmp_path: Path, body: str, base: str = "PreTrainedConfig", fields: str = FIELDS) -> dict[str, str]:
    lines = "".join(f"    {name}: int = 1\n" for name in fields.split())
    files = {
        "__init__.py": '__version__ = "1"',
        "models/auto/x": "",
        OTHER: "class OtherConfig(PreTrainedConfig):\n    hidden_size: int = 1\n",
        "models/tiny/configuration_tiny.py": "from ..other.configuration_other import OtherConfig\n"
        f"class TinyConfig({base}):\n{body}{lines}",
    }
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    entry = ModelEntry("tiny", "models/tiny/modeling_tiny.py", "TinyConfig", list(files)[-1], "TinyModel", {})
    facts = parse_module(MODEL, entry.path)
    return dict(plan_config_keys(open_release(tmp_path), entry, facts, Candidates(facts, Kinds(facts)).has_attention))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("    hidden_size: int = 1\n", id="a field of that name"),
        pytest.param('    attribute_map = {"hidden_size": "width"}\n', id="a name that is mapped"),
        pytest.param("    @property\n    def hidden_size(self): return 1\n", id="a property"),
        pytest.param("    def __post_init__(self):\n        self.hidden_size = self.width * 2\n", id="worked out"),
    ],
)
def test_a_config_that_answers_to_our_name_needs_no_entry(tmp_path: Path, body: str) -> None:
    assert "hidden_size" not in keys(tmp_path, body)


def test_a_field_of_a_config_in_another_file_is_inherited(tmp_path: Path) -> None:
    assert "hidden_size" not in keys(tmp_path, "", base="OtherConfig")


BEHIND = """
class Decoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.norm = nn.BatchNorm2d(config.behind)
"""


@pytest.mark.parametrize(
    ("held", "found"),
    [
        pytest.param("self.layers = nn.ModuleList([Layer(config)])", "", id="of a class that the model does not hold"),
        pytest.param("self.layers = nn.ModuleList([Decoder(config)])", "behind", id="of one that it holds"),
    ],
)
def test_the_width_is_of_what_the_base_model_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: str, found: str
) -> None:
    """Segformer's decoder of maps has a width of its own, its stages one each."""
    embedding, layers = MODEL.splitlines()[-2:]
    text = BEHIND + MODEL.replace(embedding, "").replace(layers.strip(), held)
    monkeypatch.setitem(globals(), "MODEL", text)
    assert keys(tmp_path, "", fields=f"{FIELDS} behind").get("hidden_size", "") == found


def test_a_field_that_the_config_does_not_have_is_not_named(tmp_path: Path) -> None:
    assert keys(tmp_path, "", fields="vocab_size") == {}


def test_fields_are_found_by_what_is_built_with_them(tmp_path: Path) -> None:
    assert keys(tmp_path, "") == {
        "num_attention_heads": "n_heads",
        "hidden_size": "width",
        "hidden_dropout_prob": "drop_rate",
        "attention_probs_dropout_prob": "attn_drop",
    }


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [
        ("bert", {}),
        ("gpt2", {"hidden_dropout_prob": "resid_pdrop", "attention_probs_dropout_prob": "attn_pdrop"}),
        ("bart", {"hidden_dropout_prob": "dropout", "attention_probs_dropout_prob": "attention_dropout"}),
        ("t5", {"hidden_dropout_prob": "dropout_rate", "attention_probs_dropout_prob": "dropout_rate"}),
        ("owlvit", {}),  # norms are built with `config.vision_config.hidden_size`
        ("pe_audio_video", {}),  # `audio_config` is a property
        # not `normalize_router_prob_before_dropping`, which is true or false
        (
            "nllb-moe",
            {"hidden_dropout_prob": "moe_token_dropout", "attention_probs_dropout_prob": "attention_dropout"},
        ),
        # not that of the features, which comes first in the file
        (
            "wav2vec2",
            {"hidden_dropout_prob": "hidden_dropout", "attention_probs_dropout_prob": "attention_dropout"},
        ),
        # the only dropout that Llama has
        ("llama", {"hidden_dropout_prob": "attention_dropout", "attention_probs_dropout_prob": "attention_dropout"}),
    ],
)
def test_upstream_configs(
    release: Release,
    mappings: AutoMappings,
    upstream_facts: Callable[[str], ModuleFacts],
    model_type: str,
    expected: dict[str, str],
) -> None:
    facts = upstream_facts(model_type)
    has_attention = Candidates(facts, Kinds(facts)).has_attention
    assert dict(plan_config_keys(release, mappings.entry(model_type), facts, has_attention)) == expected
