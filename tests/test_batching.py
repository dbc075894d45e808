"""batching.py: windows of a stream, and batches within a budget of tokens."""

import random

import pytest

from minibert.batching import batches, windows


def test_batches_hold_every_text_once_within_the_budget_longest_first() -> None:
    lengths = [3, 9, 2, 2, 40, 5, 3, 1, 8]
    for budget in (1, 5, 10, 16, 1000):
        found = list(batches(lengths, budget))
        assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
        assert all(len(batch) == 1 or sum(lengths[i] for i in batch) <= budget for batch in found)
        longest_first = [lengths[i] for batch in found for i in batch]
        assert longest_first == sorted(lengths, reverse=True)
    assert list(batches([], 5)) == []


def test_a_text_over_the_budget_is_a_batch_and_makes_no_other_smaller() -> None:
    first, *others = batches([512] + [8] * 30, 64)
    assert first == [0]
    assert len(others) == len(list(batches([8] * 30, 64)))
    assert min(map(len, others)) >= 7


def test_batches_are_of_about_one_size_and_one_for_each_worker() -> None:
    seeded = random.Random(0)
    for workers in (1, 2, 3, 8):
        for _ in range(50):
            lengths = [seeded.randint(1, 60) for _ in range(seeded.randint(0, 400))]
            found = [sum(lengths[i] for i in batch) for batch in batches(lengths, 500, workers)]
            needed = -(-sum(lengths) // 500)
            assert max(found, default=0) <= 500
            if needed <= 1:
                assert len(found) == needed
            else:
                assert len(found) in range(needed, needed + workers + 2)
            # Where the batches are full, the budget may ask for one more.
            if needed > 1 and -(-needed // workers) * workers > needed:
                assert len(found) % workers == 0
                assert max(found) - min(found) <= 60


def test_windows_hold_every_text_in_order_and_end_by_their_own_texts_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("minibert.batching.WINDOW_CHARACTERS", 50)
    texts = ["a" * (i * 7 % 41) for i in range(100)]
    found = list(windows(texts))
    assert [text for window in found for text in window] == texts
    assert len(found) > 10
    assert min(map(len, found)) > 0
    for i, window in enumerate(found):
        rest = [text for later in found[i:] for text in later]
        assert next(windows(rest)) == window  # a stream that goes on at a window's end
    assert max(map(len, windows([""] * 1000))) < 1000  # empty texts fill a window too
    assert list(windows([])) == []
