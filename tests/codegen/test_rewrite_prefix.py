"""The edit at an attention core."""

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
import torch.nn.functional as F
from torch import nn
from ...masking import attend

class Attention(nn.Module):
    def forward(self, x, q, k, v, mask=None, flag=False, **kwargs):
"""


def handmade(body: str) -> Handmade:
    return Handmade(HEAD + indent(dedent(body).lstrip("\n"), " " * 8))


def emitted(module: Handmade, *sites: object) -> str:
    plan = module.plan(*sites)  # type: ignore[arg-type]
    text = formatted("modeling_mine.py", rewrite_module(module.facts, plan))
    verify_model(module.facts, plan, {"modeling_mine.py": text})
    return text


def body_of(text: str) -> str:
    return dedent(text.split("**kwargs):\n", 1)[1])


def test_a_core_that_is_not_planned_stays_as_it_is() -> None:
    module = handmade("""
        if flag:
            return attend(q, k, v, mask)
        out = attend(q, k, v)
        return out
        """)
    site = module.prefix("Attention", "out = attend(q, k, v)", "attend(q, k, v)", "q", "k", "v", None, "x")
    assert body_of(emitted(module, site)) == dedent("""\
        if flag:
            return attend(q, k, v, mask)
        # >>> adapters
        k, v, _ = self.prepend_prefix(q, k, v, None, x)
        # <<< adapters
        out = attend(q, k, v)
        return out
        """)


def test_plain_names_are_bound_again_and_upstream_s_statement_is_untouched() -> None:
    module = handmade("""
        q = q * 2

        # meet
        out = attend(q, k, v, mask, **kwargs)
        return out
        """)
    core = "attend(q, k, v, mask, **kwargs)"
    keywords = ("is_causal=False", "**kwargs")
    site = module.prefix("Attention", f"out = {core}", core, "q", "k", "v", "mask", "x", keywords=keywords)
    assert body_of(emitted(module, site)) == dedent("""\
        q = q * 2

        # >>> adapters
        k, v, mask = self.prepend_prefix(q, k, v, mask, x, is_causal=False, **kwargs)
        # <<< adapters
        # meet
        out = attend(q, k, v, mask, **kwargs)
        return out
        """)


def test_other_expressions_get_names_that_stand_in_their_place() -> None:
    module = handmade("""
        out = F.scaled_dot_product_attention(q, k.contiguous(), v, attn_mask=None)
        return out
        """)
    core = "F.scaled_dot_product_attention(q, k.contiguous(), v, attn_mask=None)"
    site = module.prefix("Attention", f"out = {core}", core, "q", "k.contiguous()", "v", "None", "x")
    assert body_of(emitted(module, site)) == dedent("""\
        # >>> adapters
        prefixed_key, v, prefixed_mask = self.prepend_prefix(q, k.contiguous(), v, None, x)
        out = F.scaled_dot_product_attention(q, prefixed_key, v, attn_mask=prefixed_mask)
        # <<< adapters
        return out
        """)


def test_a_name_that_the_function_uses_already_is_not_taken() -> None:
    module = handmade("""
        prefixed_key = k
        out = attend(q, self.k(x), v, mask)
        return out, prefixed_key
        """)
    core = "attend(q, self.k(x), v, mask)"
    site = module.prefix("Attention", f"out = {core}", core, "q", "self.k(x)", "v", "mask", "x")
    assert "prefixed_key_, v, mask = self.prepend_prefix(" in emitted(module, site)


def test_biases_grow_with_the_keys() -> None:
    module = handmade("""
        out = attend(q, k, v, mask, bias=self.bias(x))
        return out
        """)
    core = "attend(q, k, v, mask, bias=self.bias(x))"
    site = module.prefix("Attention", f"out = {core}", core, "q", "k", "v", "mask", "x", biases=("self.bias(x)",))
    assert body_of(emitted(module, site)) == dedent("""\
        # >>> adapters
        k, v, mask = self.prepend_prefix(q, k, v, mask, x)
        prefixed_bias = self.extend_bias(self.bias(x), k)
        out = attend(q, k, v, mask, bias=prefixed_bias)
        # <<< adapters
        return out
        """)


def test_keys_and_values_under_one_name_are_refused() -> None:
    module = handmade("return attend(q, k, k, mask)")
    core = "attend(q, k, k, mask)"
    site = module.prefix("Attention", f"return {core}", core, "q", "k", "k", "mask", "x")
    with pytest.raises(CodegenError) as caught:
        rewrite_module(module.facts, module.plan(site))
    assert caught.value.diagnostics[0].code == "R201"


def test_a_core_in_the_condition_of_an_elif_has_no_place_for_a_statement_and_is_refused() -> None:
    module = handmade("""
        if flag:
            return x
        elif attend(q, k, v, mask):
            return q
        """)
    core = "attend(q, k, v, mask)"
    site = module.prefix("Attention", "return q", core, "q", "k", "v", "mask", "x")
    site = replace(site, statement=replace(site.statement, line=9, column=8))  # of the elif
    with pytest.raises(CodegenError) as caught:
        rewrite_module(module.facts, module.plan(site))
    assert caught.value.diagnostics[0].code == "R103"
