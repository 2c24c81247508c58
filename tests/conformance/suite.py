"""Base classes of the machine-written test modules, which only name the model.

    class LlamaAdapterTestBase(AdapterTestBase):
        model_type = "llama"

    class LlamaAdapterTest(LlamaAdapterTestBase, AdapterTests):
        pass

Models of `CORE` run every check in the normal test run. Any other model runs one, with all methods in one adapter, and the rest
with ``--full``; what that would be is not even listed without it, as that takes longer than the one check.
Checks that do not apply are not collected; ``python -m conformance MODEL_TYPE`` shows each with its reason.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from conformance import heads, instances
from conformance.adapted import adapted_subjects
from conformance.branches import subjects_of_all_branches
from conformance.cells import CORE
from conformance.checks import MODEL_CHECKS, Cell, ModelCheck, cells, conversion
from conformance.checks.gates import gates_run
from conformance.checks.union import every_method_together
from conformance.methods import FAMILIES, METHODS, method
from conformance.subjects import Subject
from conformance.supported import supported_can_be_added
from upstream import cases, sources


class AdapterTestBase:
    """The model that a test module is about."""

    model_type: ClassVar[str]

    def __init_subclass__(cls, **options: Any) -> None:
        """Of a model outside of the core, only the checks of `AdapterTests` say themselves when they run.

        A class that only names the model is not marked: its subclasses would inherit the mark, `AdapterTests` too.
        """
        super().__init_subclass__(**options)
        has_tests = any(name.startswith("test_") for name in dir(cls))
        if has_tests and hasattr(cls, "model_type") and not cls.is_core() and not issubclass(cls, AdapterTests):
            cls.pytestmark = [pytest.mark.full]

    @pytest.fixture(autouse=True)
    def _with_what_it_needs(self) -> None:
        """A model that is built from a library which is not installed is not tried."""
        if why := instances.missing(self.model_type):
            pytest.skip(why)

    @classmethod
    def is_core(cls) -> bool:
        return cls.model_type in CORE

    @classmethod
    def runs_every_test(cls, config: pytest.Config) -> bool:
        """Where it does not, what else there would be is not worked out: that imports the model."""
        wanted = cls.is_core() or bool(config.getoption("--full"))
        return wanted and not instances.missing(cls.model_type)


class AdapterTests(AdapterTestBase):
    """All conformance checks of one model."""

    def pytest_generate_tests(self, metafunc: Any) -> None:
        wanted = self.runs_every_test(metafunc.config)
        if "cell" in metafunc.fixturenames:
            applicable = [cell for cell in cells(self.model_type) if not cell.why_not()] if wanted else []
            labelled = [pytest.param(cell, id=_label(cell.label)) for cell in applicable]
            metafunc.parametrize("cell", labelled or [_NOT_WANTED])
        if "model_check" in metafunc.fixturenames:
            checks = [check for check in MODEL_CHECKS if check.run is not every_method_together] if wanted else []
            pairs = [
                pytest.param((check, subject), id=_label(f"{check.name}-{subject}"))
                for check in checks
                for subject in check.subjects(self.model_type)
                if not check.why_not(subject)
            ]
            metafunc.parametrize("model_check", pairs or [_NOT_WANTED])

    def test_all_methods_together(self, pytestconfig: pytest.Config) -> None:
        """Each site of each method acts and is trained, and nothing else changes; what is supported can be added, and nothing else:
        one method of each family where not every test runs, and those that can have gates with these."""
        methods = METHODS if self.runs_every_test(pytestconfig) else [method(name) for name in FAMILIES.values()]
        for subject in adapted_subjects(self.model_type):
            supported_can_be_added(subject, methods)
            gates_run(subject)
        for subject in subjects_of_all_branches(self.model_type):
            every_method_together(subject)

    def test_model(self, model_check: tuple[ModelCheck, Subject]) -> None:
        """What must hold without any method."""
        check, subject = model_check
        check.run(subject)

    def test_method(self, cell: Cell) -> None:
        """What must hold with a method."""
        cell.check.run(cell.subject, cell.method)


class ClassConversionTests(AdapterTestBase):
    """What a checkpoint of each class with a static head became saves, loads and goes back. That it computes the same is a model check."""

    def pytest_generate_tests(self, metafunc: Any) -> None:
        if "static" not in metafunc.fixturenames:
            return
        wanted = self.runs_every_test(metafunc.config)
        subjects = conversion.converting_subjects(self.model_type) if wanted else ()
        named = [pytest.param(subject, id=subject.architecture) for subject in subjects]
        metafunc.parametrize("static", named if wanted else [_NOT_WANTED])

    def test_conversion_survives_saving(self, static: Subject) -> None:
        conversion.converted_model_is_saved(static)

    def test_conversion_goes_back(self, static: Subject) -> None:
        conversion.conversion_goes_back(static)


class HeadlessModelTests(AdapterTestBase):
    """The class that holds a base model, with adapters; of some models, no head fits on it.

    Upstream's own tests of its models run on it too, where they are: see `upstream`.
    """

    def pytest_generate_tests(self, metafunc: Any) -> None:
        if "upstream_test" in metafunc.fixturenames:
            metafunc.parametrize("upstream_test", self._upstream_tests(metafunc.config))

    def test_upstream(self, upstream_test: str) -> None:
        """What upstream asks of each of its models."""
        cases.run(self.model_type, upstream_test)

    def _upstream_tests(self, config: pytest.Config) -> list[Any]:
        """The names of upstream's tests. They take seconds, so that models outside the core run them with ``--full``."""
        if not self.runs_every_test(config):
            return [pytest.param("all", marks=pytest.mark.full)]
        if why_not := sources.why_not():
            return [pytest.param("none", marks=pytest.mark.skip(reason=why_not))]
        return cases.names(self.model_type)

    def test_without_heads_is_the_base_model(self) -> None:
        heads.headless_is_base(self.model_type)

    def test_resizing_embeddings_keeps_known_tokens(self) -> None:
        heads.embeddings_are_resized(self.model_type)

    def test_model_is_pickled(self) -> None:
        heads.model_is_pickled(self.model_type)

    def test_adapter_survives_saving_the_model(self) -> None:
        heads.headless_is_saved(self.model_type)


class AdapterModelTests(HeadlessModelTests):
    """The class with flexible heads."""

    def pytest_generate_tests(self, metafunc: Any) -> None:
        super().pytest_generate_tests(metafunc)
        if "head_type" in metafunc.fixturenames:
            wanted = self.runs_every_test(metafunc.config)
            metafunc.parametrize("head_type", heads.head_types(self.model_type) if wanted else [_NOT_WANTED])

    def test_head_computes_logits_loss_and_gradients(self, head_type: str) -> None:
        heads.head_works(self.model_type, head_type)

    def test_heads_run_together(self) -> None:
        heads.heads_run_together(self.model_type)

    def test_head_and_adapter_survive_saving_the_model(self, head_type: str) -> None:
        heads.model_is_saved(self.model_type, head_type)

    def test_head_is_saved_with_the_adapter(self, head_type: str) -> None:
        heads.head_is_saved_with_adapter(self.model_type, head_type)


_NOT_WANTED = pytest.param(None, id="full", marks=pytest.mark.full)


def _label(text: str) -> str:
    return text.replace(" ", "_")
