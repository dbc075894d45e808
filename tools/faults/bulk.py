"""Bulk encoding and saving, killed at any moment; notes and calibrations that somebody changed; and
a million texts."""

import os
import random
import resource
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tokenizers.normalizers import BertNormalizer

from minibert import Bert, BertForPreTraining, InputError, SentenceEncoder, batching
from minibert.bulk import RowSettings, write_vectors
from minibert.calibration import calibrate_ranges, read_ranges
from minibert.formats.sentence_transformers import EncoderSettings
from minibert.formats.tokenizer import bert_tokenizer, special_tokens
from minibert.tokenizer import Tokenizer
from tools.faults.fuzz import Kind
from tools.faults.kill import killed_after, killed_before
from tools.faults.mutate import mutate_bytes, mutate_json
from tools.faults.rows import Row
from tools.faults.small import TEXTS, WORDS, write_small_encoder

MANY = [" ".join(random.Random(i).choices(WORDS.split(), k=i % 12)) for i in range(60)]
FORMS = ((".npy", "float32"), (".jsonl", "float32"), (".npy", "binary"))


@contextmanager
def short_windows() -> Iterator[None]:
    """Windows of about seven of our texts, so that a file has several."""
    before, batching.WINDOW_CHARACTERS = batching.WINDOW_CHARACTERS, 300
    try:
        yield
    finally:
        batching.WINDOW_CHARACTERS = before


class Bulk:
    """One bulk run in an empty folder, over an older file; it may be killed and started again."""

    def __init__(self, encoder: SentenceEncoder, folder: Path, suffix: str, kind: str) -> None:
        self.settings = RowSettings(encoder, quantized=kind)
        self.folder, self.target = folder, folder / f"x{suffix}"
        self.partial = folder / f"x{suffix}.partial"
        write_vectors(self.settings, MANY, self.target)
        self.new, self.old = self.target.read_bytes(), b"an older file"
        self.begin()

    def begin(self) -> None:
        for path in self.folder.iterdir():
            path.unlink()
        self.target.write_bytes(self.old)

    def work(self) -> None:
        """What a user does next: begins, goes on, or nothing, if the file is there."""
        if self.work_is_left():
            write_vectors(self.settings, MANY, self.target, resume=self.partial.exists())

    def work_is_left(self) -> bool:
        return self.partial.exists() or self.target.read_bytes() == self.old

    def state(self) -> str:
        """What is wrong with the target, if anything is."""
        is_whole = self.target.read_bytes() in (self.old, self.new)
        return "" if is_whole else "a reader sees neither the old file nor the new"

    def end(self) -> str:
        """Let the run reach its end; says what is wrong, if anything is."""
        is_over = not self.work_is_left()
        try:
            self.work()
        except InputError as error:
            return f"a dead end: {error}"
        if self.target.read_bytes() != self.new:
            return "the file differs"
        left = sorted(set(os.listdir(self.folder)) - {self.target.name})
        return f"left behind: {left}" if left and not is_over else ""


@contextmanager
def bulks() -> Iterator[list[Bulk]]:
    """A run of each form."""
    with tempfile.TemporaryDirectory() as top, short_windows():
        write_small_encoder(Path(top) / "model")
        encoder = SentenceEncoder.from_pretrained(Path(top) / "model", device="cpu")
        made = []
        for number, (suffix, kind) in enumerate(FORMS):
            folder = Path(top) / str(number)
            folder.mkdir()
            made.append(Bulk(encoder, folder, suffix, kind))
        yield made


def killed_at_operations(every: int = 1) -> Row:
    """Each run killed before each of its file operations, or every so many; and, from a few of
    these on, before each operation of the run that goes on."""
    tries, faults = 0, []
    with bulks() as runs:
        for run in runs:
            for first in range(1, 1000, every):
                run.begin()
                if not killed_before(first, run.work):
                    break
                tries += 1
                faults += [
                    f"operation {first}: {wrong}" for wrong in (run.state(), run.end()) if wrong
                ]
                for second in range(1, 1000, every) if first % 7 == 0 else ():
                    run.begin()
                    killed_before(first, run.work)
                    if not killed_before(second, run.work):
                        break
                    tries += 1
                    wrong = run.state() or run.end()
                    faults += [f"operation {first}, then {second}: {wrong}"] if wrong else []
    return Row(f"{tries} kills", "each resumed to the same file", faults)


