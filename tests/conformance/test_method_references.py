"""The references of the later methods, on upstream alone, each against another way to say the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adapter_models.videoprism.mixin_videoprism import VideoPrismTextModelAdaptersMixin
from conformance.adapted import initialised
from conformance.checks.reference import as_called, equals_the_reference, with_sites
from conformance.handmade import NAME, layout, random
from conformance.methods import COMPACTER, SEQ_BN, Bottleneck, Invertible, LoRA, Prompt, ReFT, method
from conformance.outputs import assert_bitwise, assert_differs, assert_equal_within, at_tokens, run
from conformance.reference import applied
from conformance.reference.bottleneck import rule_of
from conformance.reference.embeddings import inverse, invertible_names, nice, prompt_name
from conformance.reference.layout import Layout, layout_of
from conformance.reference.lora import SHARPNESS, shared_name
from conformance.reference.reft import reft_names, rows_of
from conformance.reference.together import Averaged, Fused
from conformance.subjects import BATCH, LENGTH, PADS, Padding, Subject, method_subjects

OTHER = "adapter_b"
(LLAMA,) = method_subjects("llama")
BERT = method_subjects("bert")[0]
WIDTH = 32

# LoRA and its relatives: the same outputs by other weights of upstream


class Factors:
    """Random tensors of a relative of LoRA at one projection, and the weight and bias that it stands for."""

    def __init__(self, part: LoRA, linear: nn.Linear, shared: tuple[Tensor, Tensor], seed: int) -> None:
        self.part, self.linear, self.seed = part, linear, seed
        self.shared_A, self.shared_B = shared
        self.tensors: dict[str, Tensor] = {}

    def drawn(self, key: str, *shape: int) -> Tensor:
        """A tensor of the adapter, by the name that it has at the projection."""
        self.tensors[key] = random(*shape, seed=self.seed + len(self.tensors))
        return self.tensors[key]

    def changed(self) -> tuple[Tensor, Tensor | None]:
        """W and b."""
        weight, bias, form = self.linear.weight.detach(), self.linear.bias, self.part.form
        if form == "ia3":
            factor = self.drawn("lora_B", len(weight), 1)
            return weight * factor, None if bias is None else bias.detach() * factor[:, 0]
        weight = weight + self.part.alpha / self.part.r * self.update()
        if form in ("dora", "dvora"):
            weight = self.drawn("m.weight", len(weight), 1) * weight / weight.norm(dim=1, keepdim=True)
        return weight, None if bias is None else bias.detach()

    def update(self) -> Tensor:
        r, form = self.part.r, self.part.form
        outputs, inputs = self.linear.weight.shape
        if form in ("vera", "dvora"):
            inner, outer = self.drawn("vera_D", r), self.drawn("vera_B", outputs)
            return torch.diag(outer) @ self.shared_B[:outputs] @ torch.diag(inner) @ self.shared_A
        down = self.drawn("lora_A", r, inputs)
        if form != "mtl":
            return self.drawn("lora_B", outputs, r) @ down
        first, second = self.drawn("lora_B", 2, outputs, r)
        weights, task = self.drawn("weights", 2), self.drawn("task_specific.values", r)
        share = torch.sigmoid((weights[0] - weights[1]) / SHARPNESS)  # the softmax of two
        return (share * first + (1 - share) * second) @ torch.diag(task) @ down


def lora_weights(subject: Subject, part: LoRA, name: str = NAME, seed: int = 0) -> tuple[nn.Module, dict[str, Tensor]]:
    """Upstream with changed weights, and the tensors of the adapter that they stand for."""
    where, changed = layout(subject), subject.upstream()
    largest = WIDTH
    shared = random(part.r, WIDTH, seed=seed + 50), random(largest, part.r, seed=seed + 51)
    weights = {
        shared_name(where.base, name, key): tensor for key, tensor in zip(("lora_A", "lora_B"), shared, strict=True)
    }
    for index, attention in enumerate(where.attentions):
        for path in (attention.query, attention.value):
            linear = changed.get_submodule(path)
            factors = Factors(part, linear, shared, seed + 10 * index)
            weight, bias = factors.changed()
            with torch.no_grad():
                linear.weight.copy_(weight)
                if bias is not None:
                    linear.bias.copy_(bias)
            weights |= {f"{path}.loras.{name}.{key}": tensor for key, tensor in factors.tensors.items()}
    return changed, weights


@pytest.mark.parametrize("subject", [BERT, LLAMA], ids=lambda subject: subject.model_type)  # with biases, without
@pytest.mark.parametrize("form", ["lora", "ia3", "dora", "vera", "dvora", "mtl"])
def test_relatives_of_lora_are_changes_of_the_weights(form: Any, subject: Subject) -> None:
    part = LoRA(r=4, alpha=6, form=form)
    changed, weights = lora_weights(subject, part)
    upstream, inputs = subject.upstream(), subject.padded_inputs("left")
    expected = run(changed, inputs)
    with applied(upstream, layout(subject), [(NAME, (part,))], weights):
        assert_equal_within(run(upstream, inputs), expected, form)
    assert_differs(run(upstream, inputs), expected, form)


@pytest.mark.parametrize("form", ["lora", "ia3", "dora", "vera", "mtl"])
def test_average_of_relatives_of_lora_is_the_average_of_the_weights(form: Any) -> None:
    part = LoRA(r=4, alpha=6, form=form)
    models, weights = zip(
        *(lora_weights(BERT, part, name, 7 * i) for i, name in enumerate((NAME, OTHER))), strict=True
    )
    mixed, inputs = BERT.upstream(), BERT.padded_inputs()
    with torch.no_grad():
        for name, parameter in mixed.named_parameters():
            parameter.copy_(0.3 * models[0].get_parameter(name) + 0.7 * models[1].get_parameter(name))
    upstream = BERT.upstream()
    both = {**weights[0], **weights[1]}
    with applied(upstream, layout(BERT), [(NAME, (part,)), (OTHER, (part,))], both, Averaged((0.3, 0.7))):
        assert_equal_within(run(upstream, inputs), run(mixed, inputs), form)


# ReFT


def reft_weights(where: Layout, part: ReFT, name: str = NAME) -> dict[str, Tensor]:
    shapes = {"learned_source.weight": (2, WIDTH), "learned_source.bias": (2,)}
    names = reft_names(where, part, name)
    found = {
        key: random(*next((shape for leaf, shape in shapes.items() if key.endswith(leaf)), (2, WIDTH)), seed=seed)
        for seed, key in enumerate(names)
    }
    bases = {
        key.replace("original", "0.base"): torch.linalg.qr(random(WIDTH, WIDTH, seed=90 + seed)).Q
        for seed, key in enumerate(names)
        if key.endswith("original")
    }
    return {**found, **bases}


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("subtracts", [True, False])
def test_reft_changes_the_first_and_last_real_tokens_of_a_layer(subtracts: bool, padding: Padding) -> None:
    """Layer 0 reads what it reads without adapters, so its output is upstream's with the edits."""
    where, part = layout(LLAMA), ReFT(2, 1, subtracts=subtracts)
    upstream, inputs, weights = LLAMA.upstream(), LLAMA.padded_inputs(padding), reft_weights(where, part)
    expected = run(upstream, inputs)["hidden_states.1"].clone()
    for row, pads in enumerate(PADS if padding != "none" else (0,) * BATCH):
        start = pads if padding == "left" else 0
        stop = LENGTH - pads if padding == "right" else LENGTH
        for unit, positions in ((0, (start, start + 1)), (1, (stop - 1,))):
            prefix = f"{where.layers[0].path}.reft_layer.refts.{NAME}.units.{unit}"
            source, bias = weights[f"{prefix}.learned_source.weight"], weights[f"{prefix}.learned_source.bias"]
            rows = weights[f"{prefix}.projection.weight"]
            for position in positions:
                state = expected[row, position]
                difference = source.mv(state) + bias - (rows.mv(state) if subtracts else 0)
                expected[row, position] = state + difference @ rows
    with applied(upstream, where, [(NAME, (part,))], weights):
        actual = run(upstream, inputs)
    assert_equal_within({"layer 0": actual["hidden_states.1"]}, {"layer 0": expected}, "ReFT")


