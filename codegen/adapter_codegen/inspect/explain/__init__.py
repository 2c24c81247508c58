"""``adapter-codegen explain``: a plan for people.

outline  the plan as a tree of nodes, and as JSON: what is said is decided here alone
emitted  the lines that each site of the plan became
text     the tree in a terminal; ``html`` as a page
"""
