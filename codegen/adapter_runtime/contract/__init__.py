"""What methods, files and heads may count on: configs, the state of a model with adapters, and undoing what failed."""
