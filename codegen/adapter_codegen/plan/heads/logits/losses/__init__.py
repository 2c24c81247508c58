"""What a class with a head compares with labels.

labels  which label it compares the logits of a position with, and which labels count
ends    whether it compares the end of its logits alone
"""
