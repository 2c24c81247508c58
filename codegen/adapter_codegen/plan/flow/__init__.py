"""The data flow of a forward: what every value in it was computed from.

values    the graph: a `Value` per result of an expression
dataflow  follows a forward, and the functions that it calls, statement by statement
walks     steps from a value back to what it has its contents from
kinds     what a submodule does, from its class
layout    the order of a tensor's dimensions, proven by the views that gave it
"""
