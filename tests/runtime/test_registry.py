"""What generated packages say of themselves, one alone and several together."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapter_runtime.contract import registry as module
from adapter_runtime.contract.registry import GeneratedPackage, register_package, registered

CLIP = "transformers.models.clip.modeling_clip"
SHARED, LAYER, TEXT_LAYER = f"{CLIP}.CLIPAttention", f"{CLIP}.CLIPLayer", f"{CLIP}.CLIPTextLayer"


def record(package: str, folder: str = "clip", **tables: object) -> dict[str, object]:
    return {
        "package": package,
        "path": f"models/{folder}/modeling_{folder}.py",
        "adapter_model": f"{package.title()}AdapterModel",
        "config_class": f"{package.title()}Config",
        "config_keys": {},
        "static_heads": {},
        "methods": {"lora": ""},
        "mixins": {},
        "with_adapters": {},
        **tables,
    }


def copies(package: str, *names: str) -> dict[str, str]:
    return {name: f".{package}.modeling.{name.rpartition('.')[2]}WithAdapters" for name in names}


class Packages:
    """Makes packages with a manifest each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(
        self, name: str, gives_way: bool = False, schema: int = 2, **records: dict[str, object]
    ) -> GeneratedPackage:
        (self.folder / name).mkdir()
        (self.folder / name / "__init__.py").write_text("")
        content = {
            "schema": schema,
            "transformers": "5.23.0",
            "models": {k.replace("_", "-"): v for k, v in records.items()},
        }
        (self.folder / name / "manifest.json").write_text(json.dumps(content))
        return GeneratedPackage(name, gives_way)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Packages]:
    """Nothing is registered but what the test makes."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(module, "_packages", {})
    monkeypatch.setattr(module, "_registry", None)
    before = set(sys.modules)
    yield Packages(tmp_path)
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.usefixtures("packages")
def test_without_a_package_the_error_says_what_to_import() -> None:
    with pytest.raises(RuntimeError, match="import adapter_models"):
        registered()


def test_a_manifest_of_another_version_of_the_tool_is_no_guess(packages: Packages) -> None:
    register_package(packages.make("theirs", schema=99))
    with pytest.raises(RuntimeError, match=r"schema 99, and this release reads 2.*add-model --existing"):
        registered()


def test_nothing_is_read_before_it_is_asked_for(packages: Packages) -> None:
    register_package(packages.make("theirs", schema=99))


def test_names_of_classes_are_completed_by_the_package(packages: Packages) -> None:
    register_package(packages.make("theirs", clip=record("clip", mixins={LAYER: ".clip.mixin.Mixin"})))
    assert registered().model_mixins == {LAYER: "theirs.clip.mixin.Mixin"}
    assert registered().adapter_models == {"clip": "theirs.clip.adapter_model.ClipAdapterModel"}


# --- a class of upstream that several types have ----------------------------------------------------------------------


@pytest.mark.parametrize("order", [("clip", "clip_text"), ("clip_text", "clip")])
def test_it_belongs_to_the_type_that_the_folder_of_upstream_is_named_after(
    packages: Packages, order: tuple[str, str]
) -> None:
    records = {name: record(name, with_adapters=copies(name, SHARED)) for name in order}
    register_package(packages.make("theirs", **records))
    assert registered().with_adapters == {SHARED: "theirs.clip.modeling.CLIPAttentionWithAdapters"}


def test_without_such_a_type_it_belongs_to_the_first(packages: Packages) -> None:
    records = {name: record(name, with_adapters=copies(name, SHARED)) for name in ("audio", "text")}
    register_package(packages.make("theirs", **records))
    assert registered().with_adapters == {SHARED: "theirs.audio.modeling.CLIPAttentionWithAdapters"}


def test_a_model_has_the_class_that_was_generated_for_its_own_type(packages: Packages) -> None:
    records = {name: record(name, with_adapters=copies(name, SHARED)) for name in ("clip", "clip_text")}
    register_package(packages.make("theirs", **records))
    assert registered().of_type("clip-text").with_adapters == {
        SHARED: "theirs.clip_text.modeling.CLIPAttentionWithAdapters"
    }
    assert registered().of_type("unknown") is registered()


def test_a_class_stands_in_one_table_only_whatever_its_types_make_of_it(packages: Packages) -> None:
    register_package(
        packages.make(
            "theirs",
            clip=record("clip", with_adapters=copies("clip", LAYER)),
            clip_text=record("clip_text", mixins={LAYER: ".clip_text.mixin.Mixin"}),
        )
    )
    own = registered().of_type("clip-text")
    assert own.model_mixins == {LAYER: "theirs.clip_text.mixin.Mixin"}
    assert own.with_adapters == {}


# --- the type whose plan holds for a model ------------------------------------------------------------------------------


class Upstreams:
    """A base model of upstream."""


def generated(dotted: str) -> type:
    """A class as `init` makes it of `Upstreams`, with a mixin of that name."""
    package, _, name = dotted.rpartition(".")
    return type("Turned", (type(name, (), {"__module__": package}), Upstreams), {})


@pytest.mark.parametrize(
    ("base", "config", "expected"),
    [
        pytest.param(generated("theirs.audio.mixin.Mixin"), "audio", "audio", id="that of its config"),
        pytest.param(generated("theirs.audio.mixin.Mixin"), "audio_decoder", "audio", id="not that of a part"),
        pytest.param(generated("theirs.audio.mixin.Mixin"), "text", "audio", id="not another that there is"),
        pytest.param(generated("theirs.audio.mixin.Mixins"), "text", "text", id="a class that is in no table"),
        pytest.param(Upstreams, "text", "text", id="no generated class: an interface describes it"),
    ],
)
def test_the_plan_of_a_model_is_that_of_the_type_that_its_class_was_generated_for(
    packages: Packages, base: type, config: str, expected: str
) -> None:
    records = {name: record(name, mixins={f"{CLIP}.{name}": f".{name}.mixin.Mixin"}) for name in ("audio", "text")}
    register_package(packages.make("theirs", **records))
    assert registered().type_of(base, config) == expected


# --- several packages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ours_first", [True, False])
def test_a_package_of_the_user_s_own_comes_before_the_one_of_the_library(packages: Packages, ours_first: bool) -> None:
    library = packages.make(
        "library", gives_way=True, clip=record("clip", with_adapters=copies("clip", SHARED, LAYER))
    )
    own = packages.make(
        "own",
        clip=record(
            "clip", with_adapters=copies("clip", SHARED), mixins={LAYER: ".clip.mixin.Mixin"}, methods={"lora": "no"}
        ),
    )
    for package in (library, own) if ours_first else (own, library):
        register_package(package)
    found = registered()
    assert found.with_adapters == {SHARED: "own.clip.modeling.CLIPAttentionWithAdapters"}
    assert found.model_mixins == {LAYER: "own.clip.mixin.Mixin"}
    assert found.adapter_models == {"clip": "own.clip.adapter_model.ClipAdapterModel"}
    assert found.methods == {"clip": {"lora": "no"}}


def test_a_model_that_only_one_package_has_is_taken_from_there(packages: Packages) -> None:
    library = packages.make("library", gives_way=True, bert=record("bert", "bert"), clip=record("clip"))
    register_package(library)
    assert [*registered().adapter_models] == ["bert", "clip"]
    register_package(packages.make("own", clip=record("clip")))
    assert registered().adapter_models == {
        "bert": "library.bert.adapter_model.BertAdapterModel",
        "clip": "own.clip.adapter_model.ClipAdapterModel",
    }
    assert registered().model_types == ("bert", "clip")


def test_a_class_that_only_the_library_has_stays_for_types_that_only_it_has(packages: Packages) -> None:
    register_package(
        packages.make(
            "library",
            gives_way=True,
            clip_text=record("clip_text", with_adapters=copies("clip_text", SHARED, TEXT_LAYER)),
        )
    )
    register_package(packages.make("own", clip=record("clip", with_adapters=copies("clip", SHARED))))
    of_text = registered().of_type("clip-text").with_adapters
    assert of_text == {name: f"library{ours}" for name, ours in copies("clip_text", SHARED, TEXT_LAYER).items()}


def test_of_two_packages_of_the_user_s_own_the_last_one_counts(packages: Packages) -> None:
    for name in ("one", "two"):
        register_package(packages.make(name, clip=record("clip")))
    assert registered().adapter_models == {"clip": "two.clip.adapter_model.ClipAdapterModel"}
