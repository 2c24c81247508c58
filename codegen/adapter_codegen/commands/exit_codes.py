"""What a run says to the shell."""

from enum import IntEnum


class ExitCode(IntEnum):
    OK = 0  # done, and everything in step
    DRIFT = 1  # the tree is not what the tool would write, or a model was refused
    ERROR = 2  # wrong usage (click's own code), a problem with the input, or an internal error
    UPSTREAM = 3  # the tree is as it was generated, but a newer transformers no longer matches it
