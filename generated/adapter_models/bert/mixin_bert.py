"""Roles of the modules of Bert."""

from adapter_runtime import EmbeddingAdaptersMixin, InvertibleAdaptersMixin, LayerAdaptersMixin, ModelBaseAdaptersMixin
from adapter_runtime.roles import AttentionRoles, BottleneckRole, LayerRoles, LayerStack, MLPRoles


class BertLayerAdaptersMixin(LayerAdaptersMixin):
    roles = LayerRoles(
        attentions=(
            AttentionRoles(
                core="attention.self",
                kind="self",
                query="attention.self.query",
                key="attention.self.key",
                value="attention.self.value",
                output="attention.output.dense",
                head_dim="attention_head_size",
            ),
            AttentionRoles(
                core="crossattention.self",
                kind="cross",
                query="crossattention.self.query",
                key="crossattention.self.key",
                value="crossattention.self.value",
                output="crossattention.output.dense",
                head_dim="attention_head_size",
            ),
        ),
        bottlenecks=(
            BottleneckRole(host="attention.output", location="attention"),
            BottleneckRole(host="crossattention.output", location="cross_attention"),
            BottleneckRole(host="output", location="output"),
        ),
        mlp=MLPRoles(first=("intermediate.dense",), last=("output.dense",)),
        optional=("crossattention",),
    )


class BertModelAdaptersMixin(EmbeddingAdaptersMixin, InvertibleAdaptersMixin, ModelBaseAdaptersMixin):
    layer_stacks = (LayerStack("encoder.layer"),)
    token_embeddings = "embeddings.word_embeddings"
    embedding_output = "embeddings"
