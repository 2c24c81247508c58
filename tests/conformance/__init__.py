"""Conformance: what must hold for every model and every method, checked once for all of them.

    tiny.py        a tiny configuration of any model type
    subjects.py    what a check runs on: an upstream class, in one configuration, with inputs
    methods.py     the adapter methods, as a configuration string and in our own words
    reference/     adapters computed with plain torch on untouched upstream models
    adapted.py     our side: models after ``init``, with adapters
    handmade.py    the layout of two models without the tool, for tests of the references
    outputs.py     everything that a forward returns, and how it is compared
    sites.py       the places of an adapter, and which of them upstream itself does not reach
    unread.py      edits at positions that upstream does not read
    checks/        one module per promise; the table of all checks and where they apply
    defects/       mistakes planted on purpose, each with the check that finds it
    heads.py       the checks of classes with flexible heads
    suite.py       the base classes of the machine-written test modules
    report.py      the table model x method x check: ``python -m conformance --all``, from ``tests/``

Parity with checkpoints of `adapters` is held by ``tests/runtime/test_parity.py``.
"""
