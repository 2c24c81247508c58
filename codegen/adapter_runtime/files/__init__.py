"""The files of adapters and heads: names, JSON and keys are those of `adapters`, so that files go both ways.

    names      file names; which names of adapters are allowed
    documents  JSON, written atomically
    tensors    safetensors and restricted pickles
    keys       which tensors belong to which adapter, and their names
    legacy     files of earlier versions and libraries
    source     folder or hub id -> folder
    fit        comparing with a model before anything is copied

``files/saving.py`` and ``files/loading.py`` of this package's parent put them together.
"""
