"""`settings.text` -> corpora to learn from, and the held-out sequences that measure it."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from minibert.config import BertConfig
from minibert.files import InputError
from minibert.tokenizer import Tokenizer
from train.batches import Item
from train.data.corpus import Corpus, TextForm, cut_up, unigram_entropy
from train.data.documents import text_files
from train.data.fingerprint import SetPrint
from train.data.token_file import tokenize_files
from train.settings import Settings
from train.tasks.base import Task
from train.tasks.text import TextTask, of_text

MOST_HELD_OUT = 1000  # sequences, where a text has no dev split of its own
HELD_OUT = 0.02  # the share of a text that they are, if that is less


@dataclass
class Texts:
    """Plain text as a run needs it. Only train may be larger than memory."""

    train: list[Corpus] = field(default_factory=list)
    dev: list[Item] = field(default_factory=list)
    test: list[Item] = field(default_factory=list)
    data: list[SetPrint] = field(default_factory=list)  # their fingerprints


def load_texts(
    settings: Settings,
    tasks: Sequence[TextTask],
    tokenizer: Tokenizer,
    first_number: int,
    announce: Callable[[str], None] = print,
) -> Texts:
    """The text of a run, tokenized; items are numbered from `first_number` on. The end of a text
    that has no dev split is cut off for it, and `announce` is told.

    Raises InputError, naming file and line, for what cannot be read, or is too little.
    """
    texts, number = Texts(), first_number
    for source in settings.text:
        splits: dict[str, Corpus] = {}
        record = SetPrint(name=Path(source).name, splits={})
        found = text_files(Path(os.path.expanduser(source)))
        if "train" not in found:
            raise InputError(f"--text {source}: the folder has no .txt file to learn from")
        for split, files in found.items():
            splits[split] = whole = read_corpus(files, settings, tasks, tokenizer, number)
            number += len(whole)
            record["splits"][split] = {"examples": len(whole), "sha256": whole.text.sha256}
            announce(f"{source}: {split} has {described(whole)}")
        if settings.overfit_batch:
            few = splits["train"].part(0, settings.overfit_batch)
            splits = {"train": few, "dev": few, "test": few}
        elif "dev" not in splits:
            splits |= held_out(splits["train"], source, announce)
        texts.train.append(splits["train"])
        texts.dev += splits["dev"]
        texts.test += splits.get("test", ())
        texts.data.append(record)
    return texts


def read_corpus(
    files: Sequence[Path],
    settings: Settings,
    tasks: Sequence[TextTask],
    tokenizer: Tokenizer,
    first_number: int = 0,
) -> Corpus:
    """The sequences of some files, in the form that the tasks read. Errors as of `load_texts`."""
    form: TextForm = next((t.text_form for t in tasks if t.text_form != "sequence"), "sequence")
    text = tokenize_files(files, tokenizer, settings.documents, settings.encoding)
    return cut_up(text, tokenizer, tasks, form, settings, first_number)


def described(corpus: Corpus) -> str:
    """How much text there is, for people."""
    text, limit = corpus.text, corpus.tokenizer.max_length
    return (
        f"{int(text.counts.sum()):,} tokens in {len(text.starts):,} documents, which fill "
        f"{len(corpus):,} sequences of up to {limit}"
    )


def load_text_split(
    source: str,
    split: str,
    settings: Settings,
    tasks: Sequence[Task],
    tokenizer: Tokenizer,
    announce: Callable[[str], None] = print,
) -> Corpus:
    """One split of a text, for a finished run's tasks; a single file is its own split. Raises
    InputError if there is no such split, or none of the tasks learns from text."""
    able = of_text(tasks)
    if not able:
        names = ", ".join(task.summary() for task in tasks)
        raise InputError(f"--text {source}: no task here learns from plain text: {names}")
    path = Path(os.path.expanduser(source))
    found = text_files(path)
    files = found.get("train" if path.is_file() else split)
    if files is None:
        raise InputError(f"--text {source}: there is no {split} split; it has {', '.join(found)}")
    corpus = read_corpus(files, settings, able, tokenizer)
    announce(f"{source}: {described(corpus)}")
    return corpus


def tell_expected(
    corpora: Sequence[Corpus],
    tasks: Sequence[TextTask],
    config: BertConfig,
    announce: Callable[[str], None],
) -> None:
    """Tell what the losses of random weights are at first."""
    if corpora:
        entropy = unigram_entropy(corpora)
        for told in filter(None, (task.expectation(entropy, config) for task in tasks)):
            announce(told)


def held_out(whole: Corpus, source: str, announce: Callable[[str], None]) -> dict[str, Corpus]:
    """A text's train and dev split: its end is dev."""
    count = min(MOST_HELD_OUT, max(1, round(HELD_OUT * len(whole))))
    if count == len(whole):
        raise InputError(
            f"--text {source}: there is one sequence in it, and none to measure with: give more "
            "text, or a dev split"
        )
    train, dev = whole.split(len(whole) - count)
    announce(f"{source}: no dev split, so its last {len(dev):,} sequences are cut off for it")
    return {"train": train, "dev": dev}
