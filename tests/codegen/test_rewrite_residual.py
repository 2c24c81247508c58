"""The edit at a residual addition: what it must leave alone, then what it writes."""

from __future__ import annotations

from dataclasses import replace
from textwrap import dedent, indent

import pytest

from adapter_codegen.diagnostics.errors import CodegenError
from adapter_codegen.emit.formatting import formatted
from adapter_codegen.emit.verify import verify_model
from adapter_codegen.rewrite import rewrite_module
from handmade import Handmade

HEAD = """
import torch
from torch import nn

class Block(nn.Module):
    def forward(self, x, r, flag=False):
"""


def handmade(body: str) -> Handmade:
    return Handmade(HEAD + indent(dedent(body).lstrip("\n"), " " * 8))


def emitted(module: Handmade, *sites: object) -> str:
    """The whole module that is written for `sites`, after formatting and verification."""
    plan = module.plan(*sites)  # type: ignore[arg-type]
    text = formatted("modeling_mine.py", rewrite_module(module.facts, plan))
    verify_model(module.facts, plan, {"modeling_mine.py": text})
    return text


def body_of(text: str) -> str:
    """The lines of the only function, dedented, without its signature."""
    return dedent(text.split("flag=False):\n", 1)[1])


def test_an_equal_addition_that_is_not_planned_stays_as_it_is() -> None:
    module = handmade("""
        x = r + x
        x = self.mlp(x)
        x = r + x
        return x
        """)
    site = module.residual("Block", "x = r + x", "r + x", "x", "r", host="output_adapters", nth=1)
    assert body_of(emitted(module, site)) == dedent("""\
        x = r + x
        x = self.mlp(x)
        # >>> adapters
        x = self.output_adapters(x, r, None)
        # <<< adapters
        return x
        """)


LOOP = """
for i, layer in enumerate(self.layers):
    r = r + layer(r)
    r = self.norms[i](r)
return r
"""


@pytest.mark.parametrize("holder", ["layer", "self.layers[i]"])
def test_the_adapters_of_a_layer_are_called_in_the_loop_around_it(holder: str) -> None:
    module = handmade(LOOP)
    site = module.residual(
        *("Block", "r = r + layer(r)", "r + layer(r)", "layer(r)", "r"),
        norm="self.norms[i]",
        dropped="r = self.norms[i](r)",
        host="output_adapters",
    )
    text = emitted(module, replace(site, holder=holder))
    assert f"        r = {holder}.output_adapters(layer(r), r, self.norms[i])\n" in text
    assert "r = self.norms[i](r)" not in text


@pytest.mark.parametrize(
    ("planned", "other"),
    [
        pytest.param("layer", "self", id="of the class around it"),
        pytest.param("self.layers[i]", "self.layers[j]", id="of another turn"),
        pytest.param("", "self.layers[i]", id="of a layer, where the class itself has them"),
    ],
)
def test_a_call_of_other_adapters_than_planned_is_no_edit(planned: str, other: str) -> None:
    module = handmade(LOOP)
    site = module.residual("Block", "r = r + layer(r)", "r + layer(r)", "layer(r)", "r", host="output_adapters")
    site = replace(site, holder=planned)
    text = emitted(module, site).replace(f"{planned or 'self'}.output_adapters", f"{other}.output_adapters")
    with pytest.raises(CodegenError):
        verify_model(module.facts, module.plan(site), {"modeling_mine.py": text})


def test_comments_and_blank_lines_of_upstream_stay_where_they_are() -> None:
    module = handmade("""
        # why

        x = r + x  # the sum
        # what follows
        return x
        # the end
        """)
    site = module.residual("Block", "x = r + x", "r + x", "x", "r", host="output_adapters")
    assert body_of(emitted(module, site)) == dedent("""\
        # why

        # >>> adapters
        x = self.output_adapters(x, r, None)  # the sum
        # <<< adapters
        # what follows
        return x
        # the end
        """)


def test_an_addition_that_is_normalised_hands_its_norm_over() -> None:
    module = handmade("return self.norm(self.drop(x) * self.scale + r)")
    site = module.residual(
        "Block",
        "return self.norm(self.drop(x) * self.scale + r)",
        "self.norm(self.drop(x) * self.scale + r)",
        "self.drop(x) * self.scale",
        "r",
        norm="self.norm",
    )
    assert (
        "return self.bottleneck_layer_forward(self.drop(x) * self.scale, r, self.norm, branch_first=True)\n"
        in emitted(module, site)
    )


def test_a_norm_in_the_next_statement_is_taken_out_and_its_comments_are_kept() -> None:
    module = handmade("""
        x = r + x
        # post-norm
        x = self.norm(x)  # as in the paper
        return x
        """)
    site = module.residual(
        "Block", "x = r + x", "r + x", "x", "r", norm="self.norm", dropped="x = self.norm(x)", host="output_adapters"
    )
    assert body_of(emitted(module, site)) == dedent("""\
        # >>> adapters
        x = self.output_adapters(x, r, self.norm)
        # post-norm
        # as in the paper
        # <<< adapters
        return x
        """)


def test_a_norm_that_is_not_in_the_next_statement_is_refused() -> None:
    module = handmade("""
        x = r + x
        y = x * 2
        x = self.norm(x)
        return x, y
        """)
    site = module.residual("Block", "x = r + x", "r + x", "x", "r", norm="self.norm", dropped="x = self.norm(x)")
    with pytest.raises(CodegenError) as caught:
        rewrite_module(module.facts, module.plan(site))
    assert [(entry.code, entry.location.line) for entry in caught.value.diagnostics if entry.location] == [("R301", 9)]


