"""Heads that tell voices apart: time delay layers over the frames, their mean and deviation, and two projections.

The loss has weights of its own, one vector per voice, with which it compares by angle (additive margin softmax).
"""

from __future__ import annotations

from adapter_codegen.parse.facts import ClassFacts, ModuleFacts
from adapter_codegen.parse.forms import Form, Names, form, inside, whole
from adapter_codegen.plan.heads.forms.head import FormedHead
from adapter_codegen.plan.heads.logits.chain import Step

_INIT = form("""
def form(config, Layer, Objective):
    self.projector = nn.Linear(config.hidden_size, config.tdnn_dim[0])
    layers = [Layer(config, number) for number in range(len(config.tdnn_dim))]
    self.tdnn = nn.ModuleList(layers)
    self.embedder = nn.Linear(config.tdnn_dim[-1] * 2, config.xvector_output_dim)
    self.classifier = nn.Linear(config.xvector_output_dim, config.xvector_output_dim)
    self.objective = Objective(config.xvector_output_dim, config.num_labels)
""")
_FORWARD = form("""
def form(hidden_states, outputs):
    hidden_states = self.projector(hidden_states)
    for tdnn_layer in self.tdnn:
        hidden_states = tdnn_layer(hidden_states)
    if attention_mask is None:
        means = hidden_states.mean(dim=1)
        deviations = hidden_states.std(dim=1)
    else:
        frames = self.frames(attention_mask.sum(dim=1))
        lengths = self.lengths(frames)
        means = []
        deviations = []
        for i, length in enumerate(lengths):
            means.append(hidden_states[i, :length].mean(dim=0))
            deviations.append(hidden_states[i, :length].std(dim=0))
        means = torch.stack(means)
        deviations = torch.stack(deviations)
    statistics = torch.cat([means, deviations], dim=-1)
    embeddings = self.embedder(statistics)
    logits = self.classifier(embeddings)
    loss = None
    if labels is not None:
        loss = self.objective(logits, labels)
    return XVectorOutput(
        loss=loss,
        logits=logits,
        embeddings=embeddings,
        hidden_states=outputs.hidden_states,
        attentions=outputs.attentions,
    )
""")
_LENGTHS = form("""
def form(self, lengths):
    def shortened(length, kernel, stride):
        return (length - kernel) // stride + 1
    for kernel in self.config.tdnn_kernel:
        lengths = shortened(lengths, kernel, 1)
    return lengths
""")
_LAYER_INIT = form("""
def form(self, config, index=0):
    super().__init__()
    self.inner = config.tdnn_dim[index - 1] if index > 0 else config.tdnn_dim[index]
    self.outer = config.tdnn_dim[index]
    self.width = config.tdnn_kernel[index]
    self.dilation = config.tdnn_dilation[index]
    self.kernel = nn.Linear(self.inner * self.width, self.outer)
    self.activation = nn.ReLU()
""")
_LAYER = form("""
def form(self, states):
    states = states.transpose(1, 2)
    weight = self.kernel.weight.view(self.outer, self.width, self.inner).transpose(1, 2)
    states = nn.functional.conv1d(states, weight, self.kernel.bias, dilation=self.dilation)
    states = states.transpose(1, 2)
    states = self.activation(states)
    return states
""")
_LOSS_INIT = form("""
def form(self, width, labels, scale=SCALE, margin=MARGIN):
    super().__init__()
    self.scale = scale
    self.margin = margin
    self.labels = labels
    self.weight = nn.Parameter(torch.randn(width, labels), requires_grad=True)
    self.compare = nn.CrossEntropyLoss()
""")
_LOSS = form("""
def form(self, states, labels):
    labels = labels.flatten()
    weight = nn.functional.normalize(self.weight, dim=0)
    states = nn.functional.normalize(states, dim=1)
    cosines = torch.mm(states, weight)
    reduced = cosines - self.margin
    onehot = nn.functional.one_hot(labels, self.labels)
    logits = self.scale * torch.where(onehot.bool(), reduced, cosines)
    loss = self.compare(logits, labels)
    return loss
""")
_FIELDS = ("tdnn_dim", "tdnn_kernel", "tdnn_dilation", "xvector_output_dim")


def read_xvector(facts: ModuleFacts, head: ClassFacts, base: str) -> FormedHead | None:
    """The head of a class that tells voices apart; None where its code is not of this form. `base` is the base model class."""
    names = _of_head(head)
    if names is None:
        return None
    layer, objective = facts.classes.get(names["Layer"]), facts.classes.get(names["Objective"])
    of_layer = _of_class(layer, _LAYER_INIT, _LAYER, _shared(names, "config."))
    of_loss = _of_class(objective, _LOSS_INIT, _LOSS, Names())
    if of_layer is None or of_loss is None:
        return None
    options: dict[str, object] = {f"{name}_key": of_layer[f"config.{name}"] for name in _FIELDS}
    options |= {"scale": of_loss.number("SCALE"), "margin": of_loss.number("MARGIN")}
    projector, tdnn, embedder, classifier = (
        names[f"self.{name}"] for name in ("projector", "tdnn", "embedder", "classifier")
    )
    return FormedHead(
        start=projector,
        before=(Step.LINEAR,),
        layers=(projector, f"{tdnn}.*.{of_layer['self.kernel']}", embedder, classifier, None),
        tensors=((f"{names['self.objective']}.{of_loss['self.weight']}", "4.weight"),),
        options=tuple(options.items()),
        frames=names["self.frames"],
    )


def _of_head(head: ClassFacts) -> Names | None:
    """What the names stand for in the class with the head."""
    init, forward = head.functions.get("__init__"), head.functions.get("forward")
    made = inside(_INIT, init.node) if init is not None else None
    run = inside(_FORWARD, forward.node, _shared(made, "self.")) if made is not None and forward is not None else None
    if made is None or run is None or run["self.lengths"] not in head.functions:
        return None
    if made["config.num_labels"] != "num_labels":
        return None  # of which the config of a flexible head speaks
    counted = whole(_LENGTHS, head.functions[run["self.lengths"]].node)
    if counted is None:
        return None
    return Names({**made.of_form, **run.of_form, **_shared(counted, "config.").of_form})


def _of_class(known: ClassFacts | None, init: Form, forward: Form, names: Names) -> Names | None:
    """What the names stand for in a class of which both functions have their form."""
    functions = known.functions if known is not None else {}
    if not {"__init__", "forward"} <= functions.keys():
        return None
    made = whole(init, functions["__init__"].node, names)
    if made is None:
        return None
    return whole(forward, functions["forward"].node, _shared(made, "self.", "config.", "SCALE", "MARGIN"))


def _shared(names: Names, *prefixes: str) -> Names:
    """The names that mean the same in another form: attributes and fields, but not variables."""
    return Names({name: value for name, value in names.of_form.items() if name.startswith(prefixes)})
