"""What all tests share: one thread per worker, and the choice between what every run checks and the full set."""

from __future__ import annotations

import gc
import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; workers are processes
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test needs the network
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write tests/golden again from what is generated now"
    )
    parser.addoption(
        "--full",
        action="store_true",
        help="every conformance check for every model; without it, models outside the core run one, with all methods together",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked ``full``, unless asked for."""
    if config.getoption("--full"):
        return
    left_out = [item for item in items if item.get_closest_marker("full")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("full")]


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Once per module, take what lives on (imported modules, thousands of tests) out of what the garbage collector looks through.

    A Trainer, among others, has all of it collected several times in every run: two seconds each by the end of a whole suite.
    """
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny models are slower on several threads, and one thread keeps sums in one order."""
    try:
        import torch
    except ImportError:  # the tool's tests need no torch
        return
    torch.set_num_threads(1)
