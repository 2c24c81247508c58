"""Modules of upstream that are trained along with an adapter (`also_train`): how they are named, and how its copies run."""
