"""The Jinja templates of everything that is written without copying upstream's code.

``adapter_codegen.emit.render`` holds the table template -> output path and the variables that a template sees. In short:

per model     ``plan`` (`adapter_codegen.model.ModelPlan`), ``record`` (`adapter_codegen.emit.manifest.ModelRecord`: the facts about
              the model that shared files need), ``names`` (`adapter_codegen.emit.render.Names`), ``header`` (the block of comments that every
              generated file starts with, in the comment syntax of the file); ``modeling.py.jinja`` also ``body``.
shared        ``records`` (all `ModelRecord`, sorted by model type), ``version`` (of transformers), ``header``.

Undefined variables are errors, blocks are trimmed, and Python output goes through black, so templates need not
care about the width of lines. The filter ``literal`` writes a value as a Python literal.
"""
