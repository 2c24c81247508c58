"""Upstream's own tests of its models, run on our AdapterModels.

    sources.py      finds upstream's tests, and imports them: ``test_modeling_common`` of the source archive, or of a checkout
    fetch.py        fetches the source archive of the installed release (the tox environments call it)
    model_tester.py what upstream's tests ask for a configuration and inputs, from our tiny instances
    cases.py        the test case of one model: upstream's `ModelTesterMixin`, or its own class for the model; runs one test
    exempt/         the tests that upstream skips or that cannot hold, each with its reason, by kinds of tests

`conformance.suite.HeadlessModelTests` runs them, so each rendered ``<Model>AdapterModelTest`` does. None of upstream's files is
part of this project: without them these tests skip. Where do I add a reason? In ``exempt``; an entry that no longer holds
fails, and so does a test that upstream skips without one.
"""
