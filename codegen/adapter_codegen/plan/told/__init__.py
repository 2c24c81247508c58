"""What a plan is told because upstream's text cannot say it; the files stand in ``plan/``.

overrides   by a person, in ``overrides.toml``: what structure leaves open
verdicts    by the conformance checks, in ``verdicts.json``: what does not work although it was understood
unreached   what follows for the edits: none is made for a method that is refused wherever it could be reached
"""
