"""What the index says beside the source: the reading order, the questions, the glossary.

A place is a symbol, and some text of the line meant. So it cannot drift: `find_place` raises where
the symbol or the line is gone.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tools.annotate.source import Source


@dataclass(frozen=True)
class Place:
    """A symbol of the source, and optionally text that the line meant contains."""

    symbol: str
    containing: str = ""


@dataclass(frozen=True)
class Part:
    """Files that are read together. A folder, whose name ends with "/", stands for its files that
    no part names."""

    title: str
    about: str
    files: tuple[str, ...]


PARTS = (
    Part(
        "All of BERT",
        "The sizes, the model, and how the tokens of a batch lie in memory.",
        ("minibert/config.py", "minibert/model.py", "minibert/layout.py"),
    ),
    Part(
        "From text to vector",
        "Token ids, batches, pooling, and the encoder that puts them together.",
        (
            "minibert/tokenizer.py",
            "minibert/batching.py",
            "minibert/heads.py",
            "minibert/vectors.py",
            "minibert/encoder.py",
        ),
    ),
    Part(
        "A training run",
        "The story of a run, its loop, one step, and what moves the weights.",
        (
            "train/run.py",
            "train/fit.py",
            "train/step.py",
            "train/model.py",
            "train/batches.py",
            "train/optimizer.py",
            "train/freezing.py",
            "train/mixing.py",
        ),
    ),
    Part(
        "How BERT was pre-trained",
        "Words that are hidden, and sentences that follow each other.",
        ("minibert/pretraining.py", "train/tasks/masks.py", "train/tasks/masked_words.py"),
    ),
    Part(
        "Kinds of tasks",
        "What a label means: one file for each kind.",
        (
            "train/tasks/base.py",
            "train/tasks/targets.py",
            "train/tasks/classification.py",
            "train/tasks/tagging.py",
            "train/tasks/vectors.py",
            "train/tasks/contrastive.py",
            "train/tasks/",
        ),
    ),
    Part(
        "What others write",
        "Names of tensors, model folders, the Hub.",
        ("minibert/formats/names.py", "minibert/formats/checkpoint.py", "minibert/formats/"),
    ),
    Part(
        "The same, faster",
        "Nothing here is needed to understand BERT.",
        ("minibert/fast/__init__.py", "minibert/fast/attention.py", "minibert/fast/"),
    ),
    Part("The rest of the library", "Programs, exports, other libraries.", ("minibert/",)),
    Part("Data formats", "From files to examples: one file for each format.", ("train/data/",)),
    Part("The rest of training", "Settings, metrics, reports, checkpoints.", ("train/",)),
    Part("Exercises", "The answers to the ten exercises below.", ("tools/exercises.py",)),
)

QUESTIONS = (
    (
        "Where does the padding mask meet the scores, and which number does it write?",
        Place("minibert.model.attention", "masked_fill"),
    ),
    (
        "In which order come dropout, residual sum and norm?",
        Place("minibert.model.Layer"),
    ),
    ("Which parameters decay?", Place("train.optimizer.no_decay")),
    (
        "How does a checkpoint's tensor reach its module, and what happens if it is missing?",
        Place("minibert.formats.checkpoint"),
    ),
    (
        "How does a pair get its token types?",
        Place("minibert.tokenizer.Tokenizer.encode_pairs"),
    ),
    (
        "Which functions lie between a string and its vector?",
        Place("minibert.encoder"),
    ),
    (
        "What is the gradient of the [PAD] row?",
        Place("minibert.model.Embeddings", "padding_idx="),
    ),
    (
        "What is the order of one step, and by what is a loss divided?",
        Place("train.step"),
    ),
    ("Which attention runs when?", Place("minibert.fast.attention")),
)

GLOSSARY = (
    ("Attention", "softmax(Q Kᵀ / √W) V", Place("minibert.model.attention")),
    ("Attention mask", "which keys may be seen", Place("minibert.model.attention", "masked_fill")),
    ("Batch", "texts that are computed together", Place("minibert.batching.batches")),
    ("Checkpoint", "what an interrupted run goes on from", Place("train.checkpoint")),
    (
        "Cosine",
        "the similarity of two vectors, whatever their lengths",
        Place("minibert.similarity.similarities"),
    ),
    ("Dropout", "numbers set to 0 at random, in training", Place("minibert.model.Layer.forward")),
    (
        "Feed-forward",
        "two products for each token by itself",
        Place("minibert.model.FeedForward.forward"),
    ),
    ("Freezing", "units that do not learn, epoch by epoch", Place("train.freezing.FreezingPlan")),
    ("GELU", "the activation between the two products", Place("minibert.config", '"gelu": F.gelu')),
    (
        "Gradient accumulation",
        "several batches, one step, the same gradient",
        Place("train.step._forward_backward", "loss / counts"),
    ),
    ("Head of a task", "from states to logits", Place("minibert.heads.SentenceHead.forward")),
    (
        "Head of attention",
        "one of H attentions side by side",
        Place("minibert.model.Attention.project"),
    ),
    ("Hidden state", "a token's vector between the layers", Place("minibert.model.Bert.run")),
    (
        "InfoNCE",
        "an anchor finds its positive among others",
        Place("train.tasks.contrastive.Contrastive._ranking", "cross_entropy"),
    ),
    ("Layer norm", "mean 0, variance 1, for each token", Place("minibert.model.Layer")),
    (
        "Layer-wise learning rate",
        "lower layers learn more slowly",
        Place("train.optimizer.learning_rates"),
    ),
    (
        "Logit",
        "a score before the softmax",
        Place("minibert.heads.SentenceHead.forward", "classifier"),
    ),
    ("Masked words", "the model guesses words that are hidden", Place("train.tasks.masks.Masks")),
    ("Packed", "tokens without padding", Place("minibert.layout.Packed")),
    ("Padding", "what fills rows to the same length", Place("minibert.layout.Padded")),
    ("Pooler", "BERT's own vector of a sentence", Place("minibert.model.Pooler.forward")),
    ("Pooling", "one vector from the tokens' vectors", Place("minibert.heads.mean")),
    (
        "Position embedding",
        "the only part that knows the order",
        Place("minibert.model.Embeddings.forward", "self.position("),
    ),
    (
        "Pre-training",
        "the two heads BERT was trained with",
        Place("minibert.pretraining.BertForPreTraining"),
    ),
    (
        "Query, key, value",
        "three products of each state",
        Place("minibert.model.Attention.project"),
    ),
    ("Residual sum", "a part adds to its input", Place("minibert.model.Layer.forward", "x + ")),
    ("Schedule", "warm-up, then down to 0", Place("train.optimizer.rate_factor")),
    (
        "Score",
        "a query times a key, before the softmax",
        Place("minibert.model.attention", "scores = "),
    ),
    (
        "Softmax",
        "scores become probabilities",
        Place("minibert.model.attention", "softmax(-1) * mask"),
    ),
    (
        "Tied weights",
        "words in and words out share a table",
        Place("minibert.heads.MaskedWordHead.forward", "word_embeddings, self.bias"),
    ),
    (
        "Token type",
        "the first or second text of a pair",
        Place("minibert.model.Embeddings.forward", "self.token_type("),
    ),
    (
        "Truncation",
        "what is done with too long a text",
        Place("minibert.tokenizer.Tokenizer._tokens", "truncate(length)"),
    ),
    ("Unit", "what is frozen or learns together", Place("train.model.JointModel.units")),
    ("Weight decay", "what shrinks matrices in each step", Place("train.optimizer.no_decay")),
    (
        "Word embedding",
        "a row of the table for each word piece",
        Place("minibert.model.Embeddings.forward", "self.word("),
    ),
    ("WordPiece", "words cut into pieces of a vocabulary", Place("train.vocabulary")),
)


def in_order(sources: Iterable[Source]) -> Iterator[tuple[Part, Sequence[Source]]]:
    """Each part with its files. Every file is in exactly one: that which names it, else that of the
    nearest folder."""
    left = {source.path: source for source in sources}
    folders = {name: part for part in PARTS for name in part.files if name.endswith("/")}
    named: dict[str, list[Source]] = {}
    for part in PARTS:
        named[part.title] = [left.pop(name) for name in part.files if not name.endswith("/")]
    for path, source in sorted(left.items()):
        nearest = max((name for name in folders if path.startswith(name)), key=len)
        named[folders[nearest].title].append(source)
    for part in PARTS:
        yield part, named[part.title]


def minutes(source: Source) -> float:
    """About how long it takes to read a file: 200 words of prose or 30 lines of code a minute."""
    words = sum(len(re.findall(r"\w+", piece.prose)) for piece in source.pieces)
    rows = sum(bool(source.lines[row - 1].strip()) for p in source.pieces for row in p.rows)
    return words / 200 + rows / 30
