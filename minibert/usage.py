"""What --help shows around a program's options."""

import argparse
import textwrap
from functools import partial
from typing import Any

EXIT_STATUS = """\
exit status:
  0 done; 2 for input that cannot be used or output that cannot be written;
  130 if stopped by SIGINT (Ctrl-C), 143 by SIGTERM; 1 for a fault of ours"""


def usage(docstring: str | None, examples: str) -> dict[str, Any]:
    """The arguments of an `argparse.ArgumentParser` that show the first paragraph of a docstring
    above the options, and below them examples and what the exit status means."""
    first, *_ = (docstring or "").split("\n\n")
    return {
        "description": textwrap.fill(" ".join(first.split()), 79),
        "epilog": f"examples:\n{textwrap.indent(examples, '  ')}\n\n{EXIT_STATUS}",
        "formatter_class": partial(argparse.RawDescriptionHelpFormatter, max_help_position=26),
    }
