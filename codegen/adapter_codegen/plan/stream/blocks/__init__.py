"""The projections of sublayers that do not attend.

feed_forward  of blocks that work on each position alone
mixers        of what mixes positions without attention: state spaces, recurrences, convolutions
"""
