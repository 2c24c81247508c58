"""Upstream's tests are found, run on our models, and held to the table of those that cannot hold."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import sys
import tarfile
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import PreTrainedConfig

from conformance import heads
from conformance.suite import CORE
from upstream import cases, exempt, fetch, model_tester, sources
from upstream.exempt import attention, compared, conditions, elsewhere, embeddings, gradients, outputs, states, weights

needs_sources = pytest.mark.skipif(bool(sources.why_not()), reason=sources.why_not())
in_archive = pytest.mark.skipif(
    sources.CHECKOUT in os.environ or bool(sources.why_not()), reason="it is about the archive"
)


# Finding


def test_a_variable_that_names_something_else_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(sources.CHECKOUT, raising=False)
    monkeypatch.setenv(sources.TESTS, str(tmp_path))
    with pytest.raises(sources.UpstreamTestsError, match=r"no test_modeling_common\.py is\. Name the folder that"):
        sources.why_not()
    monkeypatch.setenv(sources.CHECKOUT, str(tmp_path))
    with pytest.raises(sources.UpstreamTestsError, match=r"no tests.test_modeling_common\.py is\. Name a checkout"):
        sources.why_not()


def test_without_a_variable_the_reason_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (sources.CHECKOUT, sources.TESTS):
        monkeypatch.delenv(variable, raising=False)
    assert "python tests/upstream/fetch.py FOLDER" in sources.why_not()


@in_archive
def test_exactly_two_modules_are_stood_in_for() -> None:
    sources.common()
    tests = sources.folder()
    assert tests is not None
    imported = ast.walk(ast.parse((tests / f"{sources.COMMON}.py").read_text(encoding="utf-8")))
    relative = {node.module for node in imported if isinstance(node, ast.ImportFrom) and node.level and node.module}
    missing = {name for name in relative if not tests.joinpath(*name.split(".")).with_suffix(".py").is_file()}
    made = {name for name, module in sys.modules.items() if name.startswith(f"{sources.PACKAGE}.")} - {
        f"{sources.PACKAGE}.{sources.COMMON}",
        f"{sources.PACKAGE}.exporters",
        f"{sources.PACKAGE}.generation",
    }
    assert missing == {"exporters.test_export", "generation.test_utils"} == set(sources.STAND_INS)
    assert made == {f"{sources.PACKAGE}.{name}" for name in missing}


def archive(path: Path, *names: str) -> Path:
    with tarfile.open(path, "w:gz") as packed:
        for name in names:
            member = tarfile.TarInfo(f"transformers-5.0.0/{name}")
            member.size = 1
            packed.addfile(member, io.BytesIO(b"x"))
    return path


def test_only_tests_come_out_of_the_archive(tmp_path: Path) -> None:
    packed = archive(
        tmp_path / "a.tar.gz", "setup.py", "tests/a.py", "tests/deep/b.py", "tests/../../c.py", "src/tests/d.py"
    )
    fetch._extract(packed, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.rglob("*.py")) == ["a.py", "b.py"]


def test_an_archive_without_tests_says_so(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="holds no tests"):
        fetch._extract(archive(tmp_path / "a.tar.gz", "setup.py"), tmp_path / "out")


# The table


class Case(unittest.TestCase):
    __test__ = False  # run by the tests below

    def test_passes(self) -> None:
        pass

    def test_fails(self) -> None:
        raise ValueError("no heads here")

    def test_skips(self) -> None:
        self.skipTest("no gpu")


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[exempt.Exempt]]:
    entries: list[exempt.Exempt] = []
    monkeypatch.setattr(exempt, "EXEMPT", entries)
    monkeypatch.setattr(cases, "case_of", lambda model_type: Case)
    monkeypatch.setattr(cases, "facts", lambda model_type: model_type)
    return entries


def test_what_passes_needs_no_entry(table: list[exempt.Exempt]) -> None:
    cases.run("llama", "test_passes")


@pytest.mark.parametrize("name", ["test_fails", "test_skips"])
def test_what_the_table_says_is_skipped_with_its_reason(table: list[exempt.Exempt], name: str) -> None:
    table.append(exempt.Exempt("fails skips", "we know why", "no (heads|gpu)"))
    with pytest.raises(pytest.skip.Exception, match="we know why"):
        cases.run("llama", name)


def test_a_skip_without_an_entry_fails(table: list[exempt.Exempt]) -> None:
    table.append(exempt.Exempt("skips", "of other models", "no gpu", lambda model_type: model_type != "llama"))
    with pytest.raises(AssertionError, match=r"upstream skips test_skips \(no gpu\)"):
        cases.run("llama", "test_skips")


def test_a_failure_without_an_entry_fails(table: list[exempt.Exempt]) -> None:
    with pytest.raises(ValueError, match="no heads here"):
        cases.run("llama", "test_fails")


def test_an_entry_that_no_longer_holds_fails(table: list[exempt.Exempt]) -> None:
    table.append(exempt.Exempt("pass*", "it used to fail", "anything"))
    with pytest.raises(AssertionError, match=r"the entry .* no longer holds \(it used to fail\)"):
        cases.run("llama", "test_passes")


@pytest.mark.parametrize("name", ["test_fails", "test_skips"])
def test_a_failure_for_another_reason_fails(table: list[exempt.Exempt], name: str) -> None:
    table.append(exempt.Exempt("fails skips", "it has no loss", "has no attribute 'loss'"))
    with pytest.raises(AssertionError, match=r"should be skipped or fail with /has no attribute 'loss'/"):
        cases.run("llama", name)


@pytest.mark.parametrize(
    ("own", "name", "holds"),
    [
        ("ValueError: no heads here", "test_fails", True),
        ("", "test_fails", False),
        ("TypeError: it is something else", "test_fails", False),
        ("ValueError: no heads here", "test_skips", False),
    ],
    ids=["upstream's fails too", "upstream's passes", "upstream's fails otherwise", "another test"],
)
def test_an_entry_of_upstreams_asks_its_own_class(own: str, name: str, holds: bool) -> None:
    entry = exempt.Exempt("fails", "it is upstream's", "no heads", of_upstream=True)
    assert entry.covers(name, SimpleNamespace(own=lambda name: own)) is holds  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("theirs", "ours", "same"),
    [
        pytest.param("LlamaModel lacks `a`", "LlamaAdapterModel lacks `a`", True, id="but for the name of the class"),
        pytest.param("LlamaModel lacks `a`", "LlamaAdapterModel lacks `a`, `b`", False, id="more of ours"),
        pytest.param("LlamaModel lacks `a`, `b`", "LlamaAdapterModel lacks `b`, `a`", True, id="in another order"),
        pytest.param("lacks 1.2e-04, atol = 1e-06", "lacks 3.4e-05, atol = 1e-06", True, id="measured otherwise"),
        pytest.param("lacks 1.2e-04, atol = 1e-06", "lacks 1.2e-04, atol = 1e-05", False, id="another tolerance"),
    ],
)
def test_word_for_word_is_what_it_says_of_upstreams_own_class_alone(theirs: str, ours: str, same: bool) -> None:
    entry = exempt.Exempt("fails", "it is upstream's", "lacks", of_upstream=True, word_for_word=True)
    names = {name: SimpleNamespace(__name__=f"Llama{name}Model") for name in ("", "Adapter")}
    facts = SimpleNamespace(own=lambda name: theirs, tested=names["Adapter"], upstream=names[""])
    with contextlib.nullcontext() if same else pytest.raises(AssertionError, match="of upstream's own class"):
        entry.check("test_fails", ours, facts)  # type: ignore[arg-type]


@needs_sources
def test_what_a_test_says_of_upstreams_own_class() -> None:
    assert cases._said_of_own("llama", "test_determinism") == ""
    assert cases._said_of_own("llama", "test_sdpa_can_dispatch_composite_models").startswith("SkipTest: ")


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        pytest.param("glm4v_vision", "hidden_states", id="upstream's says tokens, and takes none"),
        pytest.param("llama", "input_ids", id="upstream's says what it takes"),
    ],
)
def test_upstreams_own_class_is_asked_with_the_same_main_input(model_type: str, name: str) -> None:
    own = cases.model_class(heads.base_subject(model_type).architecture)
    asked = cases._with_main_input(own, model_type)
    assert asked.main_input_name == heads.adapter_model_class(model_type).main_input_name == name
    assert (asked is own) is (model_type == "llama")
    assert (asked.__name__, asked.__module__) == (own.__name__, own.__module__)


@pytest.mark.parametrize(
    ("model_type", "architecture"),
    [
        pytest.param("tipsv2_dpt", "Tipsv2DptForSemanticSegmentation", id="upstream's table names two"),
        pytest.param("superglue", "SuperGlueForKeypointMatching", id="it ends in a head"),
        pytest.param("llama", "LlamaModel", id="a base model"),
        pytest.param("clip", "CLIPModel", id="whose head reads a part"),
    ],
)
def test_upstreams_own_class_is_that_which_the_adapter_model_holds(model_type: str, architecture: str) -> None:
    assert heads.held_subject(model_type).architecture == architecture


@pytest.mark.parametrize(
    ("model_type", "renames"),
    [
        pytest.param("qwen3_vl_moe", False, id="numbers of experts alone are changed"),
        pytest.param("mixtral", True, id="experts are put together"),
        pytest.param("llama", True, id="nothing is changed, as the test says itself"),
    ],
)
def test_weights_that_keep_their_names_are_told(model_type: str, renames: bool) -> None:
    assert weights.renames_weights(cases.facts(model_type).on_meta) is renames


@pytest.mark.parametrize(
    ("sizes", "cut"),
    [
        ({}, 16),
        ({"num_frames": 6, "tubelet_size": 2}, 48),
        ({"num_frames": 6}, 96),
        ({"num_frames": 6, "tubelet_size": [2, 4, 4]}, 16),
    ],
    ids=["an image", "a video in tubelets", "a video frame by frame", "no patches that upstream's tests mask"],
)
def test_patches_are_counted(sizes: dict[str, object], cut: int) -> None:
    assert model_tester.patches(PreTrainedConfig(image_size=16, patch_size=4, **sizes)) == cut


@needs_sources
def test_every_entry_speaks_of_tests_that_upstream_has() -> None:
    names = [name for model_type in CORE for name in cases.names(model_type)]
    everywhere = exempt.EXEMPT
    for entry in everywhere:
        for pattern in entry.tests.split():
            one = exempt.Exempt(pattern, "", "")
            assert any(one.covers(name, None) for name in names), pattern  # type: ignore[arg-type]


# What entries and the tester ask about a model


@pytest.mark.parametrize(
    ("own", "of_part", "without"),
    [(None, None, True), ({"a": "rowwise"}, None, False), (None, {"a": "rowwise"}, False), (None, {}, False)],
)
def test_a_plan_of_a_part_is_a_plan(own: object, of_part: object, without: bool) -> None:
    part = SimpleNamespace(base_model_tp_plan=of_part)
    config = SimpleNamespace(base_model_tp_plan=own, sub_configs={"text_config": None}, text_config=part)
    assert weights._without_plan(SimpleNamespace(config=config)) is without  # type: ignore[arg-type]


@pytest.mark.parametrize(("rows", "narrow"), [((4, 8, 16), False), ((4, 20, 16), False), ((4, 16, 20), True)])
@pytest.mark.parametrize("by_upstream", [True, False], ids=["exchangeable", "of its own"])
def test_only_rows_of_exchangeable_experts_are_measured(
    rows: tuple[int, ...], narrow: bool, by_upstream: bool
) -> None:
    experts = torch.nn.ParameterDict({"up": torch.empty(rows), "bias": torch.empty(3, 5)})
    if by_upstream:
        experts.is_concatenated = True  # type: ignore[assignment]
    facts = SimpleNamespace(on_meta=torch.nn.ModuleList([experts]))
    assert compared._has_narrow_experts(facts) is (narrow and by_upstream)  # type: ignore[arg-type]


def test_attention_weights_that_are_nested_are_none_that_upstreams_tests_read() -> None:
    nested, plain = (heads.base_subject(model_type) for model_type in ("pvt_v2", "llama"))
    assert model_tester.outputs_of(nested).attentions
    assert model_tester.attentions_of(nested) == ()
    assert len(model_tester.attentions_of(plain)) == plain.config().num_hidden_layers


@pytest.mark.parametrize(
    ("model_type", "states"),
    [
        pytest.param("maskformer", 12, id="those of its encoder are among all"),
        pytest.param("t5", 3, id="those of its encoder, as its config says"),
    ],
)
def test_hidden_states_are_those_that_upstreams_tests_read(model_type: str, states: int) -> None:
    assert len(model_tester.hidden_states_of(heads.base_subject(model_type))) == states


def test_hidden_states_that_are_nested_are_none_that_upstreams_tests_read() -> None:
    nested = heads.base_subject("bridgetower")
    assert model_tester.outputs_of(nested).hidden_states
    assert model_tester.hidden_states_of(nested) == ()


@pytest.mark.parametrize(("model_type", "nests"), [("bridgetower", True), ("llama", False), ("jev", False)])
def test_nested_hidden_states_are_told(model_type: str, nests: bool) -> None:
    assert states._nests_states(cases.facts(model_type)) is nests


def test_a_tensor_alone_is_no_output_that_upstreams_tests_read() -> None:
    subject = heads.base_subject("jev")
    assert model_tester.outputs_of(subject) == {} and model_tester.hidden_states_of(subject) == ()


@pytest.mark.parametrize(
    ("model_type", "more"), [("cpmant", True), ("moshi", False), ("llama", False), ("bert", False)]
)
def test_rows_behind_the_vocabulary_are_told(model_type: str, more: bool) -> None:
    assert embeddings._reads_rows_behind(cases.facts(model_type)) is more


def test_states_without_a_gradient_train_nothing() -> None:
    assert not model_tester.trains_wholly(heads.base_subject("mimi"))


def test_what_refuses_attention_weights_is_asked_for_states_alone() -> None:
    assert model_tester.outputs_of(heads.base_subject("edgetam"))


@pytest.mark.parametrize(
    ("names", "read"), [("input_ids", ("input_ids",)), (["pixel_values", "input_ids"], ("pixel_values", "input_ids"))]
)
def test_a_class_may_name_several_main_inputs(names: object, read: tuple[str, ...]) -> None:
    assert model_tester.main_inputs(SimpleNamespace(main_input_name=names)) == read  # type: ignore[arg-type]


def test_sizes_that_differ_by_layers_are_those_of_the_first() -> None:
    layers = [SimpleNamespace(num_attention_heads=heads) for heads in (4, 8)]
    config = SimpleNamespace(is_heterogeneous=True, per_layer_config=layers)
    assert model_tester.first_layer(config) is layers[0]  # type: ignore[arg-type,comparison-overlap]
    config.is_heterogeneous = False
    assert model_tester.first_layer(config) is config  # type: ignore[arg-type,comparison-overlap]


@pytest.mark.parametrize(
    ("shape", "counted"),
    [
        pytest.param((3, 4, 5, 5), 4, id="of rows"),
        pytest.param((3, 4, 2, 3, 5), 4, id="of chunks of rows"),
        pytest.param((5, 5), 2, id="no weights of heads"),
    ],
)
def test_heads_are_counted(shape: tuple[int, ...], counted: int) -> None:
    config = SimpleNamespace(num_attention_heads=2)
    assert model_tester.heads_of(config, [torch.zeros(shape)]) == counted  # type: ignore[arg-type]
    assert model_tester.heads_of(config, []) == 2  # type: ignore[arg-type]
    assert model_tester.heads_of(SimpleNamespace(num_attention_heads=[1, 2]), []) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize(("shape", "cut"), [((3, 4, 2, 6, 9), (2, 6)), ((3, 4, 2, 5, 9), ()), ((3, 4, 12, 12), ())])
def test_attention_over_chunks_of_all_states_is_told(shape: tuple[int, ...], cut: tuple[int, ...]) -> None:
    assert model_tester.chunks([torch.zeros(shape)], 12) == cut


@pytest.mark.parametrize(
    ("model_type", "positions"),
    [
        pytest.param("git", 25, id="patches stand in front of the tokens"),
        pytest.param("kyutai_speech_to_text", 6, id="several codes at each position"),
        pytest.param("deepseek_v4", 8, id="several states of each token"),
        pytest.param("llama", 8, id="one state of each token"),
    ],
)
def test_positions_are_counted(model_type: str, positions: int) -> None:
    assert model_tester.ModelTester(model_type).seq_length == positions


@pytest.mark.parametrize(
    ("model_type", "rows"),
    [
        pytest.param("qwen3_asr_encoder", 9, id="nothing runs without a mask"),
        pytest.param("glm4v_vision", 3, id="nothing runs without counts"),
        pytest.param("llama", 3, id="a mask can be left out"),
    ],
)
def test_masks_that_are_needed_have_rows_enough(model_type: str, rows: int) -> None:
    tester = model_tester.ModelTester(model_type)
    _, inputs = tester.prepare_config_and_inputs_for_common()
    assert {tester.batch_size, *(len(value) for value in inputs.values())} == {rows}


def test_no_layer_is_left_out_in_training() -> None:
    config = heads.base_subject("vits").config()
    assert config.layerdrop > 0
    assert model_tester.without_dropped_layers(config).layerdrop == 0
    both = heads.base_subject("speech-encoder-decoder").config()
    both.encoder.layerdrop = 0.5
    assert model_tester.without_dropped_layers(both).encoder.layerdrop == 0


@pytest.mark.parametrize(
    ("condition", "yes", "no"),
    [
        (attention._reads_fewer, "seamless_m4t_v2", "t5"),
        (attention._reads_fewer, "led", "llama"),
        (states._has_unlike_stacks, "dia", "t5"),
        (states._has_unlike_stacks, "pp_doclayout_v2", "llama"),
        (states._has_parallel_streams, "deepseek_v4", "llama"),
        (states._has_parallel_streams, "deepseek_v4", "swin"),
        (compared._counts_in_inputs, "glm4v_vision", "qwen3_asr_encoder"),
        (compared._counts_in_inputs, "glm4v_vision", "blip_2_qformer"),
        (compared._takes_codes, "dia", "t5"),
        (compared._takes_codes, "kyutai_speech_to_text", "vit"),
        (compared._masks_too_few, "lasr_encoder", "whisper"),
        (states._gives_no_states_of_encoder, "parakeet_tdt", "t5"),
        (states._gives_no_states_of_encoder, "grounding-dino", "llama"),
        (states._records_nothing, "gemma3n_audio", "gemma4_audio"),
        (compared._streams_come_first, "gemma3n_text", "deepseek_v4"),
        (states._works_lengths_out, "fastspeech2_conformer", "t5"),
        (states._has_several_that_record, "maskformer", "llama"),
        (states._has_several_that_record, "blt", "deepseek_v4"),
        (attention._attends_in_pieces, "timesformer", "gemma4_audio"),
        (outputs._draws_at_random, "informer", "time_series_transformer"),
        (outputs._draws_at_random, "vilt", "vibevoice_asr"),  # what the latter's head hands on is not drawn
        (conditions.left_out, "luke", "bert"),
        (conditions.left_out, "prophetnet", "superglue"),
        (attention._crosses_from_streams, "prophetnet", "t5"),
        (attention._crosses_from_streams, "prophetnet", "led"),
        (states._runs_layers_again, "videomt", "vit"),
        (states._runs_layers_again, "videomt", "blt"),
        (states._counts_other_layers, "sam3_lite_text_text_model", "llama"),
        (states._gives_a_tensor, "jev", "llama"),
        (weights._renames_by_beginnings, "jev", "mixtral"),
        (weights._renames_by_beginnings, "jev", "llama"),
        (states._first_is_chosen, "superglue", "llama"),
        (attention._gives_weights_with_states_only, "maskformer-swin", "swin"),
        (compared._agrees_in_double, "mimi_decoder", "gemma3n_text"),
        (outputs._rows_agree_in_double, "tipsv2_dpt", "glm4v_vision"),
        (attention._holds_configs_of_one_class, "vibevoice", "llava"),
        (gradients._goes_back_with("a second time"), "sew-d", "lilt"),
        (gradients._goes_back_with("a second time"), "sew-d", "wavlm"),
        (gradients._goes_back_with("layers were recomputed"), "wavlm", "llama"),
    ],
)
def test_a_condition_speaks_of_one_model_and_not_of_the_other(
    condition: Callable[..., bool], yes: str, no: str
) -> None:
    assert condition(cases.facts(yes)) and not condition(cases.facts(no))


@pytest.mark.parametrize(
    ("model_type", "alike"),
    [
        pytest.param("esm", True, id="but for a pooler, which upstream's classes with heads lack"),
        pytest.param("mixtral", True, id="experts that a file holds one by one"),
    ],
)
def test_files_hold_the_names_that_upstream_gives(model_type: str, alike: bool) -> None:
    assert weights._is_saved_as_upstream(cases.facts(model_type)) is alike


def test_a_weight_by_another_name_in_a_file_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    names = weights._names_in_a_file

    def other(model: torch.nn.Module) -> set[str]:
        is_ours = type(model).__name__.endswith("AdapterModel")
        return {name.replace("q_proj", "query") if is_ours else name for name in names(model)}  # type: ignore[arg-type]

    monkeypatch.setattr(weights, "_names_in_a_file", other)
    assert not weights._is_saved_as_upstream(cases.facts("mixtral"))


@pytest.mark.parametrize(("model_type", "lacks"), [("esm", True), ("mixtral", False)])
def test_names_of_files_that_no_weight_has_are_told(model_type: str, lacks: bool) -> None:
    assert weights._names_what_is_not_there(cases.facts(model_type)) is lacks


@pytest.mark.parametrize(
    ("named", "switched", "nowhere"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_checkpointing_without_a_switch_is_told(named: bool, switched: bool, nowhere: bool) -> None:
    layer = torch.nn.Linear(2, 2)
    if switched:
        layer.gradient_checkpointing = False  # type: ignore[assignment]
    tested = SimpleNamespace(supports_gradient_checkpointing=named)
    facts = SimpleNamespace(on_meta=torch.nn.ModuleList([layer]), tested=tested)
    assert gradients._checkpoints_nowhere(facts) is nowhere  # type: ignore[arg-type]


@pytest.mark.parametrize(("shape", "value", "none"), [((2,), 1.0, False), ((0,), 1.0, True), ((2,), torch.inf, True)])
def test_a_tensor_without_a_difference_from_itself_is_told(shape: tuple[int], value: float, none: bool) -> None:
    model = torch.nn.ParameterDict({"weight": torch.full(shape, value)})
    facts = SimpleNamespace(subject=SimpleNamespace(upstream=lambda: model))
    assert weights._holds_no_difference(facts) is none  # type: ignore[arg-type]


@pytest.mark.parametrize(("model_type", "draws"), [("vits", True), ("llama", False)])
def test_numbers_that_are_drawn_in_evaluation_are_told(model_type: str, draws: bool) -> None:
    assert outputs._draws_at_random(cases.facts(model_type)) is draws


@pytest.mark.parametrize(
    ("head", "inputs", "none"), [("", {}, True), ("", {"labels": 1}, False), ("causal_lm", {}, False)]
)
def test_labels_of_the_instance_make_a_loss_too(head: str, inputs: dict[str, int], none: bool) -> None:
    facts = SimpleNamespace(head=head, subject=SimpleNamespace(padded_inputs=lambda: inputs))
    assert gradients._has_no_loss(facts) is none  # type: ignore[arg-type]


def test_every_test_begins_with_the_same_random_numbers() -> None:
    drawn = []

    class Draws(unittest.TestCase):
        all_model_classes = ()

        def test_draws(self) -> None:
            drawn.append(torch.rand(1).item())

    for _ in range(2):
        cases._run(Draws("test_draws"))
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("model_type", "none"),
    [
        pytest.param("idefics", True, id="upstream freezes the matrix"),
        pytest.param("instructblipvideo", True, id="outputs of a part come first"),
        pytest.param("videoprism", True, id="shares come first"),
        pytest.param("llama", False, id="it is trained"),
    ],
)
def test_embeddings_without_a_gradient_are_told(model_type: str, none: bool) -> None:
    assert gradients._embeds_for_none(cases.facts(model_type)) is none


@pytest.mark.parametrize(
    ("model_type", "refuses"),
    [
        pytest.param("vit", False, id="the head brings the token"),
        pytest.param("vit_msn", True, id="no head of it paints"),
        pytest.param("beit", False, id="the config has an option for it, which the test sets"),
        pytest.param("llama", False, id="nothing can be masked"),
    ],
)
def test_masks_are_refused_where_nothing_brings_the_token(model_type: str, refuses: bool) -> None:
    assert compared._refuses_masks(cases.facts(model_type)) is refuses


def test_the_tester_masks_patches_where_the_head_paints_them() -> None:
    assert model_tester.head_of("vit") == "masked_image_modeling"
    assert model_tester.targets("vit", 5)["bool_masked_pos"].any()
    assert model_tester.head_of("vit_msn") == "image_classification"  # the nearest relative has no such head


@pytest.mark.parametrize(("model_type", "more"), [("swin", True), ("vit", False), ("lxmert", False)])
def test_stages_are_counted_as_layers(model_type: str, more: bool) -> None:
    assert elsewhere._has_more_layers(cases.facts(model_type)) is more


@pytest.mark.parametrize("model_type", ["llama", "mixtral", "kimi_k25"])
def test_targets_are_tokens_of_the_model(model_type: str) -> None:
    size = heads.base_subject(model_type).config().get_text_config().vocab_size
    (labels,) = model_tester.targets(model_type, 50).values()
    assert size / 2 < labels.max() < size


def test_the_tester_measures_the_tower_that_the_head_reads() -> None:
    of_part, of_all = model_tester.ModelTester("clip"), model_tester.ModelTester("vit")
    assert of_part.seq_length == model_tester.patches(of_part.subject.config().vision_config) + 1
    assert of_part.hidden_size == of_part.get_config().vision_config.hidden_size
    assert of_all.hidden_size == of_all.get_config().hidden_size


@pytest.mark.parametrize(
    ("model_type", "inputs"),
    [
        pytest.param("clip", ("pixel_values",), id="the head reads images alone"),
        pytest.param("llava", (), id="a text without images is one"),
        pytest.param("vit", (), id="images are the first input"),
        pytest.param("t5", (), id="upstream's tests bring the tokens of the decoder"),
    ],
)
def test_inputs_are_needed_where_nothing_runs_without(model_type: str, inputs: tuple[str, ...]) -> None:
    assert model_tester.needed(heads.base_subject(model_type)) == inputs


@pytest.mark.parametrize(("span", "chance"), [(10, 0.0), (2, 0.05)], ids=["longer than the sound", "as long"])
def test_spans_that_are_longer_than_the_sound_are_not_masked(span: int, chance: float) -> None:
    config = PreTrainedConfig(mask_time_length=span, mask_time_prob=0.05)
    assert model_tester.without_long_masks(config, 2).mask_time_prob == chance
    both = heads.base_subject("speech-encoder-decoder").config()
    both.encoder.mask_time_length, both.encoder.mask_time_prob = span, 0.05
    assert model_tester.without_long_masks(both, 2).encoder.mask_time_prob == chance


@pytest.mark.parametrize(
    ("model_type", "given"),
    [
        pytest.param("vit_mae", True, id="it draws which patches to mask"),
        pytest.param("hiera", False, id="the argument is for another head"),
        pytest.param("vit", False, id="there is no argument"),
    ],
)
def test_noise_is_given_to_what_draws_it(model_type: str, given: bool) -> None:
    _, inputs = model_tester.ModelTester(model_type).prepare_config_and_inputs_for_common()
    assert ("noise" in inputs) is given


@pytest.mark.parametrize(
    ("model_type", "unread"),
    [
        pytest.param("clip", True, id="the tower of texts comes first"),
        pytest.param("llava", False, id="the head reads all"),
        pytest.param("bert", False, id="there is one stack"),
    ],
)
def test_a_tower_that_does_not_run_under_the_head_is_told(model_type: str, unread: bool) -> None:
    assert gradients._checkpoints_unread_first(cases.facts(model_type)) is unread


# Running


@needs_sources
@pytest.mark.parametrize(
    ("defect", "name"),
    [
        (lambda outputs: outputs + torch.rand(()), "test_determinism"),
        (lambda outputs: outputs + outputs.mean(0), "test_batching_equivalence"),
        (lambda outputs: outputs.detach(), "test_training_gradient_checkpointing"),
    ],
    ids=["at random", "rows mixed", "no gradient"],
)
def test_upstreams_tests_notice_a_defect(defect: object, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import adapter_models

    model = adapter_models.LlamaAdapterModel
    run = model.forward_head

    def broken(self: object, outputs: dict[str, torch.Tensor], **kwargs: object) -> object:
        outputs["last_hidden_state"] = defect(outputs["last_hidden_state"])  # type: ignore[operator]
        return run(self, outputs, **kwargs)

    monkeypatch.setattr(model, "forward_head", broken)
    with pytest.raises((AssertionError, RuntimeError)):
        cases.run("llama", name)


# A checkout

OWN = """
import unittest

