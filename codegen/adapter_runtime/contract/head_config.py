"""What files, configs of models and generated tables say about a prediction head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from typing_extensions import Required

from adapter_runtime.contract.values import Json


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
    norm_eps: float  # of that norm; where it is missing, that of the model
    norm_bias: bool
    hidden_bias: bool  # of the projections but the last
    shift_labels: bool
    skip_padding: bool  # the loss leaves out what the attention mask does; missing: as upstream's class with this head
    labels_of_end: bool  # labels are of the last positions, what stands before has none; missing: as upstream's class with this head
    input_scale: float  # factor of the hidden states; where it is missing, as the config of the model says
    logit_scale: float  # factor of the logits
    logit_softcap: float | None  # the logits stay below it: tanh(logits / cap) * cap
    kept_tokens: int | None  # logits are of so many tokens, the first ones; the projection pads their number
    logits_bias: bool  # a buffer, which is not trained, is added to the logits
    projection_size: (
        int | None
    )  # width behind the projections but the last; None or missing: that of the hidden states
    input_norm: bool  # a norm stands before the first projection
    weighted_layers: bool  # the head reads a weighted sum of what all layers give, and not the last hidden states
    # Of the layers of an x-vector head that read several frames together: width, how many frames, how far apart.
    tdnn_dim: list[int]
    tdnn_kernel: list[int]
    tdnn_dilation: list[int]
    xvector_output_dim: int
    scale: float  # of the cosines in its loss
    margin: float  # by which that of the true voice must be larger
    # Of a head that paints images.
    encoder_stride: int  # pixels of a side that it paints out of one state
    num_channels: int
    patch_size: int  # pixels of a side of what can be masked
    image_size: int
    token_size: int  # width of the token for masked patches
    first_patch: int  # how many positions stand before those of patches


class TransformOptions(TypedDict, total=False):
    """Options of the layers of heads that predict no tokens, which few of upstream's heads need. What is missing is not written."""

    layer_norm: bool  # behind each activation, as ModernBERT's heads have it
    projection_size: int | None
    input_norm: bool
    weighted_layers: bool
    norm_eps: float
    norm_bias: bool
    hidden_bias: bool


class LogitOptions(TypedDict, total=False):
    """Options of language modelling heads that few of upstream's heads need. What is missing is not written."""

    skip_padding: bool
    labels_of_end: bool
    norm_eps: float
    norm_bias: bool
    hidden_bias: bool
    input_scale: float
    logit_scale: float
    logit_softcap: float | None
    kept_tokens: int | None
    logits_bias: bool


class Factors(TypedDict, total=False):
    """A number that follows from the config of a model."""

    # Fields, or numbers, each with its power; their product is the number.
    terms: Sequence[Sequence[str | float]]
    flag: str  # the field without which the number is 1


class StaticHeadConfig(HeadConfig, total=False):
    """The config of the flexible head for one of upstream's, before the config of a model fills in the rest.

    What ends in ``_key`` is the field of the model's config that says it. Fields of sub-configs are named with dots.
    """

    activation_key: str
    dropout_rates: Sequence[str | float]  # fields, and numbers, of which the first that the config has counts
    first_dropout_rates: Sequence[str | float]  # the same before the first of several projections, where it is another
    bias_key: str
    embedding_size_key: str
    hidden_bias_key: str
    kept_tokens_key: str
    norm_bias_key: str
    norm_eps_key: str
    projection_size_key: str
    softcap_key: str
    weighted_layers_key: str
    tdnn_dim_key: str
    tdnn_kernel_key: str
    tdnn_dilation_key: str
    xvector_output_dim_key: str
    encoder_stride_key: str
    num_channels_key: str
    patch_size_key: str
    image_size_key: str
    token_size_key: str
    input_factors: Factors
    logit_factors: Factors
    requires: Mapping[str, Json]  # fields of the model's config, with the values for which upstream's head is this one


class StaticHead(TypedDict, total=False):
    """The flexible head that the weights of a head of upstream's fit into."""

    config: Required[StaticHeadConfig]
    # For each layer of the flexible head, the path of upstream's module with its weights; None = it has none. A star in a path stands
    # for the numbers of a list, which the layer of the flexible head then is, too: "tdnn.*.kernel".
    layers: Required[Sequence[str | None]]
    tensors: Mapping[str, str]  # further keys of upstream's -> keys in the flexible head
