"""What the tool complains about: the exception that carries diagnostics (`errors`), and how they are shown (`report`)."""
