"""From files into a model: resolve, add, fit, commit. What goes wrong on the way leaves the model as it was."""
