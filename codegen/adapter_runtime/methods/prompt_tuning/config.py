"""Options of prompt tuning."""

from __future__ import annotations

from dataclasses import dataclass

from adapter_runtime.contract.config import AdapterConfig, check_choice, check_numbers, check_seed, check_whole
from adapter_runtime.errors import InvalidConfigError


@dataclass(frozen=True, eq=False)
class PromptTuningConfig(AdapterConfig):
    """Learned embeddings in front of those of the tokens (https://arxiv.org/abs/2104.08691).

    Args:
        architecture: by which files of such adapters are recognised. Default: "prompt_tuning".
        prompt_length: number of positions. Default: 10.
        prompt_init: "random_uniform", or "from_string": the embeddings of the tokens of `prompt_init_text`.
            Default: "random_uniform".
        prompt_init_text: the text for "from_string". Default: None.
        combine: "prefix": the prompt stands in front of all tokens; "prefix_after_bos": after the first real token of a row. Where
            layers see a window of columns, padding on the left stands in front of both. Default: "prefix".
        init_weights_seed: of a generator of its own for the first values; None = torch's. Default: None.
        random_uniform_scale: bound s of these values, which are drawn from [-s, s]. Default: 0.5.
        insert_at: "embedding_output": behind the module that embeds tokens and adds positions, types and norms to them, where
            a model has such a module (BERT), as in `adapters`; "token_embeddings": in the place of embeddings of tokens, so
            that all that is added to the prompt too, as in PEFT. In other models (Llama, GPT-2) both are the latter.
            Default: "embedding_output".
        tokenizer_name_or_path: tokenizer for "from_string"; None = the one beside the model's checkpoint. Default: None.

    Raises:
        InvalidConfigError: options that have no meaning.
    """

    architecture: str | None = "prompt_tuning"
    prompt_length: int = 10
    prompt_init: str = "random_uniform"
    prompt_init_text: str | None = None
    combine: str = "prefix"
    init_weights_seed: int | None = None
    random_uniform_scale: float = 0.5
    insert_at: str = "embedding_output"
    tokenizer_name_or_path: str | None = None

    def __post_init__(self) -> None:
        check_choice(self, "prompt_init", ("random_uniform", "from_string"))
        check_choice(self, "combine", ("prefix", "prefix_after_bos"))
        check_choice(self, "insert_at", ("embedding_output", "token_embeddings"))
        check_whole(self, 1, "prompt_length")
        check_numbers(self, "random_uniform_scale", least=0.0)
        check_seed(self)
        if self.prompt_init == "from_string" and not self.prompt_init_text:
            raise InvalidConfigError('prompt_init="from_string" needs a prompt_init_text.')


PromptTuningConfig.register("prompt_tuning")
