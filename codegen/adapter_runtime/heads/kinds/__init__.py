"""The heads of this library, a file for each kind, and the losses that they share."""
