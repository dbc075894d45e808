"""Model cards: the README.md of a model folder, whose first lines the Hub reads."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minibert.files import write_text


def write_card(file: Path, facts: Mapping[str, Any], text: str) -> None:
    """Write a model card: facts for the Hub as YAML between two lines of dashes, then Markdown for
    people."""
    # JSON is YAML too.
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in facts.items()]
    write_text(file, "\n".join(["---", *lines, "---", "", text.strip(), ""]))
