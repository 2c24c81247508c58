"""The test case of one model: upstream's tests with the AdapterModel in place of upstream's classes."""

from __future__ import annotations

import contextlib
import functools
import unittest
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import pytest
import torch
from transformers import PreTrainedModel, set_seed

from adapter_runtime.model.heads.adapter_model import AdapterModelMixin
from conformance import heads
from conformance.checks.checkpointing import few_recomputed
from conformance.subjects import model_class
from upstream import sources
from upstream.exempt import Facts, exempt
from upstream.exempt.weights import renames_weights
from upstream.model_tester import ModelTester, gives_attentions, head_of, needed, targets, trains_wholly, with_head

# Tests of upstream's that read a file without weights, to see what is missing
_OF_UNWRITTEN = frozenset({"test_can_init_all_missing_weights", "test_init_weights_can_init_buffers"})
_READING_NOTHING = ("test_model_weights_reload_no_missing_tied_weights",)


@functools.cache
def case_of(model_type: str) -> type[unittest.TestCase]:
    """Upstream's tests for the AdapterModel of `model_type`: its own test class for the model where there is a checkout,
    with its inputs; else `ModelTesterMixin` with ours.

    Raises:
        UpstreamTestsError: upstream's tests are not there, or have no class for the model.
    """
    common = sources.common()
    tested = heads.adapter_model_class(model_type)
    own = sources.own_class(model_type)
    if own is None:
        generates = (common.GenerationTesterMixin,) if tested.can_generate() else ()
        bases: tuple[type, ...] = (_OurInputs, common.ModelTesterMixin, *generates, unittest.TestCase)
    else:
        bases = (_UpstreamInputs, own)
    namespace = {"model_type": model_type, "all_model_classes": (tested,), **_shared(own), **_said(model_type, own)}
    made: type[unittest.TestCase] = type(f"{tested.__name__}Test", bases, namespace)
    return made


def names(model_type: str) -> list[str]:
    """The tests of `case_of`."""
    return unittest.TestLoader().getTestCaseNames(case_of(model_type))  # type: ignore[return-value]


def run(model_type: str, name: str) -> None:
    """Run one test of upstream's, which must pass, or be skipped or fail as `exempt` says.

    Raises:
        AssertionError: it does not.
    """
    case = case_of(model_type)(name)
    entry = exempt(name, facts(model_type))
    try:
        _run(case)
    except (unittest.SkipTest, pytest.skip.Exception) as skipped:
        if entry is None:
            raise AssertionError(
                f"upstream skips {name} ({skipped}), and upstream/exempt has no entry that says why."
            ) from None
        entry.check(name, f"skipped: {skipped}")
        pytest.skip(entry.reason)
    except Exception as error:
        if entry is None:
            raise
        entry.check(name, f"{type(error).__name__}: {error}", facts(model_type))
        pytest.skip(entry.reason)
    if entry is not None:
        raise AssertionError(f"{name} passes: the entry of upstream/exempt no longer holds ({entry.reason}).")


@functools.cache
def facts(model_type: str) -> Facts:
    """What entries of the table ask about a model."""
    subject = heads.held_subject(model_type)
    return Facts(
        subject=subject,
        config=subject.config(),
        upstream=model_class(subject.architecture),
        tested=heads.adapter_model_class(model_type),
        head=head_of(model_type),
        attentions=gives_attentions(subject),
        own=functools.partial(_said_of_own, model_type),
    )


@functools.cache
def _said_of_own(model_type: str, name: str) -> str:
    """What a test says of upstream's own class, with our instance and inputs: how it fails or is skipped; "" = it passes."""
    own = _with_main_input(model_class(heads.held_subject(model_type).architecture), model_type)
    case = type(f"{own.__name__}Test", (case_of(model_type),), {"all_model_classes": (own,)})(name)
    try:
        _run(case)
    except (Exception, pytest.skip.Exception) as said:
        return f"{type(said).__name__}: {said}"
    return ""


def _with_main_input(own: type[PreTrainedModel], model_type: str) -> type[PreTrainedModel]:
    """Upstream's class with the main input of the AdapterModel: some (towers of Qwen) do not say that theirs are no tokens."""
    name = heads.adapter_model_class(model_type).main_input_name
    if own.main_input_name == name:
        return own
    return type(own.__name__, (own,), {"main_input_name": name, "__module__": own.__module__})


