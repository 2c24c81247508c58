"""The order in which one projection gives queries, keys and values, or keys and values.

LoRA on the queries alone must know which outputs of such a projection they are. So what upstream does with its output is replayed
on symbols, from the projection to where the three part:

order   the orders, from the cuts: which part stands first, how large each is, in which branch of the module
cuts    the first cut on every way from the projection to one of the three, as a span of outputs
axes    what views, transpositions and permutations make of the dimensions of the output
gates   the same of queries and of gates of what they attend to
sizes   sizes, as the attributes of the module state them

What is not followed is no order, and the runtime refuses to adapt a part there.
"""

from adapter_codegen.plan.attention.fused.gates import gates
from adapter_codegen.plan.attention.fused.order import orders
from adapter_codegen.plan.attention.fused.sizes import stated_size

__all__ = ["gates", "orders", "stated_size"]
