"""What a model makes of texts, as plain numbers for a page.

Shapes: L layers, H heads, S tokens of a sequence, D hidden, P points.
"""

import os
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cosine_similarity

from minibert.encoder import SentenceEncoder
from minibert.files import InputError
from minibert.formats.hub import find_model
from minibert.formats.tokenizer import readable
from minibert.pretraining import BertForPreTraining
from minibert.similarity import similarities
from minibert.tokenizer import Tokenizer, Tokens
from train.predict import stream
from train.saved import Run, load_run
from train.unlabelled import from_lines, from_pairs

MOST_TOKENS = 128  # of a sequence: a page of more is slow, and nobody reads it
TOP = 5  # words for each hidden token

Given = str | tuple[str, str]  # a text, or a pair that is read in one sequence


@dataclass(frozen=True)
class Explored:
    """A model, opened for all that a page shows of it."""

    name: str
    encoder: SentenceEncoder
    whole: BertForPreTraining  # the same, with the heads of pre-training that the files have
    run: Run | None  # the tasks, if it is a finished run

    @property
    def tokenizer(self) -> Tokenizer:
        return self.encoder.tokenizer.limited(MOST_TOKENS)


def open_model(name: str) -> Explored:
    """Open a finished run's folder, or a model as `SentenceEncoder.from_pretrained` names it.
    Raises InputError if there is none, or it is damaged."""
    folder = Path(os.path.expanduser(name))
    run = load_run(folder) if os.path.exists(folder / "settings.toml") else None
    encoder = run.encoder if run else SentenceEncoder.from_pretrained(name, device="cpu")
    whole, _ = BertForPreTraining.from_folder(find_model(folder / "model" if run else name).path)
    return Explored(name, encoder, whole, run)


@torch.inference_mode()
def explore(model: Explored, given: Sequence[Given]) -> dict[str, Any]:
    """All values of a page, ready for JSON. Raises InputError for a text that no task of a run
    reads."""
    config = model.whole.config
    return {
        "model": {
            "name": model.name,
            "layers": config.num_hidden_layers,
            "heads": config.num_attention_heads,
            "hidden": config.hidden_size,
        },
        "sequences": [look_at(model, one) for one in given],
        "sentences": compare(model.encoder, given),
    }


def look_at(model: Explored, given: Given) -> dict[str, Any]:
    """What the model makes of one sequence. The run's tasks read all of it, the rest at most
    MOST_TOKENS tokens."""
    if isinstance(given, tuple):
        [tokens] = model.tokenizer.encode_pairs([given])
    else:
        [tokens] = model.tokenizer.encode([given])
    if 0 < model.whole.config.type_vocab_size <= max(tokens.type_ids):
        raise InputError(f"{model.name} has no token type for the second text of a pair")
    input_ids, types = as_tensors(tokens)
    bert = model.whole.bert
    states = torch.cat(bert.hidden_states(input_ids, None, types))  # (L + 1, S, D)
    if not states.isfinite().all():
        raise InputError(
            f"{model.name}: its vectors of {given!r:.80} are not finite numbers: the weights hold "
            "values that are none, or too large to compute with"
        )
    return {
        "texts": [given] if isinstance(given, str) else list(given),
        "lost": tokens.lost,
        "tokens": describe_tokens(model.tokenizer, tokens),
        "attention": as_bytes(torch.cat(bert.attention_probabilities(input_ids, None, types))),
        "moves": describe_moves(states),
        "words": hidden_words(model, tokens),
        "tasks": predictions(model.run, given),
    }


def as_tensors(tokens: Tokens) -> tuple[Tensor, Tensor]:
    """The ids and the types of one sequence, (1, S) each."""
    return torch.tensor([tokens.ids]), torch.tensor([tokens.type_ids])


def describe_tokens(tokenizer: Tokenizer, tokens: Tokens) -> list[dict[str, Any]]:
    """Each token as people read it, its id and its type, and whether it goes on with a word."""
    before = [None, *tokens.words[:-1]]
    continues = [a is not None and a == b for a, b in zip(tokens.words, before, strict=True)]
    return [
        {
            "text": readable(tokenizer.token(token), tokenizer.backend),
            "id": token,
            "type": kind,
            "continues": goes_on,
        }
        for token, kind, goes_on in zip(tokens.ids, tokens.type_ids, continues, strict=True)
    ]