def test_an_addition_in_place_becomes_an_assignment() -> None:
    module = handmade("""
        x += r
        return x
        """)
    site = module.residual("Block", "x += r", "x += r", "r", "x", host="output_adapters")
    assert "x = self.output_adapters(r, x, None)\n" in emitted(module, site)


@pytest.mark.parametrize(
    ("addition", "call"),
    [
        pytest.param("r + x", "self.output_adapters(x, r, None)", id="the residual comes first"),
        pytest.param("x + r", "self.output_adapters(x, r, None, branch_first=True)", id="the branch comes first"),
    ],
)
def test_the_order_of_the_operands_is_upstream_s(addition: str, call: str) -> None:
    module = handmade(f"x = {addition}\nreturn x")
    site = module.residual("Block", f"x = {addition}", addition, "x", "r", host="output_adapters")
    assert f"x = {call}\n" in emitted(module, site)


@pytest.mark.parametrize(
    ("statement", "emitted_sum"),
    [
        pytest.param("x = a + f + r", "a + f + r", id="the attention first"),
        pytest.param("x = f + a + r", "f + a + r", id="the feed-forward block first"),
        pytest.param("x = r + (a + f)", "r + (a + f)", id="the residual first"),
        pytest.param("r += a + f", "r + (a + f)", id="in place"),
    ],
)
def test_a_parallel_sum_stays_upstream_s_while_nothing_runs(statement: str, emitted_sum: str) -> None:
    module = handmade(f"a = self.attn(x)\nf = self.mlp(x)\n{statement}\nreturn x")
    replaced = statement if "+=" in statement else statement.removeprefix("x = ")
    site = module.parallel("Block", statement, replaced, attention="a", feed_forward="f", residual="r")
    text = " ".join(emitted(module, site).split())
    assert (
        f"{statement[0]} = ( self.output_adapters(f, self.attention_adapters(a, r, None), None) "
        f"if self.attention_adapters.runs or self.output_adapters.runs else {emitted_sum} )" in text
    )


@pytest.mark.parametrize(
    ("residual", "call"),
    [
        pytest.param("r", "x = self.add(self.output_adapters(x, r), r, 0.1)", id="the stream is known"),
        pytest.param(None, "x = self.add(self.output_adapters(x), r, 0.1)", id="there are several streams"),
    ],
)
def test_where_upstream_adds_only_the_branch_goes_through_the_adapters(residual: str | None, call: str) -> None:
    module = handmade("""
        x = self.add(x, r, 0.1)
        return x
        """)
    site = module.branch("Block", "x = self.add(x, r, 0.1)", "x", residual, nth=2)
    lines = body_of(emitted(module, site)).splitlines()
    assert lines == ["# >>> adapters", call, "# <<< adapters", "return x"]


def test_a_suite_on_one_line_gets_a_block() -> None:
    module = handmade("""
        if flag: x = r + x
        return x
        """)
    site = module.residual("Block", "x = r + x", "r + x", "x", "r", host="output_adapters")
    assert body_of(emitted(module, site)) == dedent("""\
        if flag:
            # >>> adapters
            x = self.output_adapters(x, r, None)
            # <<< adapters
        return x
        """)


def test_one_of_two_statements_on_a_line_gets_a_line_of_its_own() -> None:
    module = handmade("x = r + x; r = x\nreturn r")
    site = module.residual("Block", "x = r + x", "r + x", "x", "r", host="output_adapters")
    assert body_of(emitted(module, site)) == dedent("""\
        # >>> adapters
        x = self.output_adapters(x, r, None)
        # <<< adapters
        r = x
        return r
        """)


def test_sites_in_both_branches_of_a_condition_are_edited_each() -> None:
    module = handmade("""
        if flag:
            x = r + x
        else:
            x = self.norm(r + x)
        return x
        """)
    plain = module.residual("Block", "x = r + x", "r + x", "x", "r", host="output_adapters")
    normed = module.residual(
        "Block", "x = self.norm(r + x)", "self.norm(r + x)", "x", "r", norm="self.norm", host="output_adapters"
    )
    text = emitted(module, plain, normed)
    assert "x = self.output_adapters(x, r, None)\n" in text
    assert "x = self.output_adapters(x, r, self.norm)\n" in text


def test_two_sites_in_one_sum_nest() -> None:
    module = handmade("""
        a = self.attn(x)
        x = (r + a) + self.mlp(x)
        return x
        """)
    statement = "x = (r + a) + self.mlp(x)"
    inner = module.residual("Block", statement, "(r + a)", "a", "r", host="attention_adapters")
    outer = module.residual(
        "Block", statement, "(r + a) + self.mlp(x)", "self.mlp(x)", "(r + a)", host="output_adapters"
    )
    expected = "x = self.output_adapters(self.mlp(x), self.attention_adapters(a, r, None), None)\n"
    assert expected in emitted(module, outer, inner)


def test_a_sum_that_is_associated_otherwise_than_planned_is_caught_as_our_own_defect() -> None:
    module = handmade("return self.attn(x) + self.mlp(x) + r")
    whole = "self.attn(x) + self.mlp(x) + r"
    site = module.residual(
        "Block", f"return {whole}", whole, "self.mlp(x)", "self.attn(x) + r", host="output_adapters"
    )
    with pytest.raises(CodegenError, match="where upstream has"):
        emitted(module, site)


def test_a_planned_expression_that_is_not_in_the_text_is_refused() -> None:
    module, other = handmade("return r + x"), handmade("y = r\nreturn r + x")
    site = other.residual("Block", "return r + x", "r + x", "x", "r")
    with pytest.raises(CodegenError) as caught:
        rewrite_module(module.facts, module.plan(site))
    assert caught.value.diagnostics[0].code == "R102"
