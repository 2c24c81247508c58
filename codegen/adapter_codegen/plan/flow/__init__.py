"""The data flow of a forward: what every value in it was computed from.

values       the graph: a `Value` per result of an expression, and the questions that it answers
tracer       follows a forward, and the functions that it calls, and gives the graph
activation   one function that runs: what its names are bound to. The rules work on it: `statements`, `expressions`
             (with `operators`), `calls`, and `bindings` of parameters and targets
modules      submodules as the facts of a file tell of them; `kinds` what one does, from its class
walks        steps from a value back to what it has its contents from
layout       the order of a tensor's dimensions, proven by the views that gave it
"""