def _run(case: unittest.TestCase) -> None:
    """As `TestCase.debug` does, with the same random numbers whatever ran before, and tidy up after a failure too."""
    test = getattr(case, case._testMethodName)
    why = getattr(case, "__unittest_skip_why__", "") or getattr(test, "__unittest_skip_why__", "")
    if getattr(case, "__unittest_skip__", False) or getattr(test, "__unittest_skip__", False):
        raise unittest.SkipTest(why)
    reads_nothing = case._testMethodName in _READING_NOTHING
    set_seed(0)
    try:
        case.setUp()
        allowed = _random_parts_allowed(case.all_model_classes) if reads_nothing else contextlib.nullcontext()  # type: ignore[attr-defined]
        unwritten = _nan_in_unwritten_memory() if case._testMethodName in _OF_UNWRITTEN else contextlib.nullcontext()
        with allowed, unwritten, few_recomputed():
            test()
    finally:
        case.tearDown()
        case.doCleanups()


@contextlib.contextmanager
def _nan_in_unwritten_memory() -> Iterator[None]:
    """What no initialisation writes is equal in no two models, and not now and then by what memory held before."""
    was, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=warned)


@contextlib.contextmanager
def _random_parts_allowed(classes: Sequence[type[PreTrainedModel]]) -> Iterator[None]:
    """Say to AdapterModels what upstream's classes need not be told: to take a file that has nothing of the base model."""
    with contextlib.ExitStack() as stack:
        for tested in classes:
            if not issubclass(tested, AdapterModelMixin):  # upstream's own, of which the table asks
                continue
            told = functools.partial(tested.from_pretrained, allow_random_parts=True)
            stack.enter_context(mock.patch.object(tested, "from_pretrained", told))
        yield


class _Targets:
    """Targets for the head, which upstream's `_prepare_for_class` knows by names of upstream's classes only."""

    model_type: str

    def _prepare_for_class(
        self, inputs_dict: dict[str, Any], model_class: type[PreTrainedModel], return_labels: bool = False
    ) -> dict[str, Any]:
        inputs = super()._prepare_for_class(inputs_dict, model_class)  # type: ignore[misc]
        if return_labels:
            length = heads.tokens_of(inputs)
            batch = next(iter(inputs.values())).shape[0]
            for name, target in targets(self.model_type, length).items():
                rows = -(-batch // len(target))
                inputs[name] = target.repeat(rows, *[1] * (target.dim() - 1))[:batch]
        return inputs  # type: ignore[no-any-return]


class _OurInputs(_Targets):
    def setUp(self) -> None:
        self.model_tester = ModelTester(self.model_type)

    def test_reverse_loading_mapping(self) -> None:
        """As upstream's own test classes call it, which say where weights are changed and keep their names."""
        renames = renames_weights(facts(self.model_type).on_meta)
        super().test_reverse_loading_mapping(check_keys_were_modified=renames)  # type: ignore[misc]


class _UpstreamInputs(_Targets):
    def setUp(self) -> None:
        super().setUp()  # type: ignore[misc]
        tester = self.model_tester  # type: ignore[has-type]
        prepare = tester.prepare_config_and_inputs_for_common

        def prepared() -> tuple[Any, dict[str, Any]]:
            config, inputs = prepare()
            return with_head(config, self.model_type), inputs

        tester.prepare_config_and_inputs_for_common = prepared


def _shared(own: type | None) -> dict[str, Any]:
    """What must not run on a class of ours: pipelines look classes up by task."""
    return {} if own is None else {"pipeline_model_mapping": {}}


def _said(model_type: str, own: type | None) -> dict[str, Any]:
    """What test classes of upstream state about a model, worked out from the instance; upstream's own have it."""
    if own is not None:
        return {}
    subject = heads.base_subject(model_type)
    config = subject.config()
    return {
        "is_encoder_decoder": config.is_encoder_decoder,
        "has_attentions": gives_attentions(subject),
        "test_resize_embeddings": subject.text,
        "_is_composite": bool(config.sub_configs),
        "test_all_params_have_gradient": trains_wholly(subject),
        "additional_model_inputs": needed(subject),
    }
