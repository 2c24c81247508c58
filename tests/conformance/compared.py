"""What a check compared that it compares only where upstream itself can: the line of a model's results lists it.

Upstream's own class is asked whether it takes a row with two images, or padding on the left; where it raises, nothing is compared. A case
that no longer runs, because it is made otherwise or upstream has changed, would go unnoticed but for the list, which then is shorter.
"""

from __future__ import annotations

_noted: set[str] = set()


def note(what: str) -> None:
    """A check has compared `what`."""
    _noted.add(what)


def taken() -> tuple[str, ...]:
    """What was noted since the last call."""
    found = tuple(sorted(_noted))
    _noted.clear()
    return found
