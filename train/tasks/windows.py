"""Texts that are read in windows: which window tells most of a token."""

from collections.abc import Sequence

from minibert.tokenizer import Tokens


def text_positions(window: Tokens) -> list[int]:
    """Where the text stands in a sequence, or the second text of a pair."""
    last = window.type_ids[-1]
    return [
        position
        for position, (word, number) in enumerate(zip(window.words, window.type_ids, strict=True))
        if word is not None and number == last
    ]


def best_windows(windows: Sequence[Tokens], overlap: int | None) -> list[tuple[int, int]]:
    """For each token of a text, the window in which it has most context, and its position there.

    That is the window that has most tokens on the side where it has fewer, as
    `_check_is_max_context` of Google's run_squad.py has it.
    """
    best: list[tuple[int, int]] = []
    contexts: list[float] = []
    first = 0  # the number of the window's first token in the text
    for number, window in enumerate(windows):
        positions = text_positions(window)
        for i, position in enumerate(positions):
            context = min(i, len(positions) - 1 - i) + 0.01 * len(positions)
            if first + i == len(best):
                best.append((number, position))
                contexts.append(context)
            elif context > contexts[first + i]:
                best[first + i], contexts[first + i] = (number, position), context
        first += len(positions) - (overlap or 0)
    return best
