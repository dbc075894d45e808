"""The commands of python -m minibert, one in each file.

A command's file has a docstring, whose first paragraph is its help and whose first sentence tells
what it does; USAGE and EXAMPLES, for --help; `add_options`; and `run`, which does the work.
"""
