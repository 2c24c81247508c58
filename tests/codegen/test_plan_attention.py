"""Where a prefix can be put in front of an attention core, and where it must not."""

from __future__ import annotations

import pytest

from adapter_codegen.model import AttentionKind, AttentionRoles, Role
from adapter_codegen.plan.attention.kinds.softmax import Softmax
from adapter_codegen.plan.module import ModulePlan
from plan_snippets import ATTENTION, PROJECT, RETURN, codes, plan_of_attention, plan_of_layer, prefix_sites, scores

INTERFACE = 'attend = ALL_ATTENTION_FUNCTIONS.get_interface("eager", eager_attention_forward)'
CALL = "out, weights = attend(self, query, key, value, mask, scaling=self.scaling, **kwargs)"


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        pytest.param(
            (PROJECT, INTERFACE, CALL.replace("**kwargs", "indices=mask.topk(3)"), RETURN),
            "P202",
            id="an argument that no rule knows may have a key dimension",
        ),
        pytest.param(
            (PROJECT, INTERFACE, CALL.replace("**kwargs", "cu_seq_lens_k=mask"), RETURN),
            "P207",
            id="sequences are packed into one row",
        ),
        pytest.param(
            (PROJECT, INTERFACE, "mask = mask * self.gate(value.mean(-1))", CALL, RETURN),
            "P202",
            id="the mask is made of the values",
        ),
        pytest.param(
            (PROJECT, INTERFACE, CALL.replace("value", "key"), RETURN),
            "P210",
            id="one tensor is key and value",
        ),
        pytest.param(
            (PROJECT, "value = key", INTERFACE, CALL, RETURN),
            "P210",
            id="one tensor is key and value, under two names",
        ),
        pytest.param(
            (PROJECT, INTERFACE, CALL, "return self.o(out), (key, value)"),
            "P202",
            id="the keys are used again after the core",
        ),
        pytest.param(
            (
                PROJECT,
                INTERFACE,
                "out = [attend(self, query, key, value, mask)[0] for _ in range(2)]",
                "return self.o(out[0]), 0",
            ),
            "P206",
            id="the core stands in a comprehension",
        ),
        pytest.param(scores("scores = scores * states.mean()"), "P203", id="the scores are multiplied with a tensor"),
        pytest.param(
            scores("late = self.q(states) @ key.transpose(-1, -2)", "scores = scores + late"),
            "P203",
            id="a second product is added to the scores",
        ),
        pytest.param(
            (PROJECT.replace(".view(shape).transpose(1, 2)", ".view(shape)"), *scores()[1:]),
            "P201",
            id="the heads stand behind the length",
        ),
        pytest.param(
            (PROJECT, "key = key.reshape(-1, 4, self.head_dim)", *scores()[1:]),
            "P201",
            id="heads and batch are folded together",
        ),
        pytest.param(
            (
                PROJECT,
                "out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)",
                "return self.o(out), 0",
            ),
            "P204",
            id="torch is asked to make the causal mask",
        ),
    ],
)
def test_a_core_that_could_lose_the_prefix_takes_none(lines: tuple[str, ...], code: str) -> None:
    plan = plan_of_attention(*lines)
    assert not prefix_sites(plan)
    assert code in codes(plan)
    assert plan.layers[0].attentions, "it is attention all the same"


def test_one_core_without_a_prefix_keeps_it_from_all_cores_of_the_class() -> None:
    branch = f"if states.shape[0] > 1:\n    {CALL}\nelse:\n    out, weights = attend(self, query, key, value, mask, indices=states.topk(3))"
    plan = plan_of_attention(PROJECT, INTERFACE, branch, RETURN)
    assert not prefix_sites(plan)


