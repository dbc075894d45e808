"""What each shape comment stands for in a real run: the sizes of an example, and a few values.

The example is a batch of two sentences through a real encoder. A line that it does not reach has
the sizes with which `tools.check_shapes` runs all of the code, and no values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minibert.encoder import SentenceEncoder
from minibert.heads import normalize, pool
from minibert.layout import Packed, Padded
from tools.annotate.source import ROOT, Source
from tools.check_shapes import Comment, exercise_all, find_comments, shapes, trace

TEXTS = ("The bank raised its rates.", "She sat on the bank of the river.")
VALUES = 3  # how many numbers of a tensor are shown


@dataclass
class Watched(Comment):
    """A shape comment that keeps what its first execution made."""

    shape: tuple[tuple[int, ...], ...] = ()  # of each tensor
    values: str = ""  # the first numbers of the first tensor
    is_example: bool = False

    def hold(self, reads: list[Any], result: object) -> None:
        super().hold(reads, result)
        found = [shape for shape in shapes(result) if shape is not None]
        if found and not self.shape:
            self.shape, self.values = tuple(found), first_values(result)

    def text_of_shape(self) -> str:
        """The shapes in words: (2, 12) where all are the same, else each."""
        same = dict.fromkeys(self.shape)
        return ", ".join(f"({', '.join(map(str, shape))})" for shape in same)


def first_values(result: object) -> str:
    """The first few numbers of a tensor, or of the first of several."""
    while isinstance(result, list | tuple) and result:
        result = result[0]
    if not isinstance(result, Tensor) or not result.numel():
        return ""
    numbers = result.detach().flatten()[: VALUES + 1].tolist()
    shown = [f"{number:.4f}" if isinstance(number, float) else str(number) for number in numbers]
    more = ["…"] if len(shown) > VALUES else []
    return ", ".join(shown[:VALUES] + more).replace("-", "\N{MINUS SIGN}")


def batch(encoder: SentenceEncoder) -> tuple[Tensor, Tensor, list[int]]:
    """The example's ids and mask, (B, S), and the sentences' lengths."""
    tokens = encoder.tokenizer.encode(TEXTS)
    lengths = [len(one.ids) for one in tokens]
    ids = torch.zeros(len(tokens), max(lengths), dtype=torch.long)
    for row, one in zip(ids, tokens, strict=True):
        row[: len(one.ids)] = torch.tensor(one.ids)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    return ids, mask, lengths


def run(encoder: SentenceEncoder) -> None:
    """The example: padded, packed, pooled, and as `encode` does it."""
    ids, mask, lengths = batch(encoder)
    with torch.inference_mode():
        hidden = encoder.bert(ids, mask)
        normalize(pool(hidden, Padded(mask), "mean"))
        encoder.bert.attention_probabilities(ids, mask)
        encoder.bert(ids[mask], layout=Packed(lengths))
    encoder.encode(list(TEXTS))


def watch(sources: Sequence[Source], encoder: SentenceEncoder) -> Mapping[tuple[str, int], Watched]:
    """Every shape comment of some files, by file and line, with what it stood for."""
    watched = [
        Watched(**vars(comment))
        for source in sources
        for comment in find_comments(ROOT / source.path)
    ]
    torch.manual_seed(0)
    trace(watched, lambda: run(encoder))
    for comment in watched:
        comment.is_example = bool(comment.shape)
    trace([comment for comment in watched if not comment.shape], exercise_all)
    return {(str(c.path.relative_to(ROOT)), c.row): c for c in watched}
