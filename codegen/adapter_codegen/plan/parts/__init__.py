"""Models inside a model, whose classes have adapters of their own: the *parts* of a composite.

finding      where they are, in the order in which they are registered
making       how each is made, and from which config
elsewhere    what other files say of the classes that upstream's auto tables or an import name
models       which classes of a file are models
running      what of a model its forward runs, and where no gradient passes
near_misses  models that are no parts, and why
learning     models in which nothing can be trained
towers       models of the same file that are base models by themselves
of_file      what the parts that stand in the file of the whole say of its methods
roots        classes with a head that hold the parts themselves
"""
