"""Deformable attention: it gets the adapters of an attention, and is no place for prefixes or feed-forward roles."""

from __future__ import annotations

from adapter_codegen.model import AttentionKind, AttentionRoles, Method
from adapter_codegen.plan.module import ModulePlan
from plan_snippets import ATTENTION, plan_of_layer

TEXT = "x = x + self.attention(x, states)\nreturn x + self.mlp(self.norm2(x))"
SAMPLER = """
class Sampler(nn.Module):
    def forward(self, value, places, weights):
        found = []
        found.append(F.grid_sample(value.flatten(2).transpose(1, 2), places))
        return (torch.stack(found, dim=-2).flatten(-2) * weights).sum(-1)

"""
DEFORMABLE = """
class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.sampler = Sampler()
        self.offsets = nn.Linear(8, 16)
        self.weights = nn.Linear(8, 4)
        self.value = nn.Linear(8, 8)
        self.o = nn.Linear(8, 8)

    def forward(self, states, other=None):
        value = self.value(states).view(states.shape[0], states.shape[1], 2, 4)
        places = self.offsets(states).view(states.shape[0], states.shape[1], 2, 4, 2)
        weights = F.softmax(self.weights(states).view(states.shape[0], states.shape[1], 2, 4), -1)
        return self.o(self.sampler(value, places, weights))

"""


def deformable(attention: str = DEFORMABLE) -> ModulePlan:
    return plan_of_layer(TEXT, "", SAMPLER + attention)


def test_it_is_an_attention_with_values_and_an_output() -> None:
    (layer,) = deformable().layers
    (roles,) = layer.attentions
    assert roles == AttentionRoles(
        core="attention", kind=AttentionKind.SELF, value="attention.value", output="attention.o"
    )
    assert [role.location.value for role in layer.bottlenecks] == ["attention", "output"]
    assert (layer.mlp.first, layer.mlp.last) == (("mlp.up",), ("mlp.down",))


def test_values_from_another_argument_make_it_cross_attention() -> None:
    (layer,) = deformable(
        DEFORMABLE.replace("self.value(states)", "self.value(other)").replace("other=None", "other")
    ).layers
    assert layer.attentions[0].kind is AttentionKind.CROSS


def test_it_keeps_no_prefix_from_the_attentions_that_have_keys() -> None:
    plan = deformable()
    assert not any(Method.PREFIX_TUNING in diagnostic.methods for diagnostic in plan.diagnostics)
    assert not any(entry.prefix_sites for entry in plan.classes)


def test_sampling_at_places_that_no_module_gave_is_no_attention() -> None:
    resized = DEFORMABLE.replace("self.offsets(states)", "torch.zeros(4, 16)")
    layers = deformable(resized).layers
    assert not any(layer.attentions for layer in layers)


def test_a_registry_that_is_asked_by_getattr_gives_an_attention() -> None:
    asked = 'getattr(ALL_ATTENTION_FUNCTIONS, "eager", eager_attention_forward)'
    text = ATTENTION.replace('ALL_ATTENTION_FUNCTIONS.get_interface("eager", eager_attention_forward)', asked)
    plan = plan_of_layer("x = x + self.attention(x, mask)[0]\nreturn x + self.mlp(self.norm2(x))", "", text)
    assert plan.layers[0].attentions[0].query == "attention.q"
    assert len(plan.classes[0].prefix_sites) == 1


def test_an_attribute_of_something_else_is_no_registry() -> None:
    asked = 'getattr(kernels, "eager", eager_attention_forward)'
    text = ATTENTION.replace('ALL_ATTENTION_FUNCTIONS.get_interface("eager", eager_attention_forward)', asked)
    plan = plan_of_layer("x = x + self.attention(x, mask)[0]\nreturn x + self.mlp(self.norm2(x))", "", text)
    assert not any(layer.attentions for layer in plan.layers)
