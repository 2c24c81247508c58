"""Upstream's auto tables, read as text."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapter_codegen.diagnostics.errors import CodegenError
from adapter_codegen.parse import AutoMappings, read_auto_mappings
from adapter_codegen.parse.literals import UnreadableTable, read_tables
from adapter_codegen.upstream import open_release


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("T = {k: v for k, v in pairs}", id="a comprehension"),
        pytest.param("T = OrderedDict([(k, v) for k, v in pairs])", id="a comprehension in a list"),
        pytest.param("T = make_table()", id="a call of a function"),
        pytest.param('T = {"a": "b"} | OTHER', id="an operation"),
        pytest.param("T = UNKNOWN", id="a name that is no table"),
        pytest.param('T = {"a": f"b"}', id="an f-string"),
        pytest.param('T = {"a": "b\\n"}', id="an escape"),
        pytest.param('T = ["a", "b"]', id="a list that holds no pairs"),
        pytest.param('T = {"a": "b"}\nT.update(more())', id="an update by something unknown"),
    ],
)
def test_a_table_that_is_no_display_of_strings_is_not_guessed_at(text: str) -> None:
    assert isinstance(read_tables(text + "\n", {})["T"], UnreadableTable)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param('T = {"a": "b"}', {"a": "b"}, id="dict"),
        pytest.param('T: dict[str, str] = {"a": "b"}', {"a": "b"}, id="annotated"),
        pytest.param('T = OrderedDict([("a", "b"), ("c", "d")])', {"a": "b", "c": "d"}, id="ordered dict"),
        pytest.param('T = OrderedDict[str, str]([("a", "b")])', {"a": "b"}, id="ordered dict with types"),
        pytest.param('T = OrderedDict(\n  [\n    # why\n    ("a", "b"),\n  ]\n)', {"a": "b"}, id="over lines"),
        pytest.param('T = {"a": ("b", "c")}', {"a": ("b", "c")}, id="several classes in a tuple"),
        pytest.param('T = {"a": ["b", "c"]}', {"a": ("b", "c")}, id="several classes in a list"),
        pytest.param('T = {"a": ("b",)}', {"a": ("b",)}, id="one class in a tuple"),
        pytest.param('T = {"a": ("b")}', {"a": "b"}, id="parentheses are no tuple"),
        pytest.param('T = {"a": "b" "c"}', {"a": "bc"}, id="adjacent strings"),
        pytest.param('T = {"a": None}', {"a": None}, id="none"),
        pytest.param('O = {"a": "b"}\nT = {**O, "c": "d"}', {"a": "b", "c": "d"}, id="unpacked in a dict"),
        pytest.param(
            'O = {"a": "b"}\nT = OrderedDict(**{"c": "d"}, **O)', {"c": "d", "a": "b"}, id="unpacked in a call"
        ),
        pytest.param('O = {"a": "b"}\nT = OrderedDict([*O.items(), ("c", "d")])', {"a": "b", "c": "d"}, id="items"),
        pytest.param('O = {"a": "b"}\nT = OrderedDict([*list(O.items())])', {"a": "b"}, id="list of items"),
        pytest.param('T = {"a": "b"}\nT.update({"a": "x", "c": "d"})', {"a": "x", "c": "d"}, id="update"),
        pytest.param('T = {"a": "b"}\ndef f():\n    T = {}\n', {"a": "b"}, id="a local name is another name"),
    ],
)
def test_a_table_is_read_as_python_would(text: str, expected: dict[str, object]) -> None:
    assert read_tables(text + "\n", {})["T"] == expected


def test_tables_of_an_imported_module_can_be_updated_without_changing_them() -> None:
    known = {"T": {"a": "b"}}
    assert read_tables('T.update({"c": "d"})\n', known)["T"] == {"a": "b", "c": "d"}
    assert known == {"T": {"a": "b"}}


def make_release(root: Path, modeling_auto: str, files: dict[str, str]) -> AutoMappings:
    auto = {
        "__init__.py": '__version__ = "9.8.7"\n',
        "models/auto/configuration_auto.py": 'SPECIAL_MODEL_TYPE_TO_MODULE_NAME = {"odd-one": "tiny"}\n'
        'CONFIG_MAPPING_NAMES = {"tiny": "TinyConfig", "odd-one": "OddConfig", "loan": "TinyConfig", "bare": "BareConfig"}\n',
        "models/auto/modeling_auto.py": modeling_auto,
    }
    for path, text in {**auto, **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return read_auto_mappings(open_release(root))


TABLES = """
MODEL_MAPPING_NAMES = {"tiny": ("TinyModel", "TinyOther"), "odd-one": "OddModel", "loan": ("TinyModel", "TinyOther"), "lost": "Lost"}
MODEL_FOR_MASKED_LM_MAPPING_NAMES = {"tiny": "TinyForMaskedLM"}
"""
FILES = {
    "models/tiny/modeling_tiny.py": "\nclass TinyModel(X): ...\n",
    "models/tiny/modeling_odd.py": "\nclass OddModelOutput(X): ...\nclass OddModel(X): ...\n",
    "models/tiny/configuration_tiny.py": "\nclass TinyConfig(X): ...\n",
    "models/tiny/configuration_odd.py": "\nclass OddConfig(X): ...\n",
}


@pytest.fixture
def tiny(tmp_path: Path) -> AutoMappings:
    return make_release(tmp_path, TABLES, FILES)


def test_an_unknown_model_type_is_refused_with_the_nearest_names(mappings: AutoMappings) -> None:
    with pytest.raises(CodegenError, match="'lama'") as error:
        mappings.entry("lama")
    assert error.value.diagnostics[0].code == "U110"
    assert "llama" in error.value.diagnostics[0].remedy


def test_nothing_like_it_is_known(mappings: AutoMappings) -> None:
    with pytest.raises(CodegenError) as error:
        mappings.entry("zzzzzzzz")
    assert "adapter-codegen list" in error.value.diagnostics[0].remedy


def test_a_config_without_a_base_model_is_told_from_an_unknown_name(tiny: AutoMappings) -> None:
    with pytest.raises(CodegenError, match="a config but no base model"):
        tiny.entry("bare")


def test_a_base_model_that_no_file_defines_is_an_error(tiny: AutoMappings) -> None:
    with pytest.raises(CodegenError, match="defines Lost") as error:
        tiny.entry("lost")
    assert error.value.diagnostics[0].code == "U112"


def test_a_base_model_that_no_file_defines_does_not_hide_its_neighbours(tmp_path: Path) -> None:
    tables = TABLES.replace('"lost": "Lost"', '"tiny_lost": "Lost"')
    mappings = make_release(tmp_path, tables, {**FILES, "models/tiny_lost/modeling_tiny_lost.py": ""})
    assert mappings.model_types_of("models/tiny_lost/modeling_tiny_lost.py") == ()
    assert mappings.model_types_of("models/tiny/modeling_odd.py") == ("odd-one",)


@pytest.mark.parametrize("table", ["MODEL_MAPPING_NAMES = build()\n", ""])
def test_a_missing_or_computed_table_is_an_error_that_names_it(tmp_path: Path, table: str) -> None:
    with pytest.raises(CodegenError, match="MODEL_MAPPING_NAMES") as error:
        make_release(tmp_path, table, {})
    assert error.value.diagnostics[0].code == "U111"


def test_a_model_type_may_stand_in_another_folder_under_another_file_name(tiny: AutoMappings) -> None:
    entry = tiny.entry("odd-one")
    assert entry.path == "models/tiny/modeling_odd.py"
    assert entry.module == "transformers.models.tiny.modeling_odd"
    assert entry.config_module == "transformers.models.tiny.configuration_odd"


def test_a_model_type_may_borrow_a_whole_model(tiny: AutoMappings) -> None:
    entry = tiny.entry("loan")
    assert (entry.path, entry.config_path) == (tiny.entry("tiny").path, tiny.entry("tiny").config_path)
    assert entry.heads == {}
    assert tiny.model_types_of("models/tiny/modeling_tiny.py") == ("loan", "tiny")


@pytest.mark.parametrize("asked", ["llama", "xlm-roberta", "gpt2"])
def test_a_known_name_is_nearest_to_itself(mappings: AutoMappings, asked: str) -> None:
    assert mappings.nearest(asked)[0] == asked


def test_hyphens_and_underscores_are_the_same_to_nearest(mappings: AutoMappings) -> None:
    assert mappings.nearest("xlm_roberta")[0] == "xlm-roberta"


@pytest.mark.parametrize(
    ("model_type", "base", "path", "task", "head"),
    [
        ("llama", "LlamaModel", "llama/modeling_llama", "causal_lm", "LlamaForCausalLM"),
        ("bert", "BertModel", "bert/modeling_bert", "masked_lm", "BertForMaskedLM"),
        ("xlm-roberta", "XLMRobertaModel", "xlm_roberta/modeling_xlm_roberta", "causal_lm", "XLMRobertaForCausalLM"),
        (
            "data2vec-text",
            "Data2VecTextModel",
            "data2vec/modeling_data2vec_text",
            "causal_lm",
            "Data2VecTextForCausalLM",
        ),
        ("whisper", "WhisperModel", "whisper/modeling_whisper", "speech_seq_2_seq", "WhisperForConditionalGeneration"),
    ],
)
def test_upstream_model_types(
    mappings: AutoMappings, model_type: str, base: str, path: str, task: str, head: str
) -> None:
    entry = mappings.entry(model_type)
    assert entry.base_class == base
    assert entry.path == f"models/{path}.py"
    assert entry.heads[task] == (head,)
    assert model_type in mappings.model_types_of(entry.path)


def test_every_model_type_of_the_installed_release_has_its_files(mappings: AutoMappings) -> None:
    entries = [mappings.entry(model_type) for model_type in mappings.model_types]
    assert len(entries) > 500
    assert [entry.model_type for entry in entries if entry.config_class and not entry.config_path] == []


def test_some_value_has_several_classes(mappings: AutoMappings) -> None:
    assert len(mappings.bases["funnel"]) == 2
    assert mappings.entry("funnel").base_class == "FunnelModel"


BORROWED = """
MODEL_MAPPING_NAMES = {"tiny": ("TinyModel", "TinyOther"), "odd-one": "OddModel"}
MODEL_FOR_MASKED_LM_MAPPING_NAMES = {"tiny": "TinyForMaskedLM", "loan": "TinyForMaskedLM", "bare": "BareForMaskedLM"}
MODEL_FOR_PRETRAINING_MAPPING_NAMES = {"tiny": "Shared", "odd-one": "Shared", "lost": "Shared"}
"""


def test_a_type_that_borrows_a_class_with_a_head_has_the_base_model_inside_of_it(tmp_path: Path) -> None:
    heads = "\nclass TinyForMaskedLM(X): ...\nclass BareForMaskedLM(X): ...\nclass Shared(X): ...\n"
    mappings = make_release(
        tmp_path, BORROWED, {**FILES, "models/tiny/modeling_tiny.py": FILES["models/tiny/modeling_tiny.py"] + heads}
    )
    assert (mappings.entry("loan").base_class, mappings.entry("loan").has_base) == ("TinyModel", True)
    assert mappings.entry("loan").heads == {"masked_lm": ("TinyForMaskedLM",)}
    # Near misses: a class that no other type has, one of two other types, of which either may be the lender.
    assert (mappings.entry("bare").base_class, mappings.entry("bare").has_base) == ("BareForMaskedLM", False)
    assert (mappings.entry("lost").base_class, mappings.entry("lost").has_base) == ("Shared", False)