from transformers import LlamaConfig, LlamaModel, MistralModel

from ...test_modeling_common import ModelTesterMixin, ids_tensor


class Tester:
    batch_size, seq_length, is_training = 2, 6, True

    def prepare_config_and_inputs_for_common(self):
        config = LlamaConfig(vocab_size=99, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
        return config, {"input_ids": ids_tensor([2, 6], 99)}


class MistralTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (MistralModel,)


class Helper:
    all_model_classes = (LlamaModel,)


class OddlyNamed(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (LlamaModel,)
    pipeline_model_mapping = {"feature-extraction": LlamaModel}

    def setUp(self):
        self.model_tester = Tester()
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A checkout with upstream's common tests, and one class for Llama."""
    tests = sources.folder()
    assert tests is not None
    (tmp_path / "tests" / "models" / "llama").mkdir(parents=True)
    (tmp_path / "tests" / f"{sources.COMMON}.py").write_bytes((tests / f"{sources.COMMON}.py").read_bytes())
    (tmp_path / "tests" / "models" / "llama" / "test_modeling_llama.py").write_text(OWN, encoding="utf-8")
    monkeypatch.setenv(sources.CHECKOUT, str(tmp_path))
    imported = {name: module for name, module in sys.modules.items() if name.split(".")[0] == sources.PACKAGE}
    caches = (sources.common, cases.case_of)
    forget(imported, caches)
    yield tmp_path
    forget(sys.modules.keys() & {name for name in sys.modules if name.split(".")[0] == sources.PACKAGE}, caches)
    sys.modules.update(imported)


def forget(names: object, caches: tuple[object, ...]) -> None:
    for name in list(names):  # type: ignore[call-overload]
        sys.modules.pop(name, None)
    for cache in caches:
        cache.cache_clear()  # type: ignore[attr-defined]


@needs_sources
def test_in_a_checkout_the_tests_are_those_of_upstreams_class_for_the_model(checkout: Path) -> None:
    import adapter_models

    case = cases.case_of("llama")
    assert "OddlyNamed" in [base.__name__ for base in case.__mro__]
    assert case.all_model_classes == (adapter_models.LlamaAdapterModel,)  # type: ignore[attr-defined]
    assert case.pipeline_model_mapping == {}  # type: ignore[attr-defined]
    test = case("test_determinism")
    test.setUp()
    config, _ = test.model_tester.prepare_config_and_inputs_for_common()  # type: ignore[attr-defined]
    assert config.hidden_size == 16 and config.prediction_heads
    cases.run("llama", "test_determinism")
    cases.run("llama", "test_training")


@needs_sources
def test_a_checkout_without_a_class_for_the_model_is_an_error(checkout: Path) -> None:
    with pytest.raises(sources.UpstreamTestsError, match=r"no subclass of ModelTesterMixin for the model type 'bert'"):
        cases.case_of("bert")
