"""The commands of `adapter-codegen`, a file each, and what they share: options, exit codes, and how results are shown."""
