"""The reference pages name everything that users can import, and the guide for those who come from `adapters` all of its names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import adapter_models
import adapter_runtime
from adapter_runtime.contract.registry import registered

DOCS = Path(__file__).resolve().parent.parent / "docs"
REFERENCE = "\n".join(
    path.read_text(encoding="utf-8")
    for path in sorted([*DOCS.glob("reference/*.md"), *DOCS.glob("classes/models/*.rst")])
)
GUIDE = (DOCS / "moving-from-adapters.md").read_text(encoding="utf-8")

# Documented under a submodule of ``adapter_models``, where `adapters` has it too.
SUBMODULE_PATHS = {"adapter_models.methods.lora.LoRALayer", "adapter_models.utils.resolve_adapter_config"}

# What ``adapters/__init__.py`` of release 1.3.0 exports.
OF_ADAPTERS = """
ADAPTERFUSION_CONFIG_MAP ADAPTER_CACHE ADAPTER_CONFIG_MAP ADAPTER_MODEL_MAPPING AdapterArguments AdapterCompositionBlock
AdapterConfig AdapterFusionConfig AdapterInfo AdapterLayerBase AdapterMethod AdapterModelInterface AdapterPlusConfig AdapterSetup
AdapterTrainer AdapterType AlbertAdapterModel AutoAdapterModel BartAdapterModel BatchSplit BeitAdapterModel BertAdapterModel
BertGenerationAdapterModel BertStyleMaskedLMHead BiaffineParsingHead BnConfig CLIPAdapterModel CausalLMHead ClassificationHead
CompacterConfig CompacterPlusPlusConfig ComposableAdapterLayerBase ConfigUnion DEFAULT_ADAPTERFUSION_CONFIG DEFAULT_ADAPTER_CONFIG
DebertaAdapterModel DebertaV2AdapterModel DependencyParsingOutput DiReftConfig DistilBertAdapterModel DoRAConfig DoubleSeqBnConfig
DoubleSeqBnInvConfig DvoRAConfig DynamicAdapterFusionConfig ElectraAdapterModel EmbeddingAdaptersMixin ForwardContext Fuse
GPT2AdapterModel GPTJAdapterModel IA3Config InvertibleAdaptersMixin InvertibleAdaptersWrapperMixin LlamaAdapterModel LoRAConfig
LoReftConfig MAMConfig MBartAdapterModel MT5AdapterModel MTLLoRAConfig MistralAdapterModel ModelAdaptersConfig ModelAdaptersMixin
ModelWithFlexibleHeadsAdaptersMixin ModelWithHeadsAdaptersMixin MultiHeadOutput MultiLabelClassificationHead MultiTask
MultiTaskConfig MultipleChoiceHead NoReftConfig PLBartAdapterModel ParBnConfig Parallel PredictionHead PrefixTuningConfig
PromptTuningConfig QuestionAnsweringHead ReftConfig RobertaAdapterModel Seq2SeqAdapterTrainer Seq2SeqLMHead SeqBnConfig
SeqBnInvConfig Split Stack StaticAdapterFusionConfig T5AdapterModel TaggingHead UniPELTConfig VeraConfig ViTAdapterModel
WhisperAdapterModel XLMRobertaAdapterModel XmodAdapterModel get_adapter_config_hash get_adapter_info init init_adapters_config
list_adapters load_model parse_composition setup_adapter_training validate_composition
"""


def names_in(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


def table_rows() -> dict[str, str]:
    """Name of `adapters` -> what the guide says about it."""
    section = GUIDE[GUIDE.index("## Every name of `adapters`") : GUIDE.index("Submodules that projects import from")]
    rows: dict[str, str] = {}
    for line in section.splitlines():
        if line.startswith("| `"):
            left, right = line.strip("|").split("|")
            rows |= dict.fromkeys(re.findall(r"`(\w+)`", left), right.strip())
    return rows


@pytest.mark.parametrize("name", adapter_models.__all__)
def test_a_reference_page_names_it(name: str) -> None:
    is_there = name in names_in(REFERENCE)
    assert is_there, f"add {name} to a page of docs/reference"


def test_reference_pages_show_paths_that_users_can_import() -> None:
    documented = re.findall(r"^\.\. auto(?!module)\w+:: (\S+)", REFERENCE, re.MULTILINE)
    assert len(documented) > 100
    for path in documented:
        house, name = path.split(".")[:2]
        is_public = name in {"adapter_models": adapter_models, "adapter_runtime": adapter_runtime}[house].__all__
        assert is_public or path in SUBMODULE_PATHS, f"no user imports {path}"


def test_the_guide_has_exactly_the_names_of_adapters() -> None:
    assert sorted(table_rows()) == sorted(OF_ADAPTERS.split())


def test_what_the_guide_calls_the_same_can_be_imported() -> None:
    same = {name for name, here in table_rows().items() if here.startswith("same")}
    assert len(same) > 70
    assert same <= set(adapter_models.__all__)


def test_what_the_guide_does_not_call_the_same_cannot() -> None:
    other = {name for name, here in table_rows().items() if not here.startswith("same")}
    generated = {
        dotted.rpartition(".")[2] for dotted in registered().adapter_models.values()
    }  # models may have been generated since
    assert not (other - generated) & set(adapter_models.__all__)


def test_all_guides_are_in_the_table_of_contents() -> None:
    contents = (DOCS / "index.md").read_text(encoding="utf-8")
    for page in DOCS.glob("*.md"):
        if page.stem != "index":
            assert re.search(rf"^{re.escape(page.stem)}$", contents, re.MULTILINE), page
