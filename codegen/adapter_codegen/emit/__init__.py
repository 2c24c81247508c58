"""Plan -> files: everything is made in memory, formatted and verified, and only then written where it changed.

render      plans and records -> texts, through the templates of ``adapter_templates``
formatting  black, in the one style that generated files have
verify      what must be true of every text before it is written
layout      where files lie: in a checkout, or in a package folder of the user's
manifest    what was generated from what; the records that shared files are rendered from
disk        texts -> files on disk: only those that changed, never over a hand edit
"""
