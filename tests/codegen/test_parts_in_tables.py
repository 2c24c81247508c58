"""Which parts of a model take which method: in the table of all models, on the page of one, and in `list`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest

from adapter_codegen.commands.show.console import Console
from adapter_codegen.commands.show.list_view import SHOW
from adapter_codegen.emit.layout import PACKAGE
from adapter_codegen.emit.manifest import Manifest, ModelRecord, dump, parse
from adapter_codegen.emit.parts import PartRow, mark_of, parts_of_plan, parts_of_record
from adapter_codegen.emit.render import record_of, render_shared
from adapter_codegen.inspect.listing import Entry, Status
from adapter_codegen.model import LEFT_TO_PARTS, Location, Making, Method, MethodSupport, PartPlan
from handmade import Handmade

PLACE = Location("models/mine/modeling_mine.py", 1, 0, 1, 0)
LORA = {method.value: "" if method is Method.LORA else "It is only a test." for method in Method}
ALL = {method.value: "" for method in Method}


def record(
    model_type: str,
    base_class: str,
    parts: Mapping[str, str] | None = None,
    module: str = "",
    methods: Mapping[str, str] = LORA,
    towers: Mapping[str, Mapping[str, str]] | None = None,
) -> ModelRecord:
    plan = replace(
        Handmade("class Block: pass").plan(), methods=tuple(MethodSupport(method, True, "") for method in Method)
    )
    return replace(
        record_of(plan, {}),
        model_type=model_type,
        package=model_type,
        adapter_model=f"{base_class}AdapterModel",
        base_class=base_class,
        module=f"transformers.models.{module or model_type}",
        methods=methods,
        parts=parts or {},
        towers=towers or {},
    )


def rows(*records: ModelRecord) -> tuple[PartRow, ...]:
    """The parts of the first."""
    return parts_of_record(records[0], {one.model_type: one for one in records})


# What a part is


def test_a_class_that_is_known_when_a_model_is_built_is_open_whatever_is_generated() -> None:
    whole = record("whole", "Whole", {"text": ""})
    assert rows(whole, record("any", "")) == (PartRow("text", ""),)
    (row,) = rows(whole)
    assert row.is_open
    assert not row.supports(Method.LORA)


def test_an_open_part_names_what_stands_there_by_default_where_that_is_generated() -> None:
    whole = replace(record("whole", "Whole", {"text": "", "image": ""}), usual_parts={"text": "any"})
    assert [row.usual_type for row in rows(whole, record("any", "AnyModel"))] == ["any", ""]
    assert [row.usual_type for row in rows(whole)] == ["", ""]
    page = render_shared([whole, record("any", "AnyModel")])["docs/classes/models/parts/whole.rst"]
    assert (
        "any of :doc:`these </classes/models/index>`, by default :doc:`any </classes/models/any>`\n     - open" in page
    )
    assert "any of :doc:`these </classes/models/index>`\n     - open" in page


def test_a_class_that_nobody_generated_takes_nothing() -> None:
    (row,) = rows(record("whole", "Whole", {"text": "TextModel"}), record("other", "OtherModel"))
    assert (row.is_open, row.model_type, row.methods) == (False, "", None)
    assert not any(row.supports(method) for method in Method)


def test_the_base_model_of_a_type_takes_what_that_type_does() -> None:
    (row,) = rows(record("whole", "Whole", {"text": "TextModel"}, methods=ALL), record("text", "TextModel"))
    assert (row.model_type, row.methods) == ("text", LORA)
    assert [method for method in Method if row.supports(method)] == [Method.LORA]


def test_a_class_of_the_same_file_comes_before_one_of_this_name_elsewhere() -> None:
    near = record("near", "TextModel", module="whole")
    far = record("far", "TextModel", methods=ALL)
    (row,) = rows(record("whole", "Whole", {"text": "TextModel"}), far, near)
    assert row.model_type == "near"


def test_of_two_classes_of_one_name_elsewhere_none_is_taken() -> None:
    whole = record("whole", "Whole", {"text": "TextModel"})
    (row,) = rows(whole, record("one", "TextModel"), record("two", "TextModel"))
    assert (row.model_type, row.methods) == ("", None)


def test_a_tower_of_the_same_file_has_methods_of_its_own_and_no_page() -> None:
    towers = {"transformers.models.whole.VisionModel": LORA}
    (row,) = rows(record("whole", "Whole", {"vision": "VisionModel"}, methods=ALL, towers=towers))
    assert (row.model_type, row.methods) == ("", LORA)


def test_a_tower_of_another_file_is_told_on_the_page_of_that() -> None:
    towers = {"transformers.models.other.VisionModel": LORA}
    whole, other = record("whole", "Whole", {"vision": "VisionModel"}), record("other", "Other", towers=towers)
    (row,) = rows(whole, other)
    assert (row.model_type, row.methods) == ("other", LORA)
    (row,) = rows(whole, other, record("third", "Third", towers={"transformers.models.third.VisionModel": ALL}))
    assert (row.model_type, row.methods) == ("", None)


def test_a_plan_says_the_same_as_its_record() -> None:
    plan = Handmade("class Block: pass").plan()
    models = (
        PartPlan("vision", Making.AUTO, PLACE, usual_type="text"),
        PartPlan("text", Making.OWN, PLACE, class_name="TextModel"),
        PartPlan("codec", Making.OWN, PLACE, class_name="Codec", near_miss="It has no layers."),
        PartPlan("blocks", Making.OWN, PLACE, class_name="Blocks", is_stack=True),
    )
    plan = replace(plan, base=replace(plan.base, models=models))
    own = record_of(plan, {})
    assert own.parts == {"vision": "", "text": "TextModel"}
    assert own.usual_parts == {"vision": "text"}
    records = {"text": record("text", "TextModel")}
    assert parts_of_plan(plan, records) == parts_of_record(own, records)
    assert [row.path for row in parts_of_plan(plan, records)] == ["vision", "text"]


def test_the_manifest_keeps_parts_where_there_are_some() -> None:
    whole, plain = record("whole", "Whole", {"text": "", "vision": "VisionModel"}), record("plain", "Plain")
    text = dump(Manifest("5.23.0", "", {"whole": whole, "plain": plain}, {}))
    assert parse(text).models["whole"].parts == whole.parts
    assert "parts" not in json.loads(text)["models"]["plain"]


def test_a_method_is_open_where_the_models_that_were_tried_inside_refuse_it() -> None:
    """Not where it is refused anyway, nor where another restriction holds."""
    left = {Method.LORA.value: LEFT_TO_PARTS, Method.REFT.value: LEFT_TO_PARTS}
    whole = replace(record("whole", "Whole", {"a": ""}, methods=LORA), restrictions=left)
    assert (mark_of(whole, Method.LORA), mark_of(whole, Method.REFT)) == ("open", "no")
    assert mark_of(replace(whole, restrictions={Method.LORA.value: "Only with a mask."}), Method.LORA) == "yes"
    table = render_shared([whole])["docs/classes/models/overview.rst"]
    lines = [line.strip() for line in table.splitlines()]
    first = lines.index("* - :doc:`whole </classes/models/whole>`")
    assert lines[first + 1 : first + 7] == [f"- {'open' if method is Method.LORA else 'no'}" for method in Method]


# What is shown


def test_the_table_has_a_row_for_each_part_and_links_to_what_is_generated() -> None:
    files = render_shared(
        [record("whole", "Whole", {"a": "", "b": "TextModel", "c": "None"}, methods=ALL), record("text", "TextModel")]
    )
    table = files["docs/classes/models/overview.rst"]
    lines = [line.strip() for line in table.splitlines()]
    first = lines.index("* - └ ``a``")
    assert lines[first + 1 : first + 7] == ["- open"] * 6
    second = lines.index("* - └ ``b``: :doc:`text </classes/models/text>`")
    assert lines[second + 1 : second + 7] == [f"- {'yes' if method is Method.LORA else 'no'}" for method in Method]
    third = lines.index("* - └ ``c``")
    assert lines[third + 1 : third + 7] == ["- no"] * 6
    assert (
        first
        > lines.index("* - :doc:`whole </classes/models/whole>`")
        > lines.index("* - :doc:`text </classes/models/text>`")
    )
    page = files["docs/classes/models/parts/whole.rst"]
    assert ":doc:`text </classes/models/text>` (``TextModel``)" in page
    assert "docs/classes/models/parts/text.rst" not in files


def test_no_link_leads_to_a_page_that_is_not_there() -> None:
    files = render_shared([record("whole", "Whole", {"b": "TextModel"})])
    assert "classes/models/text" not in "".join(files.values())


def test_a_package_of_ones_own_has_no_pages_of_parts() -> None:
    assert not any("parts" in path for path in render_shared([record("whole", "Whole", {"a": ""})], PACKAGE))


PARTS = (PartRow("vision", ""), PartRow("text", "TextModel", "text", LORA), PartRow("codec", "Codec"))


@pytest.fixture
def shown(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> str:
    entry = Entry("whole", Status.SUPPORTED, (Method.LORA, Method.REFT), frozenset({Method.REFT}), parts=PARTS)
    SHOW[request.param](Console(), [entry], "5.23.0")
    return capsys.readouterr().out


@pytest.mark.parametrize("shown", ["text"], indirect=True)
def test_list_has_a_row_for_each_part(shown: str) -> None:
    lines = {line.split()[0]: line.split()[1:] for line in shown.splitlines() if line.strip()}
    assert lines["whole"][1:] == ["·", "·", "✓", "?", "·", "·"]
    assert lines["vision"] == ["?"] * 6
    assert lines["text"] == ["text", *("✓" if method is Method.LORA else "·" for method in Method)]
    assert lines["codec"] == ["·"] * 6


@pytest.mark.parametrize("shown", ["json"], indirect=True)
def test_list_says_the_same_as_json(shown: str) -> None:
    (entry,) = json.loads(shown)["models"]
    assert (entry["methods"], entry["left_to_parts"]) == (["lora", "reft"], ["reft"])
    assert entry["parts"] == [
        {"path": "vision", "class": None, "model_type": None, "usual_type": None, "methods": None},
        {"path": "text", "class": "TextModel", "model_type": "text", "usual_type": None, "methods": ["lora"]},
        {"path": "codec", "class": "Codec", "model_type": None, "usual_type": None, "methods": []},
    ]
