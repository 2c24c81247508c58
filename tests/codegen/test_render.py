"""Rendering: the literals, the paths, and mixins that are shared where they would be the same."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapter_codegen.emit.formatting import formatted
from adapter_codegen.emit.layout import CHECKOUT, PACKAGE
from adapter_codegen.emit.manifest import EMPTY, Manifest, dump, parse
from adapter_codegen.emit.mixin import literal, roles
from adapter_codegen.emit.render import MODEL_FILES, names_of, record_of, render_shared, sentence
from adapter_codegen.model import (
    AttentionKind,
    AttentionRoles,
    LayerPlan,
    Location,
    Method,
    MethodSupport,
    MLPRoles,
    ModelPlan,
)
from handmade import Handmade

PLACE = Location("models/mine/modeling_mine.py", 1, 0, 1, 0)


@pytest.fixture
def plan() -> ModelPlan:
    return Handmade("class Block: pass").plan()


def layer(name: str, first: str = "mlp.fc1") -> LayerPlan:
    return LayerPlan(name, PLACE, (), (), MLPRoles(first=(first,)))


@pytest.mark.parametrize("value", [None, True, 1, 0.5, "a'b", (), (1,), [1, "x"], {"a": (1, 2), "b": {}}])
def test_a_literal_reads_back_as_the_value(value: object) -> None:
    assert eval(literal(value)) == value


def test_what_has_no_certain_order_has_no_literal() -> None:
    with pytest.raises(TypeError):
        literal({"a", "b"})


def test_roles_state_only_what_is_there_but_always_the_first_field() -> None:
    assert roles(AttentionRoles(core="", kind=AttentionKind.SELF), "core") == "AttentionRoles(core='', kind='self')"


def test_layers_with_other_roles_get_mixins_of_their_own(plan: ModelPlan) -> None:
    names = names_of(replace(plan, layers=(layer("A"), layer("B", "mlp.up"))))
    assert names.mixins["B"] == "BAdaptersMixin"


def test_layers_with_the_same_roles_share_one_mixin(plan: ModelPlan) -> None:
    names = names_of(replace(plan, layers=(layer("A"), layer("B"))))
    assert [entry.class_name for entry in names.layers] == ["A"]
    assert names.mixins["A"] == names.mixins["B"] == "AAdaptersMixin"


def test_a_package_of_the_user_s_own_has_no_tests_and_no_docs() -> None:
    paths = PACKAGE.paths(MODEL_FILES, package="a_b", model_type="a-b")
    assert paths["mixin.py.jinja"] == "a_b/mixin_a_b.py"
    assert not any(path.startswith(("tests", "docs")) for path in paths.values())


def test_a_model_type_with_a_dash_has_a_package_with_an_underscore() -> None:
    paths = CHECKOUT.paths(MODEL_FILES, package="a_b", model_type="a-b")
    assert paths["docs/model.rst.jinja"] == "docs/classes/models/a-b.rst"
    assert paths["tests/test_model.py.jinja"] == "tests/generated/test_a_b.py"


def test_shared_files_rendered_now_and_from_the_manifest_read_back_agree(plan: ModelPlan) -> None:
    methods = tuple(MethodSupport(method, method is Method.LORA, "it is only a test") for method in Method)
    record = record_of(replace(plan, methods=methods), {"models/mine/modeling_mine.py": "0" * 64})
    manifest = parse(dump(Manifest("5.23.0", "0" * 64, {"mine": record}, {})))
    assert render_shared([record]) == render_shared(list(manifest.models.values()))


def test_shared_files_are_rendered_as_black_leaves_them(plan: ModelPlan) -> None:
    """So formatting them, of which some speak of every model, happens once and not again to see that it changes nothing."""
    methods = tuple(MethodSupport(method, True, "") for method in Method)
    record = record_of(replace(plan, methods=methods), {})
    names = ("mine", "a" * 40, "b" * 60)
    records = [replace(record, model_type=name, package=name, adapter_model=name.title()) for name in names]
    files = {path: text for path, text in render_shared(records).items() if path.endswith(".py")}
    assert [path for path, text in files.items() if formatted(path, text) != text] == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("As it is.", "As it is.", id="nothing to do"),
        pytest.param("in encoder.*.layers", r"in encoder.\*.layers", id="a star begins no emphasis"),
        pytest.param("of `a*_b_` and c_", r"of `a*_b_` and c\_", id="code stays as it is"),
        pytest.param("a ` alone", r"a \` alone", id="a backquote without its second"),
    ],
)
def test_a_sentence_on_a_page_is_plain_text_but_for_code(text: str, shown: str) -> None:
    assert sentence(text) == shown


def test_a_model_that_borrows_the_classes_of_another_is_called_after_its_own_config(plan: ModelPlan) -> None:
    borrower = replace(plan, config_module="transformers.models.loan.configuration_loan", config_class="LoanConfig")
    assert (names_of(plan).adapter_model, names_of(borrower).adapter_model) == ("MineAdapterModel", "LoanAdapterModel")


def test_an_empty_manifest_reads_back_as_itself() -> None:
    assert parse(dump(EMPTY)) == EMPTY
