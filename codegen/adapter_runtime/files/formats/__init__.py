"""What is in a folder: files of this library, of `adapters` and its predecessors, and of PEFT.

    saved          what each format gives: a `SavedAdapter`, with a `SavedHead`; or a `SavedFusion`
    table          the formats of adapters, and which of them a folder is in
    own            files of this library; heads and fusions of all libraries are laid out as its own
    legacy         files of `adapters` and its predecessors: the rules that bring them up to date; ``legacy_parts`` those for
                   an encoder and a decoder that are models of their own
    refused_files  those of them that would compute something else here
    peft           files of PEFT, and in ``peft_heads`` the heads in them
    renames        names of tensors from before upstream renamed a module
    static_heads   heads of upstream's classes as heads that are added by name, and back
    setups         a composition and its heads, and in ``blocks`` the JSON of blocks
    interface      where the modules are in a model without generated classes

Nothing here changes a model.
"""
