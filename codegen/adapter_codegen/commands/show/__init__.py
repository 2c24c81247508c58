"""How results look: on a terminal, in a pipe, as JSON, Markdown or workflow annotations.

console         where words go: results to stdout, everything that accompanies them to stderr
diffs, tables   what several commands show
check_report    the result of ``check``; `coverage_view` of ``coverage``; `list_view` of ``list``
                (``explain`` draws its tree in ``inspect/explain/``, diagnostics are drawn in ``diagnostics/report.py``)
"""