def test_orthonormal_rows_are_those_of_torch() -> None:
    part = ReFT(3, 0, orthonormal=True)
    weights = reft_weights(layout(LLAMA), part)
    prefix = f"model.layers.0.reft_layer.refts.{NAME}.units.0.projection"
    original, base = (weights[f"{prefix}.parametrizations.weight.{leaf}"] for leaf in ("original", "0.base"))
    original.fill_diagonal_(-1.0)  # as torch keeps it; of any other number it takes the integer part
    linear = nn.utils.parametrizations.orthogonal(nn.Linear(WIDTH, 2, bias=False))
    with torch.no_grad():
        linear.parametrizations.weight.original.copy_(original)
        linear.parametrizations.weight[0].base.copy_(base)
    rows = rows_of(part, prefix, weights)
    torch.testing.assert_close(rows, linear.weight.detach())
    torch.testing.assert_close(rows @ rows.T, torch.eye(2), atol=1e-5, rtol=0)


# Invertible adapters


def invertible_weights(where: Layout) -> dict[str, Tensor]:
    shapes = {"0.weight": (8, 16), "0.bias": (8,), "2.weight": (16, 8), "2.bias": (16,)}
    return {
        name: random(*next(shape for end, shape in shapes.items() if name.endswith(end)), seed=seed)
        for seed, name in enumerate(invertible_names(where, NAME))
    }