def killed_at_moments(kills: int = 300) -> Row:
    """Each run killed again and again at random moments until it ends."""
    tries, count, faults, dice = 0, 0, [], random.Random(0)
    with bulks() as runs:
        while tries < kills:
            run = runs[count % len(runs)]
            count += 1
            run.begin()
            started = time.perf_counter()
            run.work()
            seconds = time.perf_counter() - started
            run.begin()
            while killed_after(dice.uniform(0, 1.5 * seconds), run.work):
                tries += 1
                faults += [f"run {count}: {wrong}"] if (wrong := run.state()) else []
            faults += [f"run {count}: {wrong}"] if (wrong := run.end()) else []
    return Row(f"{tries} kills in {count} runs", "each resumed to the same file", faults)


def another_encoder(encoder: SentenceEncoder) -> SentenceEncoder:
    """One whose files all differ from an encoder's, though each of them fits the others."""
    torch.manual_seed(8)
    tokens = sorted(encoder.tokenizer.backend.get_vocab(), reverse=True)
    backend = bert_tokenizer({t: i for i, t in enumerate(tokens)}, BertNormalizer(lowercase=False))
    return SentenceEncoder(
        Bert(replace(encoder.bert.config, hidden_act="relu"), pooler=True),
        Tokenizer(backend, 20, special_tokens(backend)),
        EncoderSettings(pooling="max", normalize=True),
    )


def numbers_of_encoder(folder: Path) -> bytes:
    vectors = SentenceEncoder.from_pretrained(folder, device="cpu").encode(TEXTS)
    return np.asarray(vectors).tobytes()


def numbers_of_bert(folder: Path) -> bytes:
    with torch.inference_mode():
        return Bert.from_pretrained(folder)(torch.tensor([[2, 5, 7, 3]])).numpy().tobytes()


def killed_while_saving(every: int = 1) -> Row:
    """Each kind of model saved over another one, killed before each file operation, or every so
    many."""
    tries, counts, faults = 0, Counter[str](), []
    with tempfile.TemporaryDirectory() as top:
        old, folder = Path(top) / "old", Path(top) / "saved"
        write_small_encoder(old)
        encoder = another_encoder(SentenceEncoder.from_pretrained(old, device="cpu"))
        heads = BertForPreTraining(encoder.bert.config)
        for model, numbers in (
            (encoder, numbers_of_encoder),
            (encoder.bert, numbers_of_bert),
            (heads, numbers_of_bert),
        ):
            shutil.copytree(old, folder)
            model.save_pretrained(folder)
            files, new = sorted(folder.rglob("*")), numbers(folder)
            states = {numbers(old): "old", new: "new"}
            for operation in range(1, 1000, every):
                shutil.rmtree(folder)
                shutil.copytree(old, folder)
                if not killed_before(operation, partial(model.save_pretrained, folder)):
                    break
                tries += 1
                try:
                    state = states.get(numbers(folder), "mixed")
                except InputError as error:
                    state = "refused" if "cannot read" in str(error) else str(error)
                counts[state] += 1
                model.save_pretrained(folder)
                name = f"{type(model).__name__}, operation {operation}"
                if state not in ("old", "new", "refused"):
                    faults.append(f"{name}: {state}")
                if sorted(folder.rglob("*")) != files or numbers(folder) != new:
                    faults.append(f"{name}: saved again, it is not as it should be")
            shutil.rmtree(folder)
    told = ", ".join(f"{count} {state}" for state, count in counts.items())
    return Row(f"{tries} kills", f"the folder opens as the model: {told}", faults)


