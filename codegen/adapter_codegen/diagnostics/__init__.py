"""What the tool complains about.

table   every problem that it knows: code, level, message, remedy. A new diagnostic is a new entry there.
errors  the exception that carries diagnostics
faults  whose fault a diagnostic is; what nobody foresaw, as a diagnostic
report  diagnostics as people, programs and GitHub read them
"""