def test_inverse_undoes_an_invertible_adapter() -> None:
    where, x = layout(BERT), random(2, 3, WIDTH)
    weights = invertible_weights(where)
    changed = nice(x, NAME, where, weights)
    assert_differs({"x": changed}, {"x": x}, "NICE")
    torch.testing.assert_close(inverse(changed, NAME, where, weights), x)


def test_invertible_adapter_is_undone_before_a_tied_projection() -> None:
    """BERT's parts, called one by one."""
    where, upstream, inputs = layout(BERT), BERT.upstream(), BERT.padded_inputs()
    weights = invertible_weights(where)
    with torch.no_grad():
        states = nice(upstream.bert.embeddings(inputs["input_ids"]), NAME, where, weights)
        states = upstream.bert.encoder(states).last_hidden_state
        states = inverse(upstream.cls.predictions.transform(states), NAME, where, weights)
        expected = upstream.cls.predictions.decoder(states)
    with applied(upstream, where, [(NAME, (Invertible(),))], weights):
        assert_equal_within({"logits": run(upstream, inputs)["logits"]}, {"logits": expected}, "NICE")


def test_nothing_is_undone_before_a_projection_of_its_own() -> None:
    where, upstream, inputs = layout(LLAMA), LLAMA.upstream(), LLAMA.padded_inputs("left")
    weights = invertible_weights(where)
    embeddings = nice(upstream.model.embed_tokens(inputs["input_ids"]), NAME, where, weights).detach()
    rest = {key: value for key, value in inputs.items() if key != "input_ids"}
    expected = run(upstream, {**rest, "inputs_embeds": embeddings})
    with applied(upstream, where, [(NAME, (Invertible(),))], weights):
        assert_equal_within(run(upstream, inputs), expected, "NICE")


# Prompts


