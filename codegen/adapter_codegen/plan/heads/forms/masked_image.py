"""Heads that paint what stands behind masked patches of an image: states as a grid, a projection of each, pixels side by side.

The base model puts a learned token in the place of masked patches, which it has only if it is asked for when it is built. A flexible model
is built once for all heads, so that there the token is of the head.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import libcst as cst

from adapter_codegen.parse.facts import ClassFacts, ModuleFacts
from adapter_codegen.parse.forms import Names, form, inside
from adapter_codegen.parse.syntax import assignment, descendants, dotted_name, self_attribute, statements
from adapter_codegen.plan.flow.modules import local_class
from adapter_codegen.plan.heads.forms.head import FormedHead

_MASK, _PIXELS = "bool_masked_pos", "pixel_values"
_STATES = ("x = outputs.last_hidden_state", "x = outputs[0]")
_PATCHES = ("x = x[:, FIRST:]", "")
_GRIDS = (
    """
    b, l, c = x.shape
    height = width = {}(l**0.5)
    x = x.permute(0, 2, 1).reshape(b, c, height, width)
    """,
    """
    x = x.transpose(1, 2)
    b, c, l = x.shape
    height = width = {}(l**0.5)
    x = x.reshape(b, c, height, width)
    """,
)
_ROUNDED = ("math.floor", "int")
_LOSS = """
    image = self.decoder(x)
    loss = None
    if bool_masked_pos is not None:
        size = self.config.image_size // self.config.patch_size
        bool_masked_pos = bool_masked_pos.reshape(-1, size, size)
        mask = (
            bool_masked_pos.repeat_interleave(self.config.patch_size, 1)
            .repeat_interleave(self.config.patch_size, 2)
            .unsqueeze(1)
            .contiguous()
        )
        differences = nn.functional.l1_loss(pixel_values, image, reduction="none")
        loss = (differences * mask).sum() / (mask.sum() + 1e-5) / self.config.num_channels
"""
_AS_TUPLE = """
    if not return_dict:
        output = (image,) + outputs[2:]
        return ((loss,) + output) if loss is not None else output
"""
_OUTPUTS = ("hidden_states", "attentions", "reshaped_hidden_states")
_KEPT = (_OUTPUTS[:2], _OUTPUTS, (_OUTPUTS[0], _OUTPUTS[2]))
_INIT = """
def form(config, width):
    self.decoder = nn.Sequential(
        nn.Conv2d(
            in_channels={}, out_channels=config.encoder_stride**2 * config.num_channels, kernel_size=1
        ),
        nn.PixelShuffle(config.encoder_stride),
    )
"""
_WIDTHS = ("config.hidden_size", "width")  # a wrong width would not fit when weights are loaded
_FIELDS = ("encoder_stride", "num_channels", "patch_size", "image_size")


def read_masked_image(facts: ModuleFacts, head: ClassFacts, base: str) -> FormedHead | None:
    """The head of a class that paints masked patches; None where its code is not of this form.

    Args:
        facts: of the file of the class.
        head: the class.
        base: the base model class.
    """
    names = _of_head(head)
    attribute = _base_attribute(head, names["outputs"]) if names is not None else ""
    if names is None or not attribute:
        return None
    token = _token(facts, head, attribute, base)
    if token is None:
        return None
    path, field = token
    options = {f"{name}_key": names[f"config.{name}"] for name in _FIELDS} | {"token_size_key": field}
    return FormedHead(
        layers=(f"{names['self.decoder']}.0",),
        tensors=((f"{attribute}.{path}", "mask_token"),),
        options=(*options.items(), ("first_patch", int(names.of_form.get("FIRST", "0")))),
        base_attribute=attribute,
        mask_token=path,
    )


def _of_head(head: ClassFacts) -> Names | None:
    """What the names stand for in the class."""
    init, forward = head.functions.get("__init__"), head.functions.get("forward")
    if init is None or forward is None:
        return None
    found = (inside(form(_INIT.format(width)), init.node) for width in _WIDTHS)
    made = next(filter(None, found), None)
    if made is None:
        return None
    of_both = {name: value for name, value in made.of_form.items() if name.startswith(("self.", "config."))}
    known = Names({**of_both, _MASK: _MASK})
    return next(filter(None, (inside(form(text), forward.node, known) for text in _forwards())), None)


def _forwards() -> Iterator[str]:
    """The forms of a forward, from where it takes the hidden states."""
    for states, patches, grid, rounded, end, kept in product(
        _STATES, _PATCHES, _GRIDS, _ROUNDED, ("", _AS_TUPLE), _KEPT
    ):
        given = ", ".join(["loss=loss", "reconstruction=image", *(f"{name}=outputs.{name}" for name in kept)])
        lines = [f"    {states}", f"    {patches}", grid.format(rounded), _LOSS, end, f"    return Output({given})"]
        yield "\n".join(["def form(x, outputs, Output):", *lines])


def _base_attribute(head: ClassFacts, outputs: str) -> str:
    """The attribute whose outputs are read, where it is handed the image and the mask, and nothing else gives them; else ""."""
    pairs = list(filter(None, map(assignment, descendants(head.functions["forward"].node))))
    made = [value for targets, value in pairs if outputs in map(dotted_name, targets)]
    is_changed = any(_PIXELS in map(dotted_name, targets) for targets, _ in pairs)
    if is_changed or len(made) != 1 or not isinstance(made[0], cst.Call) or not made[0].args:
        return ""
    first, *others = made[0].args
    named = {argument.keyword.value: dotted_name(argument.value) for argument in others if argument.keyword}
    is_whole = dotted_name(first.value) == _PIXELS and named.get(_MASK) == _MASK
    return self_attribute(made[0].func) if is_whole else ""


def _token(facts: ModuleFacts, head: ClassFacts, attribute: str, base: str) -> tuple[str, str] | None:
    """Where the base model has its mask token, if a flag that the class sets makes it, and the field that is its width."""
    held = head.submodules.get(attribute)
    if held is None or [local_class(name) for name in held.classes] != [base] or base not in facts.classes:
        return None
    flags = {one.keyword.value for one in held.arguments if one.keyword and dotted_name(one.value) == "True"}
    found = [
        (f"{name}.{token}", field)
        for name, submodule in facts.classes[base].submodules.items()
        for argument in submodule.arguments
        if argument.keyword is not None and dotted_name(argument.value) in flags
        for inner in map(local_class, submodule.classes)
        if inner in facts.classes
        for token, field in _tokens(facts.classes[inner], argument.keyword.value)
    ]
    return found[0] if len(found) == len(flags) == 1 else None


def _tokens(known: ClassFacts, flag: str) -> Iterator[tuple[str, str]]:
    """Parameters that a class has if a flag is set, with the fields that are their widths.

    ``self.mask_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if use_mask_token else None``
    """
    wanted = form(f"def form(config): self.token = nn.Parameter(torch.zeros(1, 1, config.size)) if {flag} else None")
    init = known.functions.get("__init__")
    if init is None:
        return
    names = inside(wanted, init.node)
    used = [node for node in statements(init.node.body) for name in descendants(node) if dotted_name(name) == flag]
    if names is not None and len(used) == 1:  # it decides on nothing else
        yield names["self.token"], names["config.size"]
