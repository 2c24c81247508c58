"""Roles of the modules of Llama."""

from adapter_runtime import InvertibleAdaptersMixin, EmbeddingAdaptersMixin, LayerAdaptersMixin, ModelBaseAdaptersMixin
from adapter_runtime.roles import AttentionRoles, BottleneckRole, LayerRoles, LayerStack, MLPRoles


class LlamaDecoderLayerAdaptersMixin(LayerAdaptersMixin):
    roles = LayerRoles(
        attentions=(
            AttentionRoles(
                core="self_attn",
                kind="self",
                query="self_attn.q_proj",
                key="self_attn.k_proj",
                value="self_attn.v_proj",
                output="self_attn.o_proj",
                head_dim="head_dim",
            ),
        ),
        bottlenecks=(
            BottleneckRole(host="attention_adapters", location="attention"),
            BottleneckRole(host="output_adapters", location="output"),
        ),
        mlp=MLPRoles(first=("mlp.up_proj",), gate=("mlp.gate_proj",), last=("mlp.down_proj",)),
    )


class LlamaModelAdaptersMixin(EmbeddingAdaptersMixin, InvertibleAdaptersMixin, ModelBaseAdaptersMixin):
    layer_stacks = (LayerStack("layers"),)
    token_embeddings = "embed_tokens"
    embedding_output = "embed_tokens"
    final_norm = "norm"
