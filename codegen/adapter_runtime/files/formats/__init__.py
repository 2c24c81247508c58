"""What is in a folder: files of this library, of `adapters` and its predecessors, and of PEFT."""
