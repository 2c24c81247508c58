"""Llama with flexible heads."""

from transformers import GenerationMixin, LlamaModel, LlamaPreTrainedModel

from adapter_runtime import EmbeddingAdaptersWrapperMixin, ModelWithFlexibleHeadsAdaptersMixin


class LlamaAdapterModel(
    EmbeddingAdaptersWrapperMixin, ModelWithFlexibleHeadsAdaptersMixin, LlamaPreTrainedModel, GenerationMixin
):
    head_types = ("classification", "multilabel_classification", "tagging", "question_answering", "causal_lm")

    def __init__(self, config):
        super().__init__(config)
        self.model = LlamaModel(config)
        self.init_adapter_model()  # init(self), heads of the config, post_init

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        use_cache=None,
        head=None,
        **kwargs,
    ):
        head_kwargs, kwargs = self.split_head_kwargs(kwargs)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        return self.forward_head(outputs, head=head, input_ids=input_ids, attention_mask=attention_mask, **head_kwargs)