@pytest.mark.parametrize(
    "softmax",
    [
        pytest.param("weights = gate.softmax(-1)", id="a router's softmax has no products around it"),
        pytest.param(
            "weights = torch.softmax(states @ self.table, -1)\nout = weights @ self.table",
            id="the products are with parameters",
        ),
    ],
)
def test_a_softmax_that_is_not_between_products_of_activations_is_no_core(softmax: str) -> None:
    plan = plan_of_attention("gate = self.q(states)\nout = self.v(states)", softmax, "return self.o(out), weights")
    assert not [one for entry in plan.layers for one in entry.attentions]


FUNCTIONAL = """
out, weights = F.multi_head_attention_forward(
    {}, 8, 2, None, torch.cat((self.q.bias, self.k.bias, self.v.bias)), None, None, False, 0.0,
    self.o.weight, self.o.bias, use_separate_proj_weight=True,
    q_proj_weight=self.q.weight, k_proj_weight=self.k.weight, v_proj_weight=self.v.weight,
)
return out, weights
"""


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        pytest.param("states, states, states", AttentionKind.SELF, id="to itself"),
        pytest.param("states, mask, mask", AttentionKind.CROSS, id="keys from another argument"),
    ],
)
def test_weights_that_the_function_of_torch_reads_make_no_projections(given: str, kind: AttentionKind) -> None:
    """The modules that hold them never run: a LoRA in their place would change nothing."""
    plan = plan_of_attention(FUNCTIONAL.format(given))
    (layer,) = plan.layers
    assert layer.attentions == (AttentionRoles(core="attention", kind=kind),)
    locations = {AttentionKind.SELF: Role.ATTENTION, AttentionKind.CROSS: Role.CROSS_ATTENTION}
    assert [role.location for role in layer.bottlenecks] == [locations[kind], Role.OUTPUT]
    assert (layer.mlp.first, layer.mlp.last) == (("mlp.up",), ("mlp.down",))
    assert prefix_sites(plan) == []
    assert codes(plan) == {"P221"}


def test_a_function_of_another_name_is_no_core() -> None:
    other = FUNCTIONAL.replace("multi_head_attention_forward", "multi_head_forward")
    assert plan_of_attention(other.format("states, states, states")).layers == ()


MASKED = """
class Masked({base}):
    @staticmethod
    def forward(ctx, scores, mask):
        weights = torch.softmax(scores.masked_fill(mask, -1e4), -1)
        return weights.masked_fill_(mask, 0)

"""


@pytest.mark.parametrize(
    ("base", "count"),
    [
        pytest.param("torch.autograd.Function", 1, id="its forward runs where it is applied"),
        pytest.param("Scorer", 0, id="no: a class that is no function of torch's"),
    ],
)
def test_a_softmax_with_a_gradient_of_its_own_is_a_core_that_takes_no_prefix(base: str, count: int) -> None:
    lines = ("scores = query @ key.transpose(-1, -2)", "weights = Masked.apply(scores, mask)", "out = weights @ value")
    head, _, _ = ATTENTION.partition("    def forward")
    body = "\n".join(" " * 8 + line for part in (PROJECT, *lines, RETURN) for line in part.strip().splitlines())
    attention = f"{MASKED.format(base=base)}{head}    def forward(self, states, mask=None, **kwargs):\n{body}\n\n"
    plan = plan_of_layer(
        "x = x + self.attention(self.norm1(x), mask)[0]\nreturn x + self.mlp(self.norm2(x))", "", attention
    )
    assert [len(layer.attentions) for layer in plan.layers] == [count] * count
    assert [roles.query for layer in plan.layers for roles in layer.attentions] == ["attention.q"] * count
    assert prefix_sites(plan) == []
    assert ("P203" in codes(plan)) == bool(count)


EINSUM = """
scores = torch.einsum("bhqd,bhkd->bhqk", {first}) * self.scaling
weights = F.dropout(torch.softmax(scores, dim=-1), 0.1)
out = torch.einsum("bhqk,bhkd->bhqd", {second})
"""


