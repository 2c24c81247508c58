"""What an entry of the table is, and what it may ask about a model."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from conformance.subjects import Subject
from upstream.model_tester import ModelTester


@dataclass(frozen=True)
class Facts:
    """What entries ask about a model."""

    subject: Subject  # upstream's base class and its instance
    config: PreTrainedConfig
    upstream: type[PreTrainedModel]
    tested: type[PreTrainedModel]
    head: str  # the type of the AdapterModel's head; "" = it can have none
    attentions: bool  # the model gives its attention weights out
    own: Callable[[str], str] = (
        lambda name: ""
    )  # what a test says of upstream's own class with the instance; "" = it passes

    @functools.cached_property
    def on_meta(self) -> PreTrainedModel:
        """The AdapterModel without memory. To be read only."""
        with torch.device("meta"):
            return self.tested(self.subject.config())

    @functools.cached_property
    def with_head(self) -> PreTrainedModel:
        """The same with the head that upstream's tests run on."""
        with torch.device("meta"):
            return self.tested(ModelTester(self.subject.model_type).get_config())

    @property
    def embeddings(self) -> torch.nn.Module | None:
        """What upstream takes for the embeddings of the inputs."""
        with contextlib.suppress(NotImplementedError):
            return self.on_meta.get_input_embeddings()
        return None

    @property
    def sdpa(self) -> bool:
        return self.tested._supports_sdpa

    @property
    def vocabulary(self) -> bool:
        """The head scores the tokens of a vocabulary, with weights that may be those of the embeddings."""
        return self.head.endswith("_lm")

    @property
    def always_tied(self) -> bool:
        """The configuration says tied, whatever it is told."""
        config = self.subject.config()
        with contextlib.suppress(Exception):
            config.get_text_config().tie_word_embeddings = False
        config.tie_word_embeddings = False  # as upstream's test does, also of a config that holds it in a part alone
        return bool(config.tie_word_embeddings)


@dataclass(frozen=True)
class Exempt:
    """Tests with a reason."""

    tests: str  # patterns of names, without test_, with spaces between
    reason: str
    says: str  # a regular expression that what upstream says must hold
    when: Callable[[Facts], bool] = lambda facts: True
    of_upstream: bool = False  # it says so of upstream's own class with the same instance, too
    word_for_word: bool = False  # and nothing else than of that, but for the name of the class

    def covers(self, name: str, facts: Facts) -> bool:
        if not any(fnmatchcase(name, f"test_{pattern}") for pattern in self.tests.split()):
            return False
        if self.of_upstream and not re.search(self.says, facts.own(name)):  # first: conditions may run models
            return False
        return self.when(facts)

    def check(self, name: str, said: str, facts: Facts | None = None) -> None:
        """Raise where a test was skipped or failed in another way.

        Raises:
            AssertionError: it was.
        """
        if self.word_for_word and facts is not None:
            renamed = said.replace(facts.tested.__name__, facts.upstream.__name__)
            theirs, ours = facts.own(name), renamed.replace("WithAdapters", "")  # of classes of layers
            if _words(theirs) != _words(ours):
                raise AssertionError(f"{name} says of upstream's own class {theirs}, but of ours {ours}")
        if not re.search(self.says, said):
            raise AssertionError(
                f"{name} should be skipped or fail with /{self.says}/ ({self.reason}). What it says is: {said}"
            )


def _words(said: str) -> list[str]:
    """In one order: what names several things may name them in any. What was measured depends on the weights, which are others."""
    return sorted(re.findall(r"[\w.]+", re.sub(r"\d\.\d+e[-+]\d+", "", said)))
