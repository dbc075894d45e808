"""python -m train.vocabulary CORPUS ... --size 8000 -o FOLDER: make a vocabulary of word pieces
from plain text, for a BERT of your own.

What is made, and how:

1. The text is normalised as BERT's is, and split at spaces and around punctuation. From here on,
   only how often each word occurs matters.
2. The first tokens are the five special ones and all characters: `e` where one begins a word, `##e`
   where it continues one. So every word of the corpus can be written.
3. Each word is a row of tokens. The two neighbours that occur together most often become one new
   token (`t` and `##h` become `th`), everywhere. This is repeated until the vocabulary is full. Of
   equally frequent pairs, the one whose tokens came first wins.

Step 3 is byte-pair encoding (Sennrich et al. 2016, section 3.2, arXiv:1508.07909): this is what
the `tokenizers` library does under the name WordPiece. Google never published the program that made
BERT's vocabulary. WordPiece as it was first described (Schuster and Nakajima 2012, section 3) joins
the pair that raises the likelihood of the corpus most. This is often given as the highest
count(ab) / (count(a) count(b)), which prefers rare tokens that nearly always stand together.

What makes it WordPiece is how a text is cut later. BPE repeats the joins in the order in which they
were learnt. WordPiece takes the longest token that the word begins with, then the longest that the
rest begins with, and so on. A word with a character that is no token becomes [UNK].
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, WhitespaceSplit
from tokenizers.trainers import WordPieceTrainer
from tqdm import tqdm

from minibert.batching import windows
from minibert.files import InputError, escaped, json_text
from minibert.formats.tokenizer import SPECIAL_TOKENS, bert_tokenizer
from minibert.program import Parser, run_program
from minibert.texts import lazy_lines, lines_of
from minibert.tokenizer import Tokenizer
from minibert.usage import usage

FILES = ("vocab.txt", "tokenizer.json", "tokenizer_config.json")
REMEMBERED = 2**17  # texts between spaces whose words are known
FED = 2**12  # characters that the trainer is given at once
LARGEST = 2**31  # number in an option
EXAMPLES = """\
%(prog)s novel.txt -o vocabulary
%(prog)s wiki/ books.txt --size 16000 --cased -o vocabulary"""
EXAMPLE_WORDS = range(6, 17)  # of the sentence that shows what the vocabulary does


@dataclass(frozen=True)
class WordCounts:
    """What a vocabulary is made from."""

    words: Mapping[str, int]  # each with how often it occurs
    num_characters: int
    example: str  # one of its lines


def count_words(files: Sequence[Path], normalizer: BertNormalizer) -> WordCounts:
    """The words of some text files, which may be of any size: only the different words are kept.

    Shows its progress. Raises InputError, naming the file, if one cannot be read, or, with its
    line, if it is not UTF-8 text. Raises it too if no file has a word.
    """
    # A space always ends a word, and most of what stands between spaces occurs often.
    split = lru_cache(REMEMBERED)(partial(split_words, normalizer))
    words: Counter[str] = Counter()
    num_characters, example = 0, ""
    with tqdm(total=sum(map(_size, files)), unit="B", unit_scale=True, disable=None) as bar:
        for window in windows(line for file in files for line in _lines(file, bar)):
            spaced = Counter(part for line in window for part in line.split(" "))
            for part, count in spaced.items():
                for word in split(part):
                    words[word] += count
            num_characters += sum(map(len, window))
            fitting = (line for line in window if len(line.split()) in EXAMPLE_WORDS)
            example = example or next(fitting, "")
    if not words:
        raise InputError(f"there is no word in {', '.join(map(str, files))}")
    return WordCounts(words, num_characters, example or " ".join(list(words)[: EXAMPLE_WORDS[-1]]))


def _size(file: Path) -> int:
    """In bytes; of standard input nobody knows it."""
    try:
        return 0 if str(file) == "-" else file.stat().st_size
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error


def _lines(file: Path, bar: tqdm) -> Iterator[str]:
    """The lines of a file, while the bar shows how far it has been read; or of standard input."""
    if str(file) == "-":
        yield from lines_of("-")
        return
    try:
        stream = file.open("rb")
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error
    before = bar.n
    for line in lazy_lines(stream, str(file)):
        yield line
        bar.update(before + stream.tell() - bar.n if not stream.closed else 0)


def split_words(normalizer: BertNormalizer, text: str) -> list[str]:
    """The words of a text, as BERT normalises and splits it."""
    return [word for word, _ in BertPreTokenizer().pre_tokenize_str(normalizer.normalize_str(text))]


def alphabet_of(words: Mapping[str, int], limit: int) -> list[str]:
    """The tokens of one character, without and with ##, each in the characters' order.

    limit: how many characters there may be; the most frequent are kept, and of equally frequent
    ones the first.
    """
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    kept = sorted(sorted(counts, key=lambda c: (-counts[c], c))[:limit])
    continuing = {character for word in words for character in word[1:]}
    return [*kept, *(f"##{character}" for character in kept if character in continuing)]


def train_vocabulary(
    words: Mapping[str, int], size: int, min_frequency: int = 2, limit_alphabet: int = 1000
) -> list[str]:
    """The tokens of a vocabulary, each at its id: SPECIAL_TOKENS come first.

    words: each with how often it occurs. size: how many tokens to have; there are fewer if no pair
    is left that occurs `min_frequency` times. limit_alphabet: of more characters than this, only
    the most frequent become tokens. Equal arguments give equal tokens. Raises InputError for a size
    that has no room for the characters, of which the library would silently take all.
    """
    first = [*SPECIAL_TOKENS, *alphabet_of(words, limit_alphabet)]
    if size < len(first):
        raise InputError(
            f"--size {size}: the special tokens and the characters of the corpus, alone and with "
            f"##, are {len(first)} tokens. Give at least as many, or lower --limit-alphabet "
            f"{limit_alphabet}"
        )
    characters = [token for token in first[len(SPECIAL_TOKENS) :] if len(token) == 1]
    # The library numbers the characters with ## in the order of a hash table, which differs from
    # run to run, and by the numbers it chooses among equally frequent pairs (its issue 1086). As
    # special tokens they keep our order.
    # The library reserves memory for the whole size. But no more tokens can come of the words than
    # they have characters, as each join leaves one token fewer in some word.
    trainer = WordPieceTrainer(
        vocab_size=min(size, len(first) + sum(map(len, words))),
        min_frequency=min_frequency,
        special_tokens=first,
        initial_alphabet=characters,
        limit_alphabet=len(characters),
        show_progress=False,
    )
    backend = tokenizers.Tokenizer(WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.train_from_iterator(_repeated(words), trainer)
    ids = backend.get_vocab()
    return sorted(ids, key=ids.__getitem__)


def _repeated(words: Mapping[str, int]) -> Iterator[str]:
    """Each word as often as it occurs: the trainer counts, and cannot be told counts."""
    for word, count in words.items():
        most = FED // len(word) + 1
        for done in range(0, count, most):
            yield " ".join([word] * min(most, count - done))


def measure(corpus: WordCounts, backend: tokenizers.Tokenizer) -> dict[str, Any]:
    """What a vocabulary does with the corpus that it was made from."""
    words, count = list(corpus.words), sum(corpus.words.values())
    pieces = unknown = 0
    encodings = backend.encode_batch(words, add_special_tokens=False)
    for word, found in zip(words, encodings, strict=True):
        pieces += len(found.ids) * corpus.words[word]
        unknown += found.tokens.count("[UNK]") * corpus.words[word]
    return {
        "characters": corpus.num_characters,
        "words": count,
        "different_words": len(words),
        "tokens": backend.get_vocab_size(),
        "tokens_per_word": pieces / count,
        "unknown_words": unknown / count,  # as a part of all
        "example": corpus.example,
        "example_tokens": backend.encode(corpus.example, add_special_tokens=False).tokens,
    }


def report(found: Mapping[str, Any]) -> str:
    """The same for people."""
    return (
        f"read: {found['characters']:,} characters, {found['words']:,} words, "
        f"{found['different_words']:,} different\n"
        f"vocabulary: {found['tokens']:,} tokens; {found['tokens_per_word']:.3f} tokens a word, "
        f"{found['unknown_words']:.4%} of the words are [UNK]\n"
        f"for example: {escaped(found['example'])}\n"
        f"   in tokens: {escaped(' '.join(found['example_tokens']))}"
    )


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = Parser(prog="python -m train.vocabulary", **usage(__doc__, EXAMPLES))
    made.add_argument(
        "corpus",
        nargs="+",
        type=Path,
        metavar="CORPUS",
        help="a UTF-8 text file of any size, or a folder with train.txt; - for standard input",
    )
    made.add_argument(
        "--size",
        type=int,
        default=8000,
        metavar="N",
        help="how many tokens, special ones included (default %(default)s)",
    )
    made.add_argument(
        "--cased",
        action="store_true",
        help="keep capital letters and accents, which are otherwise lower-cased and stripped",
    )
    made.add_argument(
        "--min-frequency",
        type=int,
        default=2,
        metavar="N",
        help="join only what occurs together at least so often (default %(default)s)",
    )
    made.add_argument(
        "--limit-alphabet",
        type=int,
        default=1000,
        metavar="N",
        help="how many characters are kept, the most frequent ones; a word with another is [UNK] "
        "(default %(default)s)",
    )
    made.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="where to write it (required)",
    )
    made.add_argument("--json", action="store_true", help="print the counts as one JSON object")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Make a vocabulary. Returns the exit status, as `run_program`."""

    def program() -> None:
        options = parser().parse_args(arguments)
        for name in ("size", "min_frequency", "limit_alphabet"):
            if not 1 <= (value := getattr(options, name)) <= LARGEST:
                raise InputError(f"--{name.replace('_', '-')} {value}: must be from 1 to {LARGEST}")
        if there := [name for name in FILES if os.path.lexists(options.output / name)]:
            raise InputError(
                f"{options.output} holds a vocabulary already ({', '.join(there)}): delete it, or "
                "name another folder. Models that were trained with it would read other words"
            )
        files = [path / "train.txt" if path.is_dir() else path for path in options.corpus]
        normalizer = BertNormalizer(lowercase=not options.cased)
        corpus = count_words(files, normalizer)
        tokens = train_vocabulary(
            corpus.words, options.size, options.min_frequency, options.limit_alphabet
        )
        backend = bert_tokenizer({token: i for i, token in enumerate(tokens)}, normalizer)
        Tokenizer(backend).save(options.output)
        found = measure(corpus, backend)
        if options.json:
            print(json_text({"output": str(options.output), **found}))
            return
        print(report(found))
        if len(tokens) < options.size:
            print(
                f"--size {options.size}: no more pairs occur {options.min_frequency} times in this "
                "corpus"
            )
        print(f"{', '.join(FILES)} are in {escaped(str(options.output))}")

    return run_program(program)


if __name__ == "__main__":
    sys.exit(main())
