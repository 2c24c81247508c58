"""Prefix tuning: learned keys and values in front of those of an attention."""