@pytest.mark.parametrize(
    ("first", "second", "count"),
    [
        pytest.param("query, key", "weights, value", 1, id="operands one by one"),
        pytest.param("[query, key]", "[weights, value]", 1, id="in a list"),
        pytest.param("(query, key)", "(weights, value)", 1, id="in a tuple"),
        pytest.param("[query, self.table]", "[weights, value]", 0, id="no: with a parameter"),
        pytest.param("[query, key]", "[value, value]", 0, id="no: without the weights"),
    ],
)
def test_products_by_einsum_are_a_core_that_takes_no_prefix(first: str, second: str, count: int) -> None:
    plan = plan_of_attention(PROJECT, EINSUM.format(first=first, second=second), RETURN)
    assert [len(layer.attentions) for layer in plan.layers] == [count] * count
    assert prefix_sites(plan) == []


BY_PARAMETERS = """
class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.q, self.k = nn.Parameter(torch.zeros(8, 2, 4)), nn.Parameter(torch.zeros(8, 2, 4))
        self.o = nn.Parameter(torch.zeros(8, 2, 4))
        self.norm = nn.LayerNorm(8)

    def after(self, states, attended, residual=True):
        out = torch.einsum("bind,hnd->bih", {attended}, self.o)
        if residual:
            out = out + states
        return self.norm(out)

    def forward(self, states, mask=None, **kwargs):
        query = torch.einsum("bih,hnd->bind", states, self.q)
        key = torch.einsum("bih,hnd->bind", states, self.k)
        scores = torch.einsum("bind,bjnd->bnij", query, key)
        attended = torch.einsum("bnij,bjnd->bind", torch.softmax(scores, -1), key)
        return self.after(states, attended), scores

"""


def test_projections_by_parameters_play_no_role_and_do_their_work() -> None:
    """XLNet: what the attention gives is added in a method of its class, and the feed-forward block behind it is none of its outputs."""
    attention = BY_PARAMETERS.format(attended="attended")
    plan = plan_of_layer("x = self.attention(x)[0]\nreturn x + self.mlp(self.norm2(x))", "", attention)
    (layer,) = plan.layers
    assert layer.attentions == (AttentionRoles(core="attention", kind=AttentionKind.SELF),)
    assert [(role.host, role.location) for role in layer.bottlenecks] == [
        ("attention", Role.ATTENTION),
        ("output_adapters", Role.OUTPUT),
    ]
    assert (layer.mlp.first, layer.mlp.last) == (("mlp.up",), ("mlp.down",))


def test_a_product_of_parameters_alone_is_no_work() -> None:
    attention = BY_PARAMETERS.format(attended="self.q")
    plan = plan_of_layer("x = self.attention(x)[0]\nreturn x + self.mlp(self.norm2(x))", "", attention)
    assert all(role.location is Role.OUTPUT for layer in plan.layers for role in layer.bottlenecks)


def test_a_list_of_weights_and_others_is_no_product() -> None:
    lines = ("scores = query @ key.transpose(-1, -2)", "weights = torch.softmax(scores, dim=-1)")
    plan = plan_of_attention(PROJECT, *lines, "out = torch.cat([weights, value])", RETURN)
    assert plan.layers == ()


def test_a_call_of_the_interface_takes_a_prefix_with_its_mask_and_its_keywords() -> None:
    plan = plan_of_attention(PROJECT, INTERFACE, CALL.replace("**kwargs", "is_causal=False, **kwargs"), RETURN)
    (site,) = prefix_sites(plan)
    assert (site.query.code, site.key.code, site.value.code) == ("query", "key", "value")
    assert site.mask is not None and site.mask.code == "mask"
    assert site.gate_input.code == "states"
    assert site.keywords == ("is_causal=False", "**kwargs")
    assert site.kept == ()


PADDED = """
if self.padding > 0:
    query = nn.functional.pad(query, (0, self.padding))
    key = nn.functional.pad(key, (0, self.padding))
    value = nn.functional.pad(value, (0, self.padding))
"""


