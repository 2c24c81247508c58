"""The mutation check (``tests/mutations.py``) takes minutes and is run by hand; that its lines still stand is cheap to know."""

from __future__ import annotations

import pytest

from mutations import DEFECTS, MUTATIONS, PACKAGE, SOURCE, Mutation


@pytest.mark.parametrize("mutation", [*MUTATIONS, *DEFECTS], ids=lambda mutation: mutation.title)
def test_the_line_of_a_mutation_stands_once(mutation: Mutation) -> None:
    source = (SOURCE / PACKAGE / mutation.path).read_text(encoding="utf-8")
    assert source.count(mutation.old) == 1, f"write the line of {mutation.path} as it is now into tests/mutations.py"
