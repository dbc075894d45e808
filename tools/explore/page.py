"""The values as one HTML file that needs nothing else."""

import json
import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def write_page(values: dict[str, Any]) -> str:
    """The page: page.html with the style, the program and the values in it."""
    # No "<" of a text may end the script that holds the values. ASCII leaves no odd line ends.
    content = json.dumps(values, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = {
        "style": (FOLDER / "page.css").read_text(encoding="utf-8"),
        "values": content,
        "program": (FOLDER / "page.js").read_text(encoding="utf-8"),
    }
    html = (FOLDER / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], html)
