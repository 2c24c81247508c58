"""State of one call of a model: the thread's `AdapterSetup`, values computed once for many layers, rows and real tokens."""
