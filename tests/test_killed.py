"""What is written is the old or the new, whole, at whatever moment its process is killed.

tools/faults/bulk.py has the experiments. Here they are smaller.
"""

import resource
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from minibert import InputError, SentenceEncoder
from minibert.bulk import RowSettings, write_vectors
from minibert.locks import locked
from tools.faults import bulk
from tools.faults.fuzz import Kind, changed
from tools.faults.kill import fork, killed_before, was_killed
from tools.faults.small import write_small_encoder

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_killed_child_is_told_from_one_that_ends_or_fails(tmp_path: Path) -> None:
    assert killed_before(2, lambda: [(tmp_path / name).touch() for name in "ab"])
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert not killed_before(2, (tmp_path / "c").touch)
    with pytest.raises(RuntimeError, match="exit status 1"):
        killed_before(2, (tmp_path / "none/c").touch)


@pytest.mark.filterwarnings("ignore:.*beginning again")
def test_bulk_runs_killed_before_file_operations() -> None:
    row = bulk.killed_at_operations(every=20)
    assert row.faults == []
    assert int(row.tried.split()[0]) > 5


@pytest.mark.filterwarnings("ignore:.*beginning again")
def test_bulk_runs_killed_at_random_moments() -> None:
    assert bulk.killed_at_moments(kills=4).faults == []


def test_models_killed_while_they_are_saved() -> None:
    """Before some operations; among them all moves of the files of a model without a tokenizer."""
    row = bulk.killed_while_saving(every=9)
    assert row.faults == []
    assert "old" in row.came_of_it


@pytest.mark.parametrize("kind", bulk.KINDS, ids=lambda kind: kind.name)
@pytest.mark.filterwarnings("ignore")
def test_what_somebody_changed_is_refused_or_harmless(kind: Kind, tmp_path: Path) -> None:
    kind.make(tmp_path / "sound")
    refused = 0
    for case in range(8):
        folder = tmp_path / str(case)
        changed(kind, case, tmp_path / "sound", folder)
        try:
            kind.use(folder)
        except InputError:
            refused += 1
    assert refused > 1


def test_what_python_and_numpy_hold_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text and its vector are about 300 bytes here, and 4,000 of them a megabyte."""
    monkeypatch.setattr("minibert.batching.WINDOW_CHARACTERS", 5_000)
    held: list[int] = []

    def texts() -> Iterator[str]:
        for number in range(6_000):
            if number % 1_000 == 0:
                held.append(tracemalloc.get_traced_memory()[0])
            yield f"{number} films " * (number % 7)

    write_small_encoder(tmp_path / "model")
    encoder = SentenceEncoder.from_pretrained(tmp_path / "model", device="cpu")
    tracemalloc.start()
    try:
        write_vectors(RowSettings(encoder), texts(), tmp_path / "x.npy")
    finally:
        tracemalloc.stop()
    assert max(held[2:]) - min(held[2:]) < 200_000


def test_a_soak_of_few_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too few for memory and speed to settle."""
    monkeypatch.setattr("minibert.batching.WINDOW_CHARACTERS", 5_000)
    row = bulk.soak(2_000)
    assert row.tried == "2,000 texts"
    assert not [fault for fault in row.faults if "files were open" in fault]


def test_a_disk_that_fills_up_keeps_what_was_computed(tmp_path: Path) -> None:
    """No file of the child can become larger than its limit."""
    with bulk.bulks() as runs:
        run, texts = runs[0], bulk.MANY * 4

        def work() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))
            with pytest.raises(
                InputError, match=r"File too large.*\n\d+ vectors are in .*--resume"
            ):
                write_vectors(run.settings, texts, run.target)

        assert not was_killed(fork(work))
        assert run.target.read_bytes() == run.old
        write_vectors(run.settings, texts, run.target, resume=True)
        assert np.array_equal(np.load(run.target), run.settings.encoder.encode(texts))


def test_a_model_on_a_full_disk_leaves_the_old_one(tmp_path: Path) -> None:
    write_small_encoder(tmp_path)
    encoder = SentenceEncoder.from_pretrained(tmp_path, device="cpu")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))
        with pytest.raises(InputError, match=f"^cannot write {tmp_path}/model.safetensors: File"):
            encoder.save_pretrained(tmp_path)

    assert not was_killed(fork(work))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_lock_needs_no_room_on_the_disk(tmp_path: Path) -> None:
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        with locked(tmp_path / "x"):
            other = pytest.raises(InputError, match=r"^another process is writing")
            with other, locked(tmp_path / "x"):
                pass

    assert not was_killed(fork(work))
    assert list(tmp_path.iterdir()) == []
