"""The check that a padded sound gives what it gives by itself: it finds edits of padding, and knows where upstream counts otherwise."""

from __future__ import annotations

import pytest

from adapter_runtime.methods.reft import positions
from conformance.checks.padded_sounds import cut_of, padded_sounds_are_as_alone
from conformance.methods import method
from conformance.reasons import DoesNotApply
from conformance.subjects import Subject, method_subjects


def _subject(model_type: str) -> Subject:
    return method_subjects(model_type)[0]


@pytest.mark.parametrize("model_type", ["wav2vec2", "speech_to_text", "parakeet_encoder"])
def test_edits_of_padding_are_found(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    subject, edits = _subject(model_type), method("noreft")
    padded_sounds_are_as_alone(subject, edits)
    monkeypatch.setattr(positions, "real_positions", lambda *args: None)
    monkeypatch.setattr(positions, "_check_untold", lambda *args: None)
    with pytest.raises(AssertionError, match="where it is padded"):
        padded_sounds_are_as_alone(subject, edits)


def test_other_methods_have_the_outputs_of_the_sound_by_itself() -> None:
    padded_sounds_are_as_alone(_subject("wav2vec2-bert"), method("seq_bn"))
    with pytest.raises(DoesNotApply):  # its first norm is over all samples
        padded_sounds_are_as_alone(_subject("wav2vec2"), method("seq_bn"))


def test_where_upstream_takes_padding_for_real_it_is_said_so() -> None:
    """Moonshine rounds the length of a mask up, and that of a sound down."""
    with pytest.raises(DoesNotApply, match="stands in padded places"):
        padded_sounds_are_as_alone(_subject("moonshine"), method("noreft"))


@pytest.mark.parametrize("model_type", ["whisper", "llama", "vit", "qwen2_audio"])
def test_models_without_a_mask_that_counts_a_sound_have_no_such_padding(model_type: str) -> None:
    assert cut_of(_subject(model_type)) == (0, 0)
