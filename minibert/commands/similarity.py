"""Print the cosine of each pair of texts, the most similar first."""

import argparse

import numpy as np

from minibert.commands.options import add_encoder, add_json, add_texts, load_encoder, print_json
from minibert.files import InputError, one_line
from minibert.terminal import aligned, painted
from minibert.texts import read_texts

USAGE = "%(prog)s [TEXT ...] [options]"
EXAMPLES = """\
%(prog)s "A cat sleeps." "A kitten rests." "Stocks fell."
%(prog)s --input titles.txt --json"""


def add_options(command: argparse.ArgumentParser) -> None:
    add_texts(command)
    add_encoder(command)
    add_json(command.add_argument_group("output"), "JSON lines, of cosine, a and b")


def run(options: argparse.Namespace) -> None:
    texts = read_texts(options.texts, options.input)
    if len(texts) < 2:
        raise InputError(
            f"similarity compares texts, and there is only {len(texts)}: give at least two"
        )
    vectors = load_encoder(options).encode(texts, normalize=True, progress=True)
    cosines = vectors @ vectors.T
    first, second = np.triu_indices(len(texts), k=1)
    shown = [one_line(text) for text in texts]
    columns = aligned(shown)
    for pair in np.argsort(-cosines[first, second], kind="stable"):
        i, j = first[pair], second[pair]
        cosine = float(cosines[i, j])
        if options.json:
            print_json({"cosine": cosine, "a": texts[i], "b": texts[j]})
        else:
            between = painted("|", "faint")
            print(f"{painted(f'{cosine:7.4f}', 'number')}  {columns[i]}  {between}  {shown[j]}")
