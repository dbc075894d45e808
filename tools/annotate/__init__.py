"""The source of minibert and train as pages to read: the reasons on the left, the code on the
right. `python -m tools.annotate` writes them."""
