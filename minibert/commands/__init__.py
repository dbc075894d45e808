"""The commands of python -m minibert, one in each file.

A command's file has a docstring, whose first paragraph is its help, EXAMPLES, `add_options`, and
`run`, which does the work.
"""
