"""What files, configs of models and generated tables say about a prediction head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict


class HeadConfig(TypedDict, total=False):
    """The config of a flexible head, as it is written to ``head_config.json``.

    A kind of head has the entries that are options of its constructor. Heads of users' own may have further ones.
    """

    head_type: str  # under which `HEAD_CLASSES`, or `register_custom_head`, has the class
    num_labels: int
    label2id: dict[str, int] | None  # name of each label -> its index; None = the head has no labels
    num_choices: int
    layers: int
    activation_function: str | None
    use_pooler: bool
    bias: bool
    dropout_prob: float | None  # None = that of the model
    multilabel: bool
    vocab_size: int
    embedding_size: int
    layer_norm: bool
    shift_labels: bool


class StaticHeadConfig(HeadConfig, total=False):
    """The config of the flexible head for one of upstream's, before the config of a model fills in the rest."""

    activation_key: str  # the field of the model's config that names the activation


class StaticHead(TypedDict):
    """The flexible head that the weights of a head of upstream's fit into."""

    config: StaticHeadConfig
    # For each layer of the flexible head, the path of upstream's module with its weights; None = it has none.
    layers: Sequence[str | None]