@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_prompt_is_embeddings_in_front(padding: Padding) -> None:
    where, upstream, inputs = layout(LLAMA), LLAMA.upstream(), LLAMA.padded_inputs(padding)
    prompt = random(5, WIDTH)
    embeddings = torch.cat([prompt.expand(BATCH, -1, -1), upstream.model.embed_tokens(inputs["input_ids"])], dim=1)
    longer: dict[str, Any] = {"inputs_embeds": embeddings.detach()}
    mask = inputs.get("attention_mask")
    if mask is not None:
        longer["attention_mask"] = torch.cat([mask.new_ones(BATCH, 5), mask], dim=1)
    expected = {"logits": run(upstream, longer)["logits"][:, 5:]}
    with applied(upstream, where, [(NAME, (Prompt(5),))], {prompt_name(where, NAME): prompt}):
        actual = {"logits": run(upstream, inputs)["logits"]}
    assert_equal_within(at_tokens(actual, mask), at_tokens(expected, mask), "prompt")
    assert_differs(at_tokens(actual, mask), at_tokens({"logits": run(upstream, inputs)["logits"]}, mask), "the prompt")


def test_prompt_within_a_whole_stands_behind_the_padding_where_layers_count_columns() -> None:
    """A window of a few columns would end before a prompt that stands in front of as many of padding."""
    (subject,) = method_subjects("gemma4_unified")
    tokens, upstream = (
        subject.padded_inputs()["input_ids"][:, -8:],
        subject.upstream(),
    )  # behind those of images and sounds
    mask = (torch.arange(tokens.shape[1]) >= torch.tensor(PADS)[:, None]).long()
    inputs = {"input_ids": tokens * mask, "attention_mask": mask}
    where = as_called(layout_of(initialised(subject)), subject, inputs)
    weights = {prompt_name(where, NAME): random(5, WIDTH)}

    def logits(**given: Tensor) -> Tensor:
        with applied(upstream, where, [(NAME, (Prompt(5),))], weights):
            return run(upstream, given)["logits"]

    padded = logits(**inputs)
    for row, padding in enumerate(PADS):
        tokens = inputs["input_ids"][row : row + 1, padding:]
        alone = logits(input_ids=tokens)
        assert_differs({"logits": alone}, {"logits": run(upstream, {"input_ids": tokens})["logits"]}, "the prompt")
        torch.testing.assert_close(padded[row : row + 1, padding:], alone, atol=1e-5, rtol=1e-4)


