"""`AdapterTrainer`: transformers' `Trainer`, told what is special about adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import torch
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.utils import logging

from adapter_runtime.call.arguments import Argument
from adapter_runtime.composition import Setup
from adapter_runtime.contract.values import Json
from adapter_runtime.model.api import ModelAdaptersMixin
from adapter_runtime.training.checkpoints import load_trained, save_trained
from adapter_runtime.training.decay import own_parameters
from adapter_runtime.training.losses import HeadLabelSmoother, Predictions, per_head, uses_item_count
from adapter_runtime.training.readiness import (
    TrainingSetupError,
    active_heads,
    check_active,
    check_trainable,
)

if TYPE_CHECKING:
    from transformers import (
        DataCollator,
        EvalPrediction,
        PreTrainedModel,
        PreTrainedTokenizerBase,
        ProcessorMixin,
        TrainerCallback,
    )
    from transformers.trainer_pt_utils import LabelSmoother
    from transformers.trainer_utils import TrainOutput
    from transformers.utils import ModelOutput

logger = logging.get_logger(__name__)


# What a search for hyperparameters tries in one run.
Trial: TypeAlias = "Mapping[str, Json]"
# From the outputs of a model, the targets, and the number of items in all batches of a step.
LossFunction: TypeAlias = "Callable[[ModelOutput, torch.Tensor, torch.Tensor | int | None], torch.Tensor]"


class Examples(Protocol):
    """A data set: one of torch or of the library ``datasets``, or a list of examples."""

    def __getitem__(self, index: int, /) -> Mapping[str, Argument]: ...


class AdapterTrainer(Trainer):
    """A `Trainer` for the adapters, fusions and heads of a model whose base is frozen.

    What differs from `transformers.Trainer`, to which all other arguments belong:

    - checkpoints hold adapters, fusions, heads and whatever else is trained, never the weights of the base model;
    - weight decay skips biases, norms and parameters whose neutral value is not zero (see ``decay.py``);
    - the regularisation of fusions is part of the training loss (https://arxiv.org/abs/2005.00247);
    - ``label_names`` are those of the active heads;
    - losses that do not count items are averaged over accumulation steps.

    Args:
        model: a model with adapters. `train_adapter` or `train_adapter_fusion` may be called before or after.
        tokenizer: another name for `processing_class`.
        adapter_names: a setup to activate; None = what is active.

    Raises:
        TrainingSetupError: the model has no adapters or none is active, or an option cannot be honoured.
    """

    label_smoother: LabelSmoother | HeadLabelSmoother | None
    model_accepts_loss_kwargs: bool
    _signature_columns: list[str] | None

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: DataCollator | None = None,
        train_dataset: Examples | None = None,
        eval_dataset: Examples | Mapping[str, Examples] | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        processing_class: PreTrainedTokenizerBase | ProcessorMixin | None = None,
        model_init: Callable[[], nn.Module] | Callable[[Trial], nn.Module] | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        callbacks: Sequence[TrainerCallback | type[TrainerCallback]] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
        preprocess_logits_for_metrics: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
        adapter_names: Setup = None,
        **kwargs: LossFunction | tuple[type[torch.optim.Optimizer], dict[str, Json]] | None,
    ) -> None:
        if tokenizer is not None and processing_class not in (None, tokenizer):
            raise TrainingSetupError("tokenizer and processing_class are two names of one argument. Give one of them.")
        self.adapter_setup = adapter_names
        self._is_loss_probed = False
        if model is not None:
            self._activate(model)
        with _as_unquantized(model):
            super().__init__(
                model=model,
                args=args,
                data_collator=data_collator,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=tokenizer if processing_class is None else processing_class,
                model_init=model_init,
                compute_metrics=compute_metrics,
                callbacks=None if callbacks is None else list(callbacks),
                optimizers=optimizers,
                preprocess_logits_for_metrics=preprocess_logits_for_metrics,
                **kwargs,
            )
        self._refuse_sharding()
        names = [name for head in active_heads(self.model) for name in head.get_label_names()]
        if names and self.args.label_names is None:
            self.label_names = list(dict.fromkeys(names))
        if self.label_smoother is not None:
            self.label_smoother = HeadLabelSmoother(self.args.label_smoothing_factor, model=self.model)

    def _activate(self, model: nn.Module) -> None:
        if self.adapter_setup is not None and isinstance(model, ModelAdaptersMixin):
            model.set_active_adapters(self.adapter_setup)
        check_active(model)

    def _refuse_sharding(self) -> None:
        """Raise where no process holds whole parameters: adapters could not be written by themselves."""
        sharded = {
            "FSDP": self.is_fsdp_enabled or self.is_fsdp_xla_enabled,
            "DeepSpeed": self.is_deepspeed_enabled,
            "A model that is sharded as it is loaded": self.is_distributed_loading_by_transformers,
        }
        for what, is_used in sharded.items():
            if is_used:
                raise TrainingSetupError(
                    f"{what} is not supported by AdapterTrainer, whose checkpoints hold single adapters. With adapters,"
                    " gradients and optimiser are small: use DistributedDataParallel (torchrun without further options)."
                )

    def call_model_init(self, trial: Trial | None = None) -> nn.Module:
        """See transformers. Each new model gets the setup of this trainer."""
        model: ModelAdaptersMixin = super().call_model_init(trial)
        self._activate(model)
        self._is_loss_probed = False
        if getattr(self, "is_in_train", False):
            check_trainable(model)
        return model

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Trial | None = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """See transformers.

        Raises:
            TrainingSetupError: no adapter is active, the base model is not frozen, or nothing is to be trained.
        """
        if self.model_init is None:
            check_trainable(self.model)
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    # Optimiser and loss

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """The names of the parameters that weight decay applies to."""
        own = own_parameters(model)
        upstream = set(super().get_decay_parameter_names(model))
        return [name for name, _ in model.named_parameters() if own.get(name, name in upstream)]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, ModelOutput]:
        """See transformers. In training, the regularisation of trained fusions is added, once per optimiser step.

        Args:
            model: the model, as the trainer wraps it.
            inputs: the arguments of a call, with targets; tensors are [B, ...].
            return_outputs: give the outputs of the model too.
            num_items_in_batch: labels that count, over all batches of an optimiser step.
        """
        if model.training:
            self._probe_loss(model, inputs)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        penalty = self.model.get_fusion_regularization_loss() if model.training else None
        if penalty is not None:
            loss = loss + penalty / self._steps_that_are_summed(num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _steps_that_are_summed(self, num_items_in_batch: torch.Tensor | int | None) -> int:
        """The number of batches per optimiser step, where their losses are summed; 1 where they are averaged."""
        is_scaled: bool | None = self.loss_is_scaled_for_ga
        if is_scaled is None:
            counts = self.model_accepts_loss_kwargs and num_items_in_batch is not None
            is_scaled = counts or self.compute_loss_func is not None
        return int(self.current_gradient_accumulation_steps) if is_scaled else 1

    def _probe_loss(self, model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> None:
        """Find out, once, whether the loss of the model divides by the number of items that it is told.

        Upstream assumes so of every forward that takes ``**kwargs``, and then does not divide the loss by the number of
        accumulation steps. The gradients of a loss that ignores the number of items would be too large by that factor.
        """
        if self._is_loss_probed or self.compute_loss_func is not None or self.label_smoother is not None:
            return
        self._is_loss_probed = True
        is_summed = self.args.gradient_accumulation_steps > 1 or self.args.world_size > 1
        if self.model_accepts_loss_kwargs and is_summed and "labels" in inputs:
            with self.compute_loss_context_manager():
                self.model_accepts_loss_kwargs = uses_item_count(self.model, self._prepare_inputs(dict(inputs)))

    # Heads

    def _set_signature_columns_if_needed(self) -> None:
        """See transformers: which columns of a data set are given to the model. Heads take some that no forward names."""
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            heads = active_heads(self.model)
            taken = [name for head in heads for name in (*head.label_arguments, *head.input_arguments)]
            self._signature_columns = list(dict.fromkeys([*(self._signature_columns or ()), *taken]))

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **options: Argument,
    ) -> tuple[torch.Tensor | None, Predictions, Predictions]:
        """See transformers. The predictions of several heads are a tuple, one entry per head.

        Args:
            model: the model, as the trainer wraps it.
            inputs: the arguments of a call, with targets where there are some; tensors are [B, ...].
            prediction_loss_only: give the loss alone.
            ignore_keys: names of fields of the outputs that are no predictions.
            options: of `generate`, for a `Seq2SeqAdapterTrainer`.
        """
        loss, predictions, labels = super().prediction_step(
            model, inputs, prediction_loss_only, ignore_keys=ignore_keys, **options
        )
        return loss, per_head(predictions, getattr(self.model.config, "keys_to_ignore_at_inference", ())), labels

    # Files

    def _save(self, output_dir: str | None = None, state_dict: Mapping[str, torch.Tensor] | None = None) -> None:
        """See transformers: called in the process that writes."""
        if not self.args.should_save:
            return
        folder = Path(output_dir if output_dir is not None else self.args.output_dir)
        logger.info(f"Saving adapters to {folder}")
        save_trained(self.model, folder)
        processing = self.processing_class or getattr(self.data_collator, "tokenizer", None)
        if processing is not None:
            processing.save_pretrained(folder)
        torch.save(self.args, folder / TRAINING_ARGS_NAME)  # for people; nothing here reads it

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_trained(self.model, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        best = Path(self.state.best_model_checkpoint)
        if not best.is_dir():
            logger.warning(f"The best checkpoint {best} is not there: the adapters stay those of the last step.")
            return
        logger.info(f"Loading the best adapters from {best} (score: {self.state.best_metric}).")
        load_trained(self.model, best)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """See transformers, which would copy files of whole models from the checkpoint to what is pushed."""
        if self.args.should_save:
            save_trained(self.model, Path(self.args.output_dir))
        super()._push_from_checkpoint(checkpoint_folder)


@contextmanager
def _as_unquantized(model: PreTrainedModel | None) -> Iterator[None]:
    """Hide that the base model is quantized: upstream would refuse to train it, as it only knows of PEFT's adapters."""
    if model is None or not getattr(model, "is_quantized", False):
        yield
        return
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None and not quantizer.is_trainable:
        raise TrainingSetupError(f"No gradients flow through models quantized by a {type(quantizer).__name__}.")
    model.is_quantized = False
    try:
        yield
    finally:
        model.is_quantized = True
