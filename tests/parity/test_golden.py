"""Our numbers against numbers that others wrote down, each with its source.

Evidence: none of them was computed by this project. MiniLM's always run. bert-base-uncased's need its weights, from
the folder that the environment variable MINIBERT_BERT_BASE names or from the Hub's cache; nothing is downloaded.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from minibert import Bert, BertForPreTraining, InputError, Padded, SentenceEncoder
from minibert.files import sha256
from minibert.hub import BERT_BASE, from_cache
from minibert.pretraining import fill_masks
from minibert.tokenizer import Tokenizer


def close(found: Tensor | np.ndarray, recorded: object, atol: float) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(recorded), rtol=0, atol=atol)


# --- all-MiniLM-L6-v2


@pytest.fixture(scope="module")
def encoder(minilm: Path) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(minilm, device="cpu")


def test_minilm_is_the_published_file(minilm: Path) -> None:
    digest = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert sha256(minilm / "model.safetensors") == digest


def test_minilm_hello_world(encoder: SentenceEncoder) -> None:
    """Masked mean, scaled to length 1, the first five numbers. Source: four independent records of this sentence."""
    vector = encoder.encode("hello world")
    close(vector[:5], [-0.03447725, 0.03102325, 0.00673496, 0.02610892, -0.03936201], 1e-6)


def test_minilm_what_is_deep_learning(minilm: Path, encoder: SentenceEncoder) -> None:
    """Masked mean and [CLS], not scaled. Source: text-embeddings-inference's snapshots.

    Its kernels approximate, and differ from transformers by up to 1.0e-3: hence 1.5e-3.
    """
    text = "What is Deep Learning?"
    mean = encoder.encode(text, normalize=False)
    recorded = [-0.59059864, -0.25252345, 0.14972475, 0.05487579, -0.11783009, -0.16678402, -0.23309596, -0.07095148]
    recorded += [-0.1996679, -0.29578373, -0.7731901, 0.14408088, -0.29074174, -0.18554585, -0.9092755, -0.020074653]
    close(mean[:16], recorded, 1.5e-3)
    close(np.linalg.norm(mean), 7.580908840590304, 1.5e-3)
    cls = SentenceEncoder.from_pretrained(minilm, pooling="cls", device="cpu").encode(text, normalize=False)
    recorded = [-0.023603667, -0.5268713, 0.17888242, -0.1465806, -0.0010344515, 0.105331376, -0.12240729, 0.01991907]
    close(cls[:8], recorded, 1.5e-3)


EXACT = {1: ([0.4210, 0.2697, 0.2750], [0.3886, 1.3500, 0.9917])}
TANH = {
    0: ([0.0798, -0.0665, -0.0247], [-0.1082, -0.1000, -0.2751]),
    1: ([0.4218, 0.2690, 0.2740], [0.3889, 1.3503, 0.9908]),
    2: ([0.0466, 0.3041, -0.1143], [0.4427, 0.6926, -0.1515]),
}


@pytest.mark.parametrize(("activation", "rows"), [("gelu_new", TANH), ("gelu", EXACT)])
def test_minilm_with_either_gelu(encoder: SentenceEncoder, activation: str, rows: dict) -> None:
    """Last hidden state, the first three and last three numbers of a row. Source: candle's README, four digits.

    candle computed the tanh approximation, though the checkpoint's config names the exact GELU. That costs up to
    1e-3 here: the bound of 1e-4 tells the two apart.
    """
    bert = Bert(replace(encoder.bert.config, hidden_act=activation)).eval()
    bert.load_state_dict(encoder.bert.state_dict())
    ids = encoder.tokenizer.encode(["Here is a test sentence"])[0].ids
    with torch.inference_mode():
        hidden = bert(torch.tensor([ids]))[0]
    for row, (first, last) in rows.items():
        close(hidden[row, :3], first, 1e-4)
        close(hidden[row, -3:], last, 1e-4)


# --- bert-base-uncased


@pytest.fixture(scope="module")
def bert_base() -> Path:
    named = os.environ.get("MINIBERT_BERT_BASE")
    folder = Path(named) if named else from_cache(BERT_BASE, None)
    if folder is None:
        pytest.skip(f"MINIBERT_BERT_BASE names no folder, and the Hub's cache has no {BERT_BASE}")
    return folder


@pytest.fixture(scope="module")
def whole(bert_base: Path) -> BertForPreTraining:
    return BertForPreTraining.from_pretrained(bert_base)


@pytest.fixture(scope="module")
def bert(whole: BertForPreTraining) -> Bert:
    return whole.bert


@pytest.fixture(scope="module")
def tokenizer(bert_base: Path) -> Tokenizer:
    try:
        return Tokenizer.from_folder(bert_base)
    except InputError as error:
        pytest.skip(str(error))


def last_hidden_state(bert: Bert, tokenizer: Tokenizer, texts: list[str]) -> tuple[Tensor, Padded]:
    rows = [torch.tensor(tokens.ids) for tokens in tokenizer.encode(texts)]
    layout = Padded(pad_sequence([torch.ones_like(row) for row in rows], batch_first=True))
    with torch.inference_mode():
        return bert(pad_sequence(rows, batch_first=True), layout), layout


def test_bert_base_mean_of_a_padded_batch(bert: Bert, tokenizer: Tokenizer) -> None:
    """Masked mean, the first ten numbers. Source: the notebook that this project started from."""
    recorded = {
        "I love tres leches": [
            [0.40155387, 0.27310404, -0.12392522, -0.14442347, 0.23539612],
            [0.08395826, -0.02269688, 0.2874141, -0.02653583, -0.5048618],
        ],
        "Something fun": [
            [0.12102238, -0.42853853, -0.06121706, 0.16960466, 0.00936238],
            [-0.57226175, 0.23743963, 0.38778707, -0.2520484, -0.1089665],
        ],
        "Transformers are powerful models for NLP!": [
            [0.07447346, -0.66652596, 0.5844453, 0.28960234, 0.19072461],
            [-0.28513166, -0.1948359, -0.00175048, 0.06677036, -0.11012895],
        ],
    }
    hidden, layout = last_hidden_state(bert, tokenizer, list(recorded))
    close(layout.mean(hidden)[:, :10].reshape(3, 2, 5), list(recorded.values()), 2e-5)


def test_bert_base_mean_with_the_padding_in_it(bert: Bert, tokenizer: Tokenizer) -> None:
    """The mistake of a second notebook, four digits: no attention mask, and the mean over all positions.

    The first sentence is the longest, so its vector is right as it stands; the second one's is not.
    """
    texts = ["This is a sample sentence.", "Another example sentence."]
    rows = [torch.tensor(tokens.ids) for tokens in tokenizer.encode(texts)]
    input_ids = pad_sequence(rows, batch_first=True)
    assert len(rows[0]) > len(rows[1])
    with torch.inference_mode():
        wrong = bert(input_ids, torch.ones_like(input_ids)).mean(1)
    close(wrong[0, [0, 1, 2, -3, -2, -1]], [-0.0639, -0.4284, -0.0668, -0.1753, -0.1239, 0.3197], 1e-4)
    close(wrong[1, [0, 1, 2, -3, -2, -1]], [-0.1491, -0.4124, -0.0350, -0.1290, 0.2041, 0.0163], 1e-4)
    hidden, layout = last_hidden_state(bert, tokenizer, texts)
    right = layout.mean(hidden)
    close(right[0], wrong[0], 1e-5)
    assert (right[1] - wrong[1]).abs().max() > 0.01


def test_bert_base_cosines(bert: Bert, tokenizer: Tokenizer) -> None:
    """Cosines of masked means. Source: a third notebook, four digits."""
    texts = ["I love natural language processing.", "NLP is a fascinating field.", "The Eiffel Tower is in Paris."]
    texts += ["Transformers are used in deep learning.", "Paris is the capital of France."]
    hidden, layout = last_hidden_state(bert, tokenizer, texts)
    vectors = torch.nn.functional.normalize(layout.mean(hidden))
    cosines = vectors @ vectors.T
    close(cosines[[0, 0, 2, 1], [1, 2, 4, 3]], [0.6150, 0.5189, 0.7452, 0.6954], 1e-4)


def test_bert_base_hidden_state(bert: Bert) -> None:
    """Source: transformers' own integration test of BertModel. The first column is masked."""
    input_ids = torch.tensor([[0, 345, 232, 328, 740, 140, 1695, 69, 6078, 1588, 2]])
    with torch.inference_mode():
        hidden = bert(input_ids, torch.tensor([[0, *[1] * 10]]))
    recorded = [[0.4249, 0.1008, 0.7531], [0.3771, 0.1188, 0.7467], [0.4152, 0.1098, 0.7108]]
    close(hidden[0, 1:4, 1:4], recorded, 1e-4)


