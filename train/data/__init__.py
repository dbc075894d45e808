"""Files -> examples: one file for each format, and what the formats share.

`read.py` finds the format of a file or folder. `columns.py` turns named fields into an example.
"""
