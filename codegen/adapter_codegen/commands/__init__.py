"""The commands, one per file: what each is asked, and in what order it does its work. ``cli`` gathers them.

add_model, remove_model      write or delete what belongs to models; `writing` is what they share
check_tree                   whether the tree is in step
coverage_table, list_models  what holds for which models
explain_model                the plan of one model
options                      options that several commands share; `exit_codes` what a run ends with
show/                        how results look
"""