def test_bert_base_masked_word_scores(whole: BertForPreTraining) -> None:
    """Source: Bumblebee's test of its masked-word head. The last column is [SEP]."""
    input_ids = torch.tensor([[101, 1996, 3007, 1997, 2605, 2003, 103, 1012, 102]])
    with torch.inference_mode():
        words, _ = whole(input_ids)
    assert words is not None
    recorded = [[-14.7240, -14.2120, -14.6434], [-10.3125, -9.7459, -9.9923], [-15.1105, -14.8048, -14.9276]]
    close(words[0, 1:4, 1:4], recorded, 1e-4)


def test_bert_base_next_sentence_scores(whole: BertForPreTraining) -> None:
    """Source: Bumblebee's test of its next-sentence head."""
    first = [101, 1999, 3304, 10733, 2003, 2366, 4895, 14540, 6610, 2094, 1012, 102]
    second = [2059, 1996, 8013, 20323, 2009, 2478, 9292, 1998, 5442, 1012, 102]
    types = torch.tensor([[0] * len(first) + [1] * len(second)])
    with torch.inference_mode():
        _, follows = whole(torch.tensor([first + second]), token_type_ids=types)
    assert follows is not None
    close(follows, [[6.1459, -5.7820]], 1e-4)


@pytest.mark.parametrize(
    ("text", "recorded", "atol"),
    [
        (
            "Hello I'm a [MASK] model.",
            {
                "fashion": 0.1073106899857521,
                "role": 0.08774490654468536,
                "new": 0.05338378623127937,
                "super": 0.04667217284440994,
                "fine": 0.027095865458250046,
            },
            2e-5,
        ),
        ("The capital of France is [MASK].", {"paris": 0.4168}, 1e-4),
    ],
)
def test_bert_base_fills_masks(
    whole: BertForPreTraining, tokenizer: Tokenizer, text: str, recorded: dict[str, float], atol: float
) -> None:
    """The likeliest words in order, with their probabilities. Source: the model's card; the second has four digits."""
    [words] = fill_masks(whole, tokenizer, text, top=len(recorded))
    assert [word for word, _ in words] == list(recorded)
    close(np.array([probability for _, probability in words]), list(recorded.values()), atol)
