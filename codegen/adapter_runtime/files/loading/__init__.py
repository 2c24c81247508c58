"""From files into a model. What goes wrong on the way leaves the model as it was.

``adapter``, ``head`` and ``fusion`` each go one way, from top to bottom:

    resolve  what the model shall get: under which name, of which config. The model is not changed
    add      make room for it
    fit      the tensors under the names that the model gives them, compared with what it expects (``fit``, ``leave_out``)
    commit   copy the tensors, when those of all parts are known to fit (``commit``)

``setup`` does that for all parts of a composition, in one transaction.
"""
