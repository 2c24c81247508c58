"""A head that paints what stands behind masked patches of an image.

Letters of shapes: B batch, L positions, H hidden, S width of patches where the masked ones are replaced, Y and X sides of an image
in pixels, N patches that can be masked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional
from transformers.modeling_outputs import MaskedImageModelingOutput
from transformers.utils import ModelOutput

from adapter_runtime.contract.head_config import HeadConfig
from adapter_runtime.heads.base import PredictionHead
from adapter_runtime.heads.outputs import with_logits
from adapter_runtime.heads.sizes import feeding_config, hidden_size

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MASK = "bool_masked_pos"  # what upstream calls the patches that are masked


class MaskedImageModelingHead(PredictionHead):
    """An image out of the states of its patches, some of which were masked.

    Attributes:
        mask_token: [1, 1, S], what the base model puts in the place of masked patches.
    """

    head_type = "masked_image_modeling"
    label_arguments = ()  # the loss compares with the image itself
    is_pooled = False
    mask_token: nn.Parameter

    def __init__(
        self,
        model: PreTrainedModel,
        head_name: str,
        encoder_stride: int,
        num_channels: int,
        patch_size: int,
        image_size: int,
        token_size: int,
        first_patch: int = 0,
    ) -> None:
        config: HeadConfig = {
            "encoder_stride": encoder_stride,
            "num_channels": num_channels,
            "patch_size": patch_size,
            "image_size": image_size,
            "token_size": token_size,
            "first_patch": first_patch,
            "label2id": None,
        }
        super().__init__(head_name, config)
        self.build(model)

    def build(self, model: PreTrainedModel, out_features: int | None = None) -> None:
        pixels = self.config["encoder_stride"] ** 2 * self.config["num_channels"]
        self._append(nn.Conv2d(hidden_size(feeding_config(model)), out_features or pixels, kernel_size=1))
        self.register_parameter("mask_token", nn.Parameter(torch.zeros(1, 1, self.config["token_size"])))
        self.initialise(model)

    def get_label_names(self) -> list[str]:
        return [MASK]

    def logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The image [B, channels, Y, X] out of the states [B, L, H] of patches, and of what stands before them."""
        patches = hidden_states[:, self.config["first_patch"] :]
        side = math.isqrt(patches.shape[1])
        grid = patches.transpose(1, 2).reshape(len(patches), patches.shape[2], side, side)  # [B, H, side, side]
        return functional.pixel_shuffle(self[0](grid), self.config["encoder_stride"])

    def forward(
        self,
        outputs: ModelOutput,
        cls_output: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        bool_masked_pos: torch.Tensor | None = None,
    ) -> ModelOutput:
        """The image, ``reconstruction`` [B, channels, Y, X], and where patches are masked the loss: how far off their pixels are.

        Args:
            outputs: of the base model; ``last_hidden_state`` is [B, L, H].
            cls_output: not used.
            attention_mask: not used.
            pixel_values: [B, channels, Y, X], the image that was masked.
            bool_masked_pos: [B, N], true, or 1, at masked patches.

        Raises:
            ValueError: the head paints an image of another size than the one that was given.
        """
        image = self.logits(outputs.last_hidden_state)
        loss = None
        if bool_masked_pos is not None and pixel_values is not None:
            if image.shape != pixel_values.shape:
                raise ValueError(
                    f"The head paints images of the shape {tuple(image.shape)}, but was given {tuple(pixel_values.shape)}."
                    f" encoder_stride is {self.config['encoder_stride']}: of patches that are not merged, it must be their size."
                )
            loss = self._loss(image, pixel_values, bool_masked_pos)
        return with_logits((MaskedImageModelingOutput,), outputs, loss, reconstruction=image)

    def _loss(self, image: torch.Tensor, wanted: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        """The mean distance of masked pixels, a scalar; both images are [B, channels, Y, X], `masked` is [B, N]."""
        size, side = self.config["patch_size"], self.config["image_size"] // self.config["patch_size"]
        mask = masked.reshape(-1, side, side).repeat_interleave(size, 1).repeat_interleave(size, 2).unsqueeze(1)
        distances = functional.l1_loss(wanted, image, reduction="none")
        return (distances * mask).sum() / (mask.sum() + 1e-5) / self.config["num_channels"]


@contextmanager
def lent(base: nn.Module, path: str, token: torch.Tensor) -> Iterator[None]:
    """While this runs, `base` has `token` at `path`, where upstream's classes without masked images have None."""
    owner, _, name = path.rpartition(".")
    attributes = base.get_submodule(owner).__dict__
    before = attributes.get(name)
    attributes[name] = token  # no parameter of the base model: it is the head's
    try:
        yield
    finally:
        attributes[name] = before
