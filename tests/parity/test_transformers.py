"""Our encoder against transformers.BertModel, run side by side on the same weights: the plain
modules of model.py, and the fast ones of minibert/fast.

Evidence: transformers opens a folder that our `save_pretrained` wrote, so these tests also say that
others read what we save. Bounds on values are absolute, and hold at real positions. MiniLM's hidden
states reach 10, where one float32 step is 1e-6. Measured: the plain model differs by up to
9.6e-6 (after layer 5). From the same model in float64 we differ by up to 8.2e-6, transformers by
9.6e-6.
"""

import copy
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import BertModel

from minibert import Bert, BertConfig
from minibert.fast import inference_copy, speed_up
from minibert.tokenizer import Tokenizer
from tools.parity import (
    Batch,
    both,
    differences,
    gradient_differences,
    gradients,
    our_attentions,
    our_states,
    random_model_differences,
    shake,
    their_attentions,
    their_states,
    worst,
)

BOUND = 1e-5
LONGEST = 256


def plain(bert: Bert) -> Bert:
    return bert


def sped_up(bert: Bert) -> Bert:
    """As `train` computes."""
    fast = copy.deepcopy(bert)
    speed_up(fast)
    return fast


# The last is as a SentenceEncoder computes.
VARIANTS: list[Callable[[Bert], Bert]] = [plain, sped_up, inference_copy]


@pytest.fixture(scope="module")
def real(
    minilm: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Bert, BertModel]]:
    folder = tmp_path_factory.mktemp("minilm")
    yield both(Bert.from_pretrained(minilm), folder)
    shutil.rmtree(folder)  # 90 MB


@pytest.fixture(scope="module")
def batches(minilm: Path, sentences: list[str]) -> list[Batch]:
    """Five batches of 24 real texts. Each batch has texts of 1 to 4 tokens, and the longest of all
    has 256.

    The lengths are chosen. A text that is too short is joined with the next one; one that is too
    long loses its end.
    """
    words = iter([tokens.ids[1:-1] for tokens in Tokenizer.from_folder(minilm).encode(sentences)])
    lengths = sorted(round(LONGEST ** (i / 119)) for i in range(120))  # log-uniform
    texts = []
    for length in lengths:
        ids: list[int] = []
        while len(ids) < length - 2:
            ids += next(words)
        texts.append(torch.tensor([101, *ids[: length - 2], 102][:length]))
    shortest, rest = texts[:20], texts[20:]
    return [Batch(shortest[i::5] + rest[20 * i : 20 * (i + 1)][::-1]) for i in range(5)]


def test_the_real_texts_are_as_many_and_as_long_as_claimed(batches: list[Batch]) -> None:
    lengths = [length for batch in batches for length in batch.lengths]
    assert len(lengths) == 120
    assert (min(lengths), max(lengths)) == (1, LONGEST)
    assert all(min(batch.lengths) == 1 and max(batch.lengths) > 5 for batch in batches)


@pytest.fixture(scope="module")
def expected(real: tuple[Bert, BertModel], batches: list[Batch]) -> list[list[Tensor]]:
    with torch.inference_mode():
        return [their_states(real[1], batch) for batch in batches]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("variant", "bound"), [(plain, BOUND), (sped_up, 2e-5), (inference_copy, 2e-5)]
)
def test_every_hidden_state_of_minilm(
    real: tuple[Bert, BertModel],
    batches: list[Batch],
    expected: list[list[Tensor]],
    variant: Callable[[Bert], Bert],
    bound: float,
    packed: bool,
) -> None:
    """After the embeddings and each of six layers, on 120 real texts of 1 to 256 tokens.

    Fast linear layers add up their sums in another order: measured, they differ by up to 1.4e-5.
    """
    bert = variant(real[0])
    for batch, theirs in zip(batches, expected, strict=True):
        with torch.inference_mode():
            ours = our_states(bert, batch, packed)
        assert len(ours) == len(theirs) == 7
        assert worst(differences(ours, theirs)) <= bound