def _is_ahead_of_a_branch(*lines: str) -> bool:
    (site,) = prefix_sites(plan_of_attention(*lines))
    return site.statement.end_line > site.statement.line


def test_a_prefix_goes_in_ahead_of_the_padding_of_channels() -> None:
    assert _is_ahead_of_a_branch(PROJECT, INTERFACE, PADDED, CALL, RETURN)


@pytest.mark.parametrize(
    "between",
    [
        pytest.param("", id="nothing is padded"),
        pytest.param(PADDED.replace("key = nn.functional.pad(key,", "key = torch.roll(key,"), id="keys are moved"),
        pytest.param(PADDED.replace("(0, self.padding)", "(0, 0, 0, self.padding)"), id="there are more keys"),
        pytest.param(PADDED.replace("functional.pad(key,", "functional.pad(value,"), id="keys become others"),
        pytest.param("\n".join(PADDED.splitlines()[:-1]), id="values stay as they are"),
        pytest.param(f"{PADDED}    mask = mask * 2\n", id="the mask becomes another there"),
        pytest.param(f"{PADDED}mask = mask * 2", id="the mask becomes another behind it"),
        pytest.param(f"{PADDED}key = key * 2", id="keys go on behind it"),
    ],
)
def test_any_other_branch_stays_ahead_of_the_prefix(between: str) -> None:
    assert not _is_ahead_of_a_branch(PROJECT, INTERFACE, between, CALL, RETURN)


def test_a_mask_that_reads_only_the_shape_of_keys_grows() -> None:
    lines = (PROJECT, INTERFACE, "mask = mask[..., : key.shape[-2]].to(value.dtype)", CALL, RETURN)
    (site,) = prefix_sites(plan_of_attention(*lines))
    assert site.mask is not None and site.mask.code == "mask"


def test_what_hides_nothing_by_itself_says_so() -> None:
    """transformers' sdpa hides later keys in causal modules where it gets no mask; scores that are written out do not."""
    called = "out = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)"
    (written,) = prefix_sites(plan_of_attention(*scores("if mask is not None:\n    scores = scores + mask")))
    (torchs,) = prefix_sites(plan_of_attention(PROJECT, called, "return self.o(out), None"))
    (interface,) = prefix_sites(plan_of_attention(PROJECT, INTERFACE, CALL, RETURN))
    assert written.keywords == torchs.keywords == ("is_causal=False",)
    assert interface.keywords == ("**kwargs",)


def test_a_position_bias_is_grown_too_and_keeps_its_name_where_it_is_returned() -> None:
    call = CALL.replace("**kwargs", "position_bias=bias")
    (site,) = prefix_sites(plan_of_attention(PROJECT, INTERFACE, call, "return self.o(out), bias"))
    assert [one.code for one in site.biases] == ["bias"]
    assert site.kept == ("bias",)


def test_a_softmax_between_products_takes_a_prefix_with_what_is_added_to_the_scores() -> None:
    (site,) = prefix_sites(plan_of_attention(*scores("if mask is not None:\n    scores = scores + mask")))
    assert site.core == Softmax.name
    assert site.mask is not None and site.mask.code == "mask"


def test_a_core_in_a_helper_is_edited_where_the_helper_is_called() -> None:
    lines = (PROJECT, "out, weights = attend_by_hand(query, key, value, mask)", RETURN)
    helper = """
def attend_by_hand(q, k, v, added):
    scores = torch.matmul(q, k.transpose(-1, -2))
    scores = scores + added
    return torch.matmul(torch.softmax(scores, dim=-1), v), scores
"""
    head, _, _ = ATTENTION.partition("    def forward")
    body = "\n".join(" " * 8 + line for part in lines for line in part.strip().splitlines())
    attention = f"{helper}\n{head}    def forward(self, states, mask=None, **kwargs):\n{body}\n\n"
    text = "x = x + self.attention(self.norm1(x), mask)[0]\nreturn x + self.mlp(self.norm2(x))"
    (site,) = prefix_sites(plan_of_layer(text, "", attention))
    assert (site.function, site.key.code, site.mask.code if site.mask else "") == ("forward", "key", "mask")