def as_bytes(probabilities: Tensor) -> str:
    """Attention probabilities, (L, H, S, S), as a byte each, 255 for 1; in base64."""
    quantized = (probabilities * 255).round().to(torch.uint8)
    return b64encode(quantized.numpy().tobytes()).decode("ascii")


def describe_moves(states: Tensor) -> dict[str, Any]:
    """How each token's vector moves through the layers: (L + 1, S, D), the embeddings first.

    before, first: each token's cosines, L of them, of the state after a layer with that before it,
    and with the embedding. path: each token's L + 1 points on a map of all states.
    """
    before = cosine_similarity(states[1:], states[:-1], dim=-1)  # (L, S)
    first = cosine_similarity(states[1:], states[:1], dim=-1)  # (L, S)
    points, shares = project(states.flatten(0, 1).numpy())
    path = points.reshape(*states.shape[:2], 2).swapaxes(0, 1)  # (S, L + 1, 2)
    return {
        "before": before.T.tolist(),
        "first": first.T.tolist(),
        "path": path.tolist(),
        "shares": shares,
    }


def project(points: NDArray[Any]) -> tuple[NDArray[np.float64], list[float]]:
    """Points on the plane on which they differ most, (P, D) -> (P, 2), and the shares of their
    variance along its two directions (Pearson 1901, principal components)."""
    centred = points.astype(np.float64) - points.mean(0, dtype=np.float64)
    left, lengths, _ = np.linalg.svd(centred, full_matrices=False)
    plane = (left * lengths)[:, :2]
    # The sign of a direction means nothing: the furthest point gets a positive number.
    furthest = plane[np.abs(plane).argmax(0), range(plane.shape[1])]
    plane *= np.where(furthest < 0, -1, 1)
    variances = lengths**2
    return plane, (variances[:2] / max(variances.sum(), np.finfo(float).tiny)).tolist()


def hidden_words(model: Explored, tokens: Tokens) -> list[dict[str, Any]] | None:
    """What the masked-word head reads in the place of each token while that token alone is hidden.
    None if there is no such head.

    best: the likeliest words and their probabilities. own: the probability of the token itself;
    None for one that is [MASK] already.
    """
    mask = model.tokenizer.special_id("mask")
    if model.whole.masked_words is None or mask is None:
        return None
    found = []
    for position, word in enumerate(tokens.words):
        if word is None:  # [CLS] or [SEP]
            continue
        own = tokens.ids[position]
        input_ids, types = as_tensors(tokens)
        input_ids[0, position] = mask
        states = model.whole.bert(input_ids, None, types)  # (1, S, D)
        [probabilities] = model.whole.word_logits(states[0, [position]]).float().softmax(-1)
        best = probabilities.topk(TOP)
        words = [readable(model.tokenizer.token(i), model.tokenizer.backend) for i in best.indices]
        found.append(
            {
                "position": position,
                "own": None if own == mask else probabilities[own].item(),
                "best": list(zip(words, best.values.tolist(), strict=True)),
            }
        )
    return found


def predictions(run: Run | None, given: Given) -> list[dict[str, Any]]:
    """What each task of a run says of a text, in words, and the probability of each class."""
    if run is None or all(task.instead for task in run.tasks):
        return []
    if isinstance(given, tuple):
        unlabelled = from_pairs([given], run.splitting, run.tasks)
    else:
        unlabelled = from_lines([given], run.splitting, run.tasks)
    [(one, found)] = stream(run, unlabelled)
    return [
        {"name": t.name, "says": t.as_text(p, one.example), "scores": p.scores}
        for t in run.tasks
        if (p := found.get(t.name)) is not None
    ]


def compare(encoder: SentenceEncoder, given: Sequence[Given]) -> dict[str, Any] | None:
    """The cosines of all different texts, and a map of their vectors; None if there is only one.
    The texts of a pair are compared too, each by itself."""
    every = [text for one in given for text in ([one] if isinstance(one, str) else one)]
    texts = list(dict.fromkeys(every))
    if len(texts) < 2:
        return None
    vectors = encoder.encode(texts)
    points, shares = project(vectors)
    return {
        "texts": texts,
        "cosines": similarities("cosine", vectors, vectors).tolist(),
        "points": points.tolist(),
        "shares": shares,
    }
