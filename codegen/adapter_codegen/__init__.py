"""Reads the modeling files of transformers, and writes adapter-enabled modules. The way of the data:

upstream      find a release and read its files as text
parse/        text -> facts: classes, bases, submodules, forwards, auto mappings
plan/         facts -> plan (`model`): classes, sites, roles; or diagnostics with their places
rewrite/      plan + upstream's tree -> classes with edited forwards
emit/         plan -> files: rendered, formatted, verified, written where they changed
generate      this whole way, for some models
inspect/      answers that write nothing: explain, check, coverage, list
commands/     the commands, an option's meaning and how results look; `cli` gathers them
diagnostics/  what the tool complains about
"""