def test_windows_that_attend_among_themselves_take_no_prefix() -> None:
    text = """
    windows = self.norm1(x).view(-1, 7, 8)
    x = x + self.attention(windows, mask)[0].view(x.shape)
    return x + self.mlp(self.norm2(x))
    """
    plan = plan_of_layer(text)
    assert not prefix_sites(plan)
    assert codes(plan) == {"P208"}


BY_KERNEL = """
class ByKernel({base}):
    def __init__(self, config):
        super().__init__({given})
        {own}

    def forward(self, states, mask=None, **kwargs):
        query, key, value = self.q(states), self.k(states), self.v(states)
        return self.o(_flash_attention_forward(query, key, value, mask)), None


CLASSES = {{"eager": Attention, "flash": ByKernel}}
"""


def _one_of(kernel: str) -> ModulePlan:
    forward = "x = x + self.attention(self.norm1(x), mask)[0]\nreturn x + self.mlp(self.norm2(x))"
    return plan_of_layer(forward, "self.attention = CLASSES[config.kind](config)", ATTENTION + kernel)


def test_a_class_that_runs_a_kernel_instead_of_its_base_costs_no_prefix() -> None:
    plan = _one_of(BY_KERNEL.format(base="Attention", given="config", own="self.left = True"))
    assert [site.class_name for site in prefix_sites(plan)] == ["Attention"]
    assert codes(plan) == set() and plan.entries[0].takes_prefix
    assert "P203" in {found.code for found in plan.diagnostics}


def test_a_class_that_runs_a_kernel_of_its_own_does() -> None:
    own = "self.q = self.k = self.v = self.o = nn.Linear(8, 8)"
    plan = _one_of(BY_KERNEL.format(base="nn.Module", given="", own=own))
    assert "P203" in codes(plan) and not plan.entries[0].takes_prefix


MIXER = """
class Mixer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.query = nn.Parameter(torch.zeros(8))
        self.q = nn.Linear(8, 8)
        self.v = nn.Linear(8, 8)

    def forward(self, earlier, x):
        states = torch.cat([earlier, x.unsqueeze(-2)], dim=-2)
        query = {query}
        return nn.functional.scaled_dot_product_attention(query, {key}, {value}).squeeze(-2)

"""
LEARNED = "self.query.view(1, -1).expand(*states.shape[:-2], -1, -1)"


def _cores(query: str, key: str = "states", value: str = "states") -> list[str]:
    mixer = MIXER.format(query=query, key=key, value=value)
    (plan,) = plan_of_layer(
        "x = x + self.attention(self.norm1(x), mask)[0]\nreturn x + self.mlp(self.norm2(self.mixer(states, x)))",
        "self.mixer = Mixer(config)",
        ATTENTION + mixer,
    ).layers
    return [one.core for one in plan.attentions]


def test_states_that_a_learned_query_weighs_are_added_up_and_not_attended_to() -> None:
    assert _cores(LEARNED) == ["attention"]


@pytest.mark.parametrize(
    ("query", "key", "value"),
    [
        pytest.param("self.q(x).unsqueeze(-2)", "states", "states", id="a query of the stream"),
        pytest.param("x.unsqueeze(-2)", "states", "states", id="the stream itself asks"),
        pytest.param(LEARNED, "states", "self.v(states)", id="values have a projection"),
    ],
)
def test_a_learned_query_or_one_tensor_for_keys_and_values_alone_leaves_an_attention(
    query: str, key: str, value: str
) -> None:
    assert _cores(query, key, value) == ["attention", "mixer"]
