"""What the tests of the tool share: the installed release, read once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from adapter_codegen.parse import AutoMappings, ModuleFacts, parse_module, read_auto_mappings
from adapter_codegen.upstream import Release, open_release


@pytest.fixture(scope="session")
def release() -> Release:
    return open_release()


@pytest.fixture(scope="session")
def mappings(release: Release) -> AutoMappings:
    return read_auto_mappings(release)


@pytest.fixture(scope="session")
def upstream_facts(release: Release, mappings: AutoMappings) -> Callable[[str], ModuleFacts]:
    """Facts of the real modeling file of a model type."""

    @cache
    def facts(model_type: str) -> ModuleFacts:
        path = mappings.entry(model_type).path
        return parse_module(release.read(path), path)

    return facts
