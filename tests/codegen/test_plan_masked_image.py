"""Heads that paint what is masked of an image: what is recognised in upstream's code, and what is not."""

from __future__ import annotations

import pytest

from adapter_codegen.parse import parse_module
from adapter_codegen.plan.heads.forms.head import FormedHead
from adapter_codegen.plan.heads.forms.masked_image import read_masked_image
from adapter_codegen.upstream import open_release

VIT = ("vit", "ViT")


def read(folder: str, name: str, old: str = "", new: str = "") -> FormedHead | None:
    path = f"models/{folder}/modeling_{folder}.py"
    text = open_release().read(path)
    assert old in text
    facts = parse_module(text.replace(old, new) if old else text, path)
    return read_masked_image(facts, facts.classes[f"{name}ForMaskedImageModeling"], f"{name}Model")


@pytest.mark.parametrize(
    ("folder", "name", "attribute", "first", "width"),
    [
        pytest.param("vit", "ViT", "vit", 1, "hidden_size", id="behind a class token"),
        pytest.param("deit", "DeiT", "deit", 2, "hidden_size", id="behind two tokens"),
        pytest.param("swin", "Swin", "swin", 0, "embed_dim", id="of patches that were merged"),
        pytest.param("swinv2", "Swinv2", "swinv2", 0, "embed_dim", id="that may also be a tuple"),
    ],
)
def test_a_head_of_this_form_is_read(folder: str, name: str, attribute: str, first: int, width: str) -> None:
    head = read(folder, name)
    assert head is not None
    assert (head.base_attribute, head.layers) == (attribute, ("decoder.0",))
    assert (head.mask_token, head.tensors) == (
        "embeddings.mask_token",
        ((f"{attribute}.embeddings.mask_token", "mask_token"),),
    )
    assert dict(head.options) == {
        "encoder_stride_key": "encoder_stride",
        "num_channels_key": "num_channels",
        "patch_size_key": "patch_size",
        "image_size_key": "image_size",
        "token_size_key": width,
        "first_patch": first,
    }


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("nn.functional.l1_loss(pixel", "nn.functional.mse_loss(pixel", id="another distance"),
        pytest.param("(mask.sum() + 1e-5)", "mask.numel()", id="the mean of all pixels"),
        pytest.param("(0, 2, 1).reshape(batch_size, num_channels", "(0, 2, 1).reshape(batch_size, -1", id="another grid"),
        pytest.param("sequence_output[:, 1:]\n", "sequence_output[:, :-1]\n", id="the last position is left out"),
        pytest.param("nn.PixelShuffle(config.encoder_stride)", "nn.PixelShuffle(config.patch_size)", id="another size of patches"),
        pytest.param("reconstruction=reconstructed_pixel_values", "reconstruction=sequence_output", id="another image is given"),
        pytest.param("reconstructed_pixel_values = self.decoder(sequence_output)", "reconstructed_pixel_values = self.decoder(sequence_output).sigmoid()", id="something stands behind the projection"),
        pytest.param("sequence_output = outputs.last_hidden_state\n\n        # Reshape", "sequence_output = outputs.last_hidden_state.tanh()\n\n        # Reshape", id="something stands before it"),
        pytest.param("        outputs: BaseModelOutputWithPooling = self.vit(\n", "        pixel_values = pixel_values * 2\n        outputs: BaseModelOutputWithPooling = self.vit(\n", id="the image is another one"),
        pytest.param("bool_masked_pos=bool_masked_pos,\n            interpolate_pos_encoding=interpolate_pos_encoding,\n            attention_mask=attention_mask,\n            **kwargs", "**kwargs", id="the base model does not mask"),
        pytest.param("add_pooling_layer=False, use_mask_token=True)\n\n        self.decoder", "add_pooling_layer=False, use_mask_token=True, deep=True)\n\n        self.decoder", id="a flag that makes no token"),
        pytest.param("add_pooling_layer=False, use_mask_token=True)\n\n        self.decoder", "add_pooling_layer=False)\n\n        self.decoder", id="no flag"),
        pytest.param("nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if use_mask_token", "nn.Parameter(torch.zeros(1, 2, config.hidden_size)) if use_mask_token", id="two tokens"),
        pytest.param("        self.position_embeddings = nn.Parameter", "        self.more = use_mask_token\n        self.position_embeddings = nn.Parameter", id="the flag decides on more"),
    ],
)  # fmt: skip
def test_a_head_of_another_form_is_not(old: str, new: str) -> None:
    assert read(*VIT, old, new) is None
