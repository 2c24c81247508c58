"""Which models with a class of ours are no parts, and may have it."""

from __future__ import annotations

import pytest
from torch import nn

from conformance.checks import wrapping
from conformance.checks.wrapping import stands_between

BASE, PART, OTHER = nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1)


class Between(nn.Module):
    """It holds a model, and says to which whole it belongs."""

    def __init__(self, inside: nn.Module, whole: nn.Module) -> None:
        super().__init__()
        self.inside = inside
        self.__dict__["adapters_base"] = whole


@pytest.mark.parametrize(
    ("module", "has_layers", "expected"),
    [
        pytest.param(Between(PART, BASE), True, False, id="with layers of its own, to which adapters might go"),
        pytest.param(Between(PART, OTHER), False, False, id="of another whole"),
        pytest.param(Between(OTHER, BASE), False, False, id="without a part in it"),
        pytest.param(OTHER, False, False, id="a module that belongs to none"),
        pytest.param(Between(PART, BASE), False, True, id="between a whole and its part"),
    ],
)
def test_a_model_may_stand_between_a_whole_and_a_part(
    module: nn.Module, has_layers: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wrapping, "lacks_layers", lambda _: not has_layers)
    assert stands_between(module, BASE, {BASE, PART}) is expected