def test_every_attention_probability_of_minilm(
    real: tuple[Bert, BertModel], batches: list[Batch]
) -> None:
    """Within 1e-5 for every layer, head and real query, over all keys."""
    for batch in batches:
        with torch.inference_mode():
            ours, theirs = our_attentions(real[0], batch), their_attentions(real[1], batch)
        assert len(ours) == len(theirs) == 6
        assert worst(differences(ours, theirs)) <= BOUND


@pytest.mark.parametrize("variant", [plain, sped_up])
def test_in_float64_minilm_differs_in_the_last_digits_only(
    real: tuple[Bert, BertModel], batches: list[Batch], variant: Callable[[Bert], Bert]
) -> None:
    """The differences above are float32's rounding: in float64 hidden states agree to 1e-12, and
    all gradients to 1e-11."""
    batch = batches[2]
    ours, theirs = (copy.deepcopy(model).double() for model in real)
    ours = variant(ours)
    expected = their_states(theirs, batch)
    weights = torch.randn(sum(batch.lengths), 384, dtype=torch.float64)
    slopes = gradients(theirs, (expected[-1] * weights).sum())
    for packed in (False, True):
        states = our_states(ours, batch, packed)
        assert worst(differences(states, expected)) <= 1e-12
    found = gradients(ours, (states[-1] * weights).sum())
    assert worst(gradient_differences(found, slopes).values()) <= 1e-11


@pytest.mark.parametrize("variant", [plain, sped_up])
@pytest.mark.parametrize("number", range(30))
def test_random_configs(number: int, variant: Callable[[Bert], Bert], tmp_path: Path) -> None:
    """Hidden states and pooler within 1e-5, and the gradient of every parameter, in both
    layouts."""
    assert worst(random_model_differences(number, tmp_path, variant)) <= BOUND


def test_dropout_drops_what_transformers_drops(tiny_config: BertConfig, tmp_path: Path) -> None:
    """In training, from the same random state: both draw the same masks in the same places, so
    their values are the same.

    A mask too many or too few, in another place, of another chance or shape, would change all
    random numbers after it. (Fast dropout draws others: tests/test_fast.py tests it.)
    """
    config = replace(tiny_config, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3)
    ours, theirs = both(shake(Bert(config), 0.1), tmp_path, "sdpa")
    ids, mask = torch.randint(1, config.vocab_size, (3, 6)), torch.ones(3, 6, dtype=torch.long)
    mask[1, 4:] = 0
    weights = torch.randn(int(mask.sum()), config.hidden_size)
    steady = ours(ids, mask)
    results = []
    for model in (ours.train(), theirs.train()):
        torch.manual_seed(1)
        hidden = model(ids, mask) if model is ours else model(ids, mask).last_hidden_state
        results.append(
            (hidden, torch.rand(1), gradients(model, (hidden[mask.bool()] * weights).sum()))
        )
    assert (results[0][0] - steady).abs().max() > 0.1
    assert torch.equal(results[0][1], results[1][1])  # as many random numbers were drawn
    torch.testing.assert_close(
        results[0][0][mask.bool()], results[1][0][mask.bool()], rtol=0, atol=BOUND
    )
    assert worst(gradient_differences(results[0][2], results[1][2]).values()) <= BOUND


@pytest.mark.parametrize("types", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
@torch.inference_mode()
def test_holes_and_left_padding(
    tiny_config: BertConfig, tmp_path: Path, variant: Callable[[Bert], Bert], types: bool
) -> None:
    """A mask with zeros anywhere means the same to both: nothing attends to those columns, and they
    count as positions."""
    ours, theirs = both(shake(Bert(tiny_config), 0.1), tmp_path)
    ours = variant(ours)
    ids, mask = torch.randint(1, tiny_config.vocab_size, (6, 24)), torch.rand(6, 24) < 0.5
    mask[:, 7] = True
    token_types = torch.randint_like(ids, 2) if types else None
    expected = theirs(ids, mask.long(), token_types).last_hidden_state[mask]
    found = ours(ids, mask, token_types)[mask]
    torch.testing.assert_close(found, expected, rtol=0, atol=BOUND)