def soak(count: int = 1_000_000, model: Path | None = None) -> Row:
    """A bulk run of many short texts: is memory flat after the first tenth, are as many files open,
    and is the last tenth as fast as the second?"""
    # before each tenth, and at the end: seconds, MiB, open files
    at: list[tuple[float, float, int]] = []

    def look() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        memory = pages * resource.getpagesize() / 2**20
        at.append((time.perf_counter(), memory, len(os.listdir("/proc/self/fd"))))

    def texts() -> Iterator[str]:
        dice = random.Random(0)
        for number in range(count):
            if number % (count // 10) == 0:
                look()
            yield " ".join(dice.choices(WORDS.split(), k=dice.randint(2, 12)))
        look()

    with tempfile.TemporaryDirectory() as top:
        if model is None:
            write_small_encoder(model := Path(top) / "model")
        encoder = SentenceEncoder.from_pretrained(model, device="cpu")
        write_vectors(RowSettings(encoder), texts(), Path(top) / "x.npy")
    _, first, files = at[1]
    _, last, files_left = at[10]
    second, tenth = (count / 10 / (at[i + 1][0] - at[i][0]) for i in (1, 9))
    faults = []
    if last > 1.05 * first:
        faults.append(f"memory grew from {first:.0f} to {last:.0f} MiB")
    if files != files_left:
        faults.append(f"{files} files were open, and {files_left} at the end")
    if tenth < 0.95 * second:
        faults.append(f"{second:,.0f} texts a second became {tenth:,.0f}")
    told = (
        f"{first:.0f} MiB after a tenth, {last:.0f} at the end; {files} and {files_left} open "
        f"files; {second:,.0f} texts a second in the second tenth, {tenth:,.0f} in the last"
    )
    return Row(f"{count:,} texts", told, faults)


def interrupted(folder: Path, name: str) -> None:
    """A bulk run that ended after a few windows."""

    def texts() -> Iterator[str]:
        yield from MANY[:40]
        raise InputError("no more")

    encoder = SentenceEncoder.from_pretrained(folder / "model", device="cpu")
    with suppress(InputError):
        write_vectors(RowSettings(encoder), texts(), folder / name)


def write_interrupted(folder: Path) -> None:
    write_small_encoder(folder / "model")
    with short_windows():
        for name in ("x.npy", "x.jsonl"):
            interrupted(folder, name)


def go_on(folder: Path) -> None:
    """Resume both runs. One was changed: it is refused, or its file is what it would have been."""
    encoder = SentenceEncoder.from_pretrained(folder / "model", device="cpu")
    settings, refused = RowSettings(encoder), []
    write_vectors(settings, MANY, folder / "whole.npy")
    write_vectors(settings, MANY, folder / "whole.jsonl")
    for suffix in (".npy", ".jsonl"):
        try:
            write_vectors(settings, MANY, folder / f"x{suffix}", resume=True)
        except InputError as error:
            refused.append(error)
            continue
        if (folder / f"x{suffix}").read_bytes() != (folder / f"whole{suffix}").read_bytes():
            raise AssertionError("the file differs")
    if refused:
        raise refused[0]


def write_calibration(folder: Path) -> None:
    write_small_encoder(folder / "model")
    encoder = SentenceEncoder.from_pretrained(folder / "model", device="cpu")
    calibrate_ranges(encoder, "", MANY, folder / "ranges.json")


def use_calibration(folder: Path) -> None:
    encoder = SentenceEncoder.from_pretrained(folder / "model", device="cpu")
    ranges = read_ranges(folder / "ranges.json", encoder)
    write_vectors(RowSettings(encoder, "", "int8", ranges), TEXTS, folder / "x.npy")


KINDS = (
    Kind(
        "bulk notes",
        write_interrupted,
        {f"x{suffix}.partial.json": mutate_json for suffix in (".npy", ".jsonl")},
        go_on,
    ),
    Kind(
        "bulk rows",
        write_interrupted,
        {f"x{suffix}.partial": mutate_bytes for suffix in (".npy", ".jsonl")},
        go_on,
    ),
    Kind("calibration", write_calibration, {"ranges.json": mutate_json}, use_calibration),
)
EXPERIMENTS: dict[str, Callable[[], Row]] = {
    "killed: bulk, every file operation": killed_at_operations,
    "killed: bulk, random moments": killed_at_moments,
    "killed: saving": killed_while_saving,
    "soak: encode": soak,
}
