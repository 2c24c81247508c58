"""What the tool answers without writing anything. How an answer looks is the business of ``commands/show/``.

check      whether the tree is in step with upstream
coverage   what the plan makes of every modeling module of a release
explain/   the plan of one model, as a tree of words
listing    which model types are supported, which could be, and why not the rest
"""
