"""Inputs for tests of the runtime."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from adapter_runtime.contract import registry


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    """Two rows of seven tokens; the second is padded on the left."""
    generator = torch.Generator().manual_seed(2)
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1, :3] = 0
    return {"input_ids": torch.randint(3, 99, (2, 7), generator=generator), "attention_mask": mask}


@pytest.fixture
def nothing_generated(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no models had been generated."""
    import adapter_models  # noqa: F401  registers

    emptied = dataclasses.replace(
        registry.registered(), model_mixins={}, with_adapters={}, model_types=(), own_classes={}
    )
    monkeypatch.setattr(registry, "_registry", emptied)
