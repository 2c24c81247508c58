"""Saving and loading: names of files, their JSON and their keys are those of `adapters`, so that files go both ways.

api        the methods of models: save_adapter, load_adapter, push_adapter_to_hub ...
options    what their callers can choose
source     a folder, or the id of a repository of the hub -> a local folder
formats    what is in a folder, whoever wrote it
loading    from there into a model: resolve, add, fit, commit
saving     from a model to a folder
hub        pushing, and the card beside what is pushed
heads      heads as documents and tensors
names      the names of files
documents  JSON
tensors    safetensors, and pickles that hold nothing but tensors
utils      small things that projects import from ``adapters.utils``
"""
