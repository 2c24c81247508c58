"""Tests of the table of tokens: to read, set and resize it, and to give its vectors in place of ids."""

from __future__ import annotations

import contextlib
import inspect

import torch

from conformance.outputs import run
from upstream.exempt.conditions import takes_no_tokens
from upstream.exempt.table import Exempt, Facts


def _reads_rows_behind(facts: Facts) -> bool:
    """Upstream's model looks up more rows of its embeddings than those of the tokens that the head predicts (CPM-Ant's, of prompts)."""
    size = getattr(facts.config.get_text_config(), "vocab_size", None)
    upstream = facts.subject.upstream()
    with contextlib.suppress(NotImplementedError):
        table = upstream.get_input_embeddings()
        if facts.vocabulary and size is not None and isinstance(table, torch.nn.Embedding):
            read: list[int] = []
            table.register_forward_pre_hook(lambda module, args: read.append(int(args[0].max())))
            run(upstream, facts.subject.padded_inputs())
            return max(read, default=0) >= size
    return False


EXEMPT: tuple[Exempt, ...] = (
    Exempt(
        "resize_position_vector_embeddings",
        "upstream runs it only for models that state a method for it",
        "does not have position embeddings",
    ),
    Exempt(
        "resize_tokens_embeddings resize_embeddings_untied resize_embeddings_untied_no_reinit_on_post_init",
        "the model has no token embeddings",
        "test_resize_embeddings",
        lambda facts: not facts.subject.text,
    ),
    Exempt(
        "resize_embeddings_untied resize_embeddings_untied_no_reinit_on_post_init",
        "the configuration cannot untie the embeddings",
        "cannot untie",
        lambda facts: facts.always_tied,
    ),
    Exempt(
        "resize_embeddings_untied",
        "upstream's model has tokens of its own behind the vocabulary, which it does not resize",
        "index out of range in self",
        _reads_rows_behind,
    ),
    Exempt(
        "inputs_embeds",
        "the model takes no embeddings",
        "doesn't use `inputs_embeds`",
        lambda facts: "inputs_embeds" not in inspect.signature(facts.tested.forward).parameters,
    ),
    Exempt(
        "model_get_set_embeddings",
        "upstream's own test classes replace it for models without token embeddings",
        "is not an instance of .*Embedding|NotImplementedError",
        lambda facts: not isinstance(facts.embeddings, torch.nn.Embedding),
    ),
    Exempt(
        "resize_tokens_embeddings",
        "upstream's model has tables by tokens, or tokens of its own behind the vocabulary, which it does not resize",
        "out of bounds for dimension 0|index out of range in self",
        of_upstream=True,
    ),
    Exempt(
        "inputs_embeds",
        "what upstream calls the embeddings of the inputs has fewer rows than there are tokens",
        "index out of range in self",
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "resize_tokens_embeddings",
        "upstream's model of any two resizes embeddings in these two",
        "Resizing the embedding layers via|`set_input_embeddings` not auto",
        lambda facts: facts.config.is_encoder_decoder,
        of_upstream=True,
    ),
    Exempt(
        "inputs_embeds",
        "upstream's model reads the ids of the tokens beside their embeddings",
        "'NoneType' object has no attribute '(reshape|device)'|input_ids is required",
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "model_get_set_embeddings",
        "upstream's model says which embeddings are those of its inputs, and does not set them",
        "`set_input_embeddings` not auto.handled",
        of_upstream=True,
    ),
    Exempt(
        "inputs_embeds resize_tokens_embeddings",
        "upstream's model does not say which embeddings are those of its inputs",
        "`get_input_embeddings` not auto.handled",
        of_upstream=True,
    ),
    Exempt(
        "inputs_embeds",
        "upstream's embeddings are several tables, one of each codebook, which the test calls as one",
        r"Module \[ModuleList\] is missing the required \"forward\"",
        lambda facts: isinstance(facts.embeddings, torch.nn.ModuleList),
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "inputs_embeds",
        "upstream's model gives its decoder the id of a first token where it is given none, beside embeddings",
        "exactly one of decoder_input_ids or decoder_inputs_embeds",
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "inputs_embeds",
        "the embeddings are not those of tokens, which upstream looks for",
        "KeyError: 'input_ids'",
        takes_no_tokens,
        of_upstream=True,
    ),
    Exempt(
        "inputs_embeds",
        "upstream's model does not take images beside embeddings",
        "(?i)cannot specify both (pixel_values|input_features) and inputs_embeds",
        of_upstream=True,
    ),
    Exempt(
        "inputs_embeds",
        "upstream's model has an argument for embeddings, and refuses them",
        "does not use `inputs_embeds`|missing 1 required positional argument: 'input_ids'",
        of_upstream=True,
    ),
)