def test_reference_of_a_prompt_finds_a_mask_that_upstream_would_not_make(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one, VideoPrism reads texts in both directions; with one of ones, from left to right."""
    (subject,) = method_subjects("videoprism")
    assert "attention_mask" not in subject.padded_inputs()
    equals_the_reference(subject, method("prompt_tuning"))
    monkeypatch.setattr(VideoPrismTextModelAdaptersMixin, "makes_mask", True)
    with pytest.raises(AssertionError, match="not close"):
        equals_the_reference(subject, method("prompt_tuning"))


@pytest.mark.parametrize(("model_type", "same"), [("bert", True), ("videoprism", False)])
def test_what_a_mask_of_ones_means_is_asked_of_upstream(model_type: str, same: bool) -> None:
    subject = method_subjects(model_type)[0]
    assert as_called(layout_of(initialised(subject)), subject, subject.padded_inputs()).ones_are_none is same


# Bottlenecks: hypercomplex ones, and several together


def bottleneck_weights(where: Layout, part: Bottleneck, name: str, seed: int) -> dict[str, Tensor]:
    size = WIDTH // part.reduction_factor
    weights = {}
    for index, layer in enumerate(where.layers):
        for location, host in layer.hosts:
            if location not in part.locations:
                continue
            prefix = f"{host}.adapters.{name}"
            seeds = iter(range(seed + 20 * index, seed + 20 * index + 4))
            weights[f"{prefix}.adapter_down.0.weight"] = random(size, WIDTH, seed=next(seeds))
            weights[f"{prefix}.adapter_down.0.bias"] = random(size, seed=next(seeds))
            weights[f"{prefix}.adapter_up.weight"] = random(WIDTH, size, seed=next(seeds))
            weights[f"{prefix}.adapter_up.bias"] = random(WIDTH, seed=next(seeds))
    return weights


def test_hypercomplex_bottleneck_is_one_with_block_matrices() -> None:
    """The entry (a p + i, b q + j) of a Kronecker product of (a, b) and (i, j) is the product of both."""
    upstream, inputs = BERT.upstream(), BERT.padded_inputs("right")
    where = with_sites(layout(BERT), BERT, inputs)
    rule, size = random(4, 4, 4), WIDTH // COMPACTER.reduction_factor
    compact, plain = {rule_of(where.base, COMPACTER, NAME): rule}, {}
    for index, layer in enumerate(where.layers):
        for _, host in layer.hosts:
            for linear, (inputs_, outputs) in (("adapter_down.0", (WIDTH, size)), ("adapter_up", (size, WIDTH))):
                prefix = f"{host}.adapters.{NAME}.{linear}"
                left, right = random(4, inputs_ // 4, 1, seed=index), random(4, 1, outputs // 4, seed=index + 5)
                bias = random(outputs, seed=index + 9)
                compact |= {f"{prefix}.W_left": left, f"{prefix}.W_right": right, f"{prefix}.b": bias}
                matrix = torch.einsum("nab,nir,nrj->aibj", rule, left, right).reshape(inputs_, outputs)
                plain |= {f"{prefix}.weight": matrix.T, f"{prefix}.bias": bias}
    as_plain = Bottleneck(COMPACTER.locations, COMPACTER.activation, reduction_factor=COMPACTER.reduction_factor)
    with applied(upstream, where, [(NAME, (as_plain,))], plain):
        expected = run(upstream, inputs)
    with applied(upstream, where, [(NAME, (COMPACTER,))], compact):
        assert_equal_within(run(upstream, inputs), expected, "compacter")


def fused_weights(where: Layout, part: Bottleneck, scores: float) -> dict[str, Tensor]:
    """A fusion of which the value matrix is the identity; with `scores` = 0 all members weigh the same."""
    weights = {}
    for layer in where.layers:
        for location, host in layer.hosts:
            if location not in part.locations:
                continue
            prefix = f"{host}.adapter_fusion_layer.both"
            for projection in ("query", "key"):
                weights[f"{prefix}.{projection}.weight"] = scores * random(WIDTH, WIDTH, seed=3)
                weights[f"{prefix}.{projection}.bias"] = scores * random(WIDTH, seed=4)
            weights[f"{prefix}.value.weight"] = torch.eye(WIDTH)
    return weights


@pytest.mark.parametrize("subject", [BERT, LLAMA], ids=lambda subject: subject.model_type)
def test_several_bottlenecks_together(subject: Subject) -> None:
    upstream, inputs = subject.upstream(), subject.padded_inputs("left")
    where = with_sites(layout(subject), subject, inputs)
    adapters = [(name, (SEQ_BN,)) for name in (NAME, OTHER)]
    weights = {**bottleneck_weights(where, SEQ_BN, NAME, 0), **bottleneck_weights(where, SEQ_BN, OTHER, 100)}
    even, uneven = ({**weights, **fused_weights(where, SEQ_BN, scores)} for scores in (0.0, 3.0))

    def outputs(some: Any, given: dict[str, Tensor], together: Any = None) -> dict[str, Tensor]:
        with applied(upstream, where, some, given, together):
            return run(upstream, inputs, **({"use_cache": False} if subject.causal else {}))

    first = outputs(adapters[:1], weights)
    mean = outputs(adapters, weights, Averaged((0.5, 0.5)))
    assert_bitwise(outputs(adapters, weights, Averaged((1.0, 0.0))), first, "all weight on one")
    assert_differs(mean, first, "the other adapter")
    assert_equal_within(outputs(adapters, even, Fused("both")), mean, "a fusion without preference")
    assert_differs(outputs(adapters, uneven, Fused("both")), mean, "preference")
    assert_equal_within(
        outputs([adapters[0], adapters[0]], uneven, Fused("both")), first, "a fusion of an adapter with itself"
    )
