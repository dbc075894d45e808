"""formats/hub.py: where a model's files come from, in which order, and which error there is when
they cannot be had.

The Hub is played by a small server on this machine. Nothing else is asked.
"""

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
import torch

from minibert import Bert, BertConfig, InputError, SentenceEncoder
from minibert.files import write_json
from minibert.formats import hub
from minibert.formats.download import FILES, download
from minibert.formats.hub import MINILM, PoolingWarning, find_model, from_cache, installed_package
from minibert.formats.hub_ids import BARE
from tests.test_encoder import small_encoder

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER_COMMIT = "f" * 40


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small model."""
    folder = tmp_path_factory.mktemp("tiny")
    config = BertConfig(10, 8, 1, 2, 8, 10)
    torch.manual_seed(0)
    Bert(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("[PAD]\n")
    return folder


# Names


NO_NAMES = [
    "",
    "./nope",
    "nope/",
    "a/b/c",
    "--x",
    "-x",
    "/nope",
    "~nobody-of-this-name",
    "~nobody-of-this-name/x",
    "a b",
]
NO_NAMES += [
    "a\n",
    "a\0b",
    "\udcff",
    ".hidden",
    "a//b",
    "https://huggingface.co/a/b",
    "a--b",
    "a..b",
    "x.git",
]
NO_NAMES += ["x" * 97, "x" * 5000]


@pytest.mark.parametrize("name", NO_NAMES, ids=lambda name: ascii(name[:30]))
def test_a_name_that_is_neither_a_folder_nor_a_hub_id_is_one_error(name: str) -> None:
    with pytest.raises(InputError, match=r"^no folder .*; and it is no Hub id either") as caught:
        find_model(name)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", [".", ".."])
def test_a_folder_without_a_model_is_one_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    with pytest.raises(InputError, match=r"^cannot read .*config\.json"):
        Bert.from_pretrained(name)


@pytest.mark.parametrize("revision", ["", "..", "../x", "a/../b", "/etc/passwd", "-x", " main"])
def test_a_revision_that_can_be_none_is_one_error(revision: str) -> None:
    with pytest.raises(
        InputError, match=f"^revision {re.escape(repr(revision))} is no branch, tag or commit"
    ):
        find_model("tiny/bert", revision)


@pytest.mark.parametrize("name", [None, 3, b"minilm", ["minilm"]])
def test_what_is_no_name_is_one_error(name: Any) -> None:
    with pytest.raises(InputError, match=r"^a model is named by a folder or a Hub id, not by "):
        find_model(name)


@pytest.mark.parametrize("name", ["model.tar.gz", "model.safetensors", "./model.safetensors"])
def test_a_file_is_no_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    for path in (name, tmp_path / name):
        with pytest.raises(InputError, match=f"^{re.escape(str(path))} is a file, and a model is"):
            find_model(path)


# The order


@pytest.fixture
def cached(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of tiny/bert in an otherwise empty cache of the Hub; its main is the snapshot
    COMMIT."""
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return fill_cache(tmp_path / "cache", "tiny/bert", tiny)


def fill_cache(cache: Path, repository: str, model: Path, *without: str) -> Path:
    """Put files of a model into a cache, as huggingface_hub does: blobs named by their hashes, and
    a snapshot of links to them. Returns the repository's folder."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "blobs").mkdir(parents=True)
    for name, content in contents(model).items():
        if name not in without:
            blob, link = folder / "blobs" / announced(name, content), folder / "snapshots" / COMMIT
            blob.write_bytes(content)
            (link / name).parent.mkdir(parents=True, exist_ok=True)
            (link / name).symlink_to(blob)
    for branch in ("main", "pr/1"):
        (folder / "refs" / branch).parent.mkdir(parents=True, exist_ok=True)
        (folder / "refs" / branch).write_text(COMMIT)
    return folder


def contents(model: Path) -> dict[str, bytes]:
    """A model's files by their names on the Hub."""
    files = [file for file in model.rglob("*") if file.is_file()]
    return {file.relative_to(model).as_posix(): file.read_bytes() for file in files}


def announced(name: str, content: bytes) -> str:
    """The hash by which the Hub knows a file: SHA-256 for large ones, git's own for small ones."""
    large = "safetensors" in name
    return hashlib.sha256(content).hexdigest() if large else git_hash(content)


@pytest.fixture
def packaged(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model's folder in an installed package that is taken for MiniLM's."""
    monkeypatch.setattr(hub, "PACKAGE", "a_package_for_this_test")
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "a_package_for_this_test" / "model"
    shutil.copytree(tiny, folder)
    (folder.parent / "__init__.py").write_text("")
    digest = hashlib.sha256((tiny / "model.safetensors").read_bytes()).hexdigest()
    monkeypatch.setattr(hub, "KNOWN_WEIGHTS", {digest: (MINILM, OTHER_COMMIT)})
    return folder


def test_a_folder_goes_first(
    packaged: Path, cached: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("minilm", "tiny/bert"):
        shutil.copytree(tiny, tmp_path / folder)
        for name in (folder, Path(folder), tmp_path / folder, str(tmp_path / folder)):
            found = find_model(name)
            assert (found.path.resolve(), found.source) == (tmp_path / folder, "folder")
            assert (found.name, found.commit) == (str(name), None)


@pytest.mark.parametrize("name", ["minilm", "tiny/bert"])
def test_an_empty_folder_that_hides_a_model_is_named(
    name: str, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"^the folder {name} is empty. If the Hub's model of"):
        find_model(name)


def test_a_folder_below_the_home_folder(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tiny.parent))
    assert find_model(f"~/{tiny.name}").path == tiny


def test_a_folder_has_no_revision(tiny: Path) -> None:
    with pytest.raises(InputError, match="a folder has no revision 'main'"):
        find_model(tiny, "main")


def test_the_package_goes_before_the_cache(
    packaged: Path, cached: Path, tiny: Path, tmp_path: Path
) -> None:
    snapshot = fill_cache(tmp_path / "cache", MINILM, tiny) / "snapshots" / COMMIT
    for name in ("minilm", MINILM):
        assert find_model(name) == hub.ModelFolder(packaged, name, "package", OTHER_COMMIT)
        # It is one revision of MiniLM, and no other model.
        assert find_model(name, "main") == hub.ModelFolder(snapshot, name, "cache", COMMIT)
    assert find_model("tiny/bert").path == cached / "snapshots" / COMMIT
    shutil.rmtree(packaged)
    for name in ("minilm", MINILM):
        assert find_model(name) == hub.ModelFolder(snapshot, name, "cache", COMMIT)
        with pytest.raises(InputError, match="is not on this machine, and did not come from"):
            find_model(name, "some-tag")


def test_the_short_name_of_bert_base(
    cached: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "KNOWN_WEIGHTS", {})
    folder = fill_cache(tmp_path / "cache", "google-bert/bert-base-uncased", tiny)
    assert find_model("bert-base-uncased").path == folder / "snapshots" / COMMIT


def test_a_bare_name_is_sentence_transformers_as_there(
    packaged: Path, cached: Path, tiny: Path, tmp_path: Path
) -> None:
    assert find_model("all-MiniLM-L6-v2").path == packaged
    labse = fill_cache(tmp_path / "cache", "sentence-transformers/LaBSE", tiny)
    plain = fill_cache(tmp_path / "cache", "roberta-base", tiny)
    assert find_model("LaBSE").path == labse / "snapshots" / COMMIT
    assert find_model("roberta-base").path == plain / "snapshots" / COMMIT
    assert hub.hub_id("LaBSE") == "sentence-transformers/LaBSE"
    with pytest.raises(InputError, match=r"^sentence-transformers/bert-tiny is not on"):
        find_model("bert-tiny")


def test_names_that_are_nobodys_are_those_of_sentence_transformers() -> None:
    theirs = pytest.importorskip("sentence_transformers.util.misc").ORIGINAL_TRANSFORMER_MODELS
    families = {"bert", "roberta", "distilbert", "distilroberta"}
    ours = [
        name
        for name in theirs
        if name.partition("-")[0] in families or name.startswith("xlm-roberta")
    ]
    assert sorted(BARE) == sorted(ours)


# What is known by its SHA-256


@pytest.mark.parametrize("source", ["package", "cache"])
def test_a_changed_byte_in_known_weights_is_refused(
    source: str, packaged: Path, cached: Path, tiny: Path, tmp_path: Path
) -> None:
    file = packaged / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # the file is sound, and only one weight has changed
    file.write_bytes(content)
    if source == "cache":
        snapshot = fill_cache(tmp_path / "cache", MINILM, packaged) / "snapshots" / COMMIT
        shutil.rmtree(packaged)
        assert find_model("minilm", COMMIT).path == snapshot  # asked for by name: not checked
        file = snapshot / "model.safetensors"
    with pytest.raises(
        InputError, match=f"^{file} has SHA-256 .*, but {MINILM} was published with "
    ):
        find_model("minilm")


def test_other_weights_of_a_known_model_are_refused_from_the_hub(
    tiny: Path, tmp_path: Path
) -> None:
    know = FIND.replace("\nfor ", '\nhub.KNOWN_WEIGHTS = {"0" * 64: ("tiny/bert", "-")}\nfor ', 1)
    with serving(tiny) as endpoint:
        cases = [(environment(tmp_path, endpoint), [("tiny/bert", None), ("tiny/bert", COMMIT)])]
        refused, taken = json.loads(python(know, json.dumps(cases)))
    assert "but tiny/bert was published with 00000" in refused[1]
    assert taken[:2] == ["cache", COMMIT]


def test_the_known_digests_are_digests_and_commits() -> None:
    for digest, (repository, commit) in hub.KNOWN_WEIGHTS.items():
        assert re.fullmatch("[0-9a-f]{64}", digest)
        assert repository in (MINILM, hub.BERT_BASE)
        assert re.fullmatch("[0-9a-f]{40}|with renamed layer norms", commit)


def test_the_real_package_is_the_published_minilm(minilm: Path) -> None:
    found = find_model("minilm")
    assert (found.path, found.source) == (minilm, "package")
    assert found.commit == "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"


# The cache


def test_a_snapshot_in_the_cache(cached: Path) -> None:
    snapshot = cached / "snapshots" / COMMIT
    for revision in (None, "main", "pr/1", COMMIT):
        assert from_cache("tiny/bert", revision) == snapshot
    for revision in ("other", OTHER_COMMIT, "pr", "pr/2"):
        assert from_cache("tiny/bert", revision) is None
    assert from_cache("tiny/other", None) is None
    assert find_model("tiny/bert") == hub.ModelFolder(snapshot, "tiny/bert", "cache", COMMIT)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_snapshot_without_weights_or_config_does_not_count(missing: str, cached: Path) -> None:
    (cached / "snapshots" / COMMIT / missing).unlink()
    assert from_cache("tiny/bert", None) is None


def test_a_snapshot_with_a_shard_missing_does_not_count(cached: Path) -> None:
    snapshot = cached / "snapshots" / COMMIT
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    (snapshot / "model.safetensors").rename(snapshot / shards[0])
    write_json(
        snapshot / "model.safetensors.index.json", {"weight_map": {"a": shards[0], "b": shards[1]}}
    )
    assert from_cache("tiny/bert", None) is None
    (snapshot / shards[1]).write_bytes(b"")
    assert from_cache("tiny/bert", None) == snapshot


def test_a_cache_cut_short_does_not_count(cached: Path) -> None:
    (cached / "refs" / "main").write_text("")
    assert from_cache("tiny/bert", None) is None


# The package


def test_the_package_is_found_without_running_its_code(tmp_path: Path) -> None:
    package = tmp_path / hub.PACKAGE
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('the package was imported')")
    code = (
        "import sys; from minibert.formats import hub; print(hub.installed_package()); "
        "assert hub.PACKAGE not in sys.modules"
    )
    assert python(code, PYTHONPATH=str(tmp_path)).splitlines() == [str(package / "model")]


def test_a_package_of_that_name_without_a_model_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "PACKAGE", "a_package_for_this_test")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert installed_package() is None
    package = tmp_path / "a_package_for_this_test"
    package.mkdir()
    assert installed_package() is None  # a namespace package
    (package / "__init__.py").write_text("")
    assert installed_package() is None
    (package / "model").mkdir()
    assert installed_package() == package / "model"


# The Hub


def python(code: str, *arguments: str, **environment: str) -> str:
    """What a Python of its own prints: huggingface_hub reads the environment once, as it is
    imported."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("HF_") and "proxy" not in key.lower()
    }
    root = str(Path(__file__).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [environment.get("PYTHONPATH"), root]))
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=kept | {"NO_PROXY": "127.0.0.1"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


# Nobody waits before a request is tried again. What is tried, and how often, stays the same.
AT_ONCE = """
import time
time.sleep = lambda seconds: None
"""

FIND = (
    AT_ONCE
    + """
import importlib, json, os, sys
from minibert import InputError
from minibert.formats import download, hub
for environment, asked in json.loads(sys.argv[1]):
    os.environ.update(environment)
    for module in [name for name in sys.modules if name.startswith("huggingface_hub")]:
        del sys.modules[module]  # imported again, it reads the environment again
    hub.huggingface_hub = download.huggingface_hub = importlib.import_module("huggingface_hub")
    answers = []
    for name, revision in asked:
        try:
            found = hub.find_model(name, revision)
            names = sorted(file.name for file in found.path.iterdir())
            answers.append([found.source, found.commit, names])
        except InputError as error:
            answers.append(["error", str(error)])
    print(json.dumps(answers))
"""
)


def environment(home: Path, endpoint: str = "", offline: bool = False) -> dict[str, str]:
    return {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": str(int(offline))}


def find(*cases: tuple[dict[str, str], list[tuple[str, str | None]]]) -> list[list[Any]]:
    """What `find_model` answers to each name and revision, in each of some environments."""
    return [json.loads(line) for line in python(FIND, json.dumps(cases)).splitlines()]


def assert_three_ways(answer: list[str]) -> None:
    kind, message = answer
    assert kind == "error"
    first, *ways = message.splitlines()
    assert re.match(
        r".* is not on this machine, and did not come from the Hub \(.+\)\. Three ways to get it:$",
        first,
    )
    assert [way[:5] for way in ways] == ["  1. ", "  2. ", "  3. "]
    assert all(name in ways[1] for name in ("modules.json", "1_Pooling/", "sentence_bert_config"))
    assert "pip install" in ways[2]


class FakeHub(BaseHTTPRequestHandler):
    """As much of the Hub as is asked for a download: tiny/bert, with a pickle that nobody should
    fetch."""

    files: dict[str, dict[str, bytes]]  # of each commit
    branches: dict[str, str]  # branches and tags, and the commits that they name
    # what goes wrong, once each: "busy", "busy later" (not at the first request), "cut" or
    # "damaged", and how the path ends
    faults: list[tuple[str, str]]
    log: list[str]  # paths, and " from N" where a download is resumed

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        start = int(re.sub(r"bytes=(\d+)-.*", r"\1", self.headers.get("Range") or "0"))
        self.log.append(f"{path} from {start}" if start else path)
        if self.fails("busy", path) or (path in self.log[:-1] and self.fails("busy later", path)):
            self.answer(b"{}", status=503)
        elif path.startswith("/portal/"):
            self.answer(b"<html>Please log in to this hotel's network</html>")
        elif path.startswith("/api/models/gated/"):
            self.answer(b"{}", status=403, X_Error_Code="GatedRepo")
        elif path.startswith("/api/models/closed/"):
            self.answer(b"{}", status=401, X_Error_Code="GatedRepo")
        elif path.startswith("/api/models/private/"):
            self.answer(b"{}", status=401, X_Error_Code="RepoNotFound")
        elif path.startswith("/api/models/broken/"):
            self.answer(b"{}", status=500)
        elif found := re.fullmatch(r"/api/models/tiny/bert(?:/revision/(.+))?", path):
            commit = self.commit(found[1] or "main")
            if commit is None:
                self.answer(b"{}", status=404, X_Error_Code="RevisionNotFound")
                return
            siblings = [{"rfilename": name} for name in self.files[commit]]
            self.answer(
                json.dumps(
                    {"_id": "1", "id": "tiny/bert", "sha": commit, "siblings": siblings}
                ).encode()
            )
        elif (found := re.fullmatch(r"/api/models/tiny/bert/tree/(.+)", path)) and (
            commit := self.commit(found[1])
        ):
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": git_hash(content)}
                for name, content in self.files[commit].items()
            ]
            self.answer(json.dumps(tree).encode())
        elif (
            (found := re.fullmatch(r"/tiny/bert/resolve/([^/]+)/(.+)", path))
            and (commit := self.commit(found[1]))
            and found[2] in self.files[commit]
        ):
            content = self.files[commit][found[2]]
            digest = announced(path, content)
            if self.fails("damaged", path):
                content = bytes([content[0] ^ 1]) + content[1:]
            self.answer(
                content,
                start=start,
                cut=self.fails("cut", path),
                ETag=f'"{digest}"',
                X_Repo_Commit=commit,
            )
        elif (found := re.fullmatch(r"/tiny/bert/resolve/([^/]+)/.+", path)) and (
            commit := self.commit(found[1])
        ):
            self.answer(b"", status=404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        else:
            self.answer(b"{}", status=404, X_Error_Code="RepoNotFound")

    def commit(self, revision: str) -> str | None:
        return revision if revision in self.files else self.branches.get(revision)

    def fails(self, fault: str, path: str) -> bool:
        """Whether this is to go wrong now; a HEAD request never does."""
        if self.command == "GET":
            for planned in self.faults:
                if planned[0] == fault and path.endswith(planned[1]):
                    self.faults.remove(planned)
                    return True
        return False

    def answer(
        self, content: bytes, status: int = 200, start: int = 0, cut: bool = False, **headers: str
    ) -> None:
        self.send_response(206 if start else status)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[start : len(content) // 2 if cut else None])
            self.close_connection = cut

    def log_message(self, *_: Any) -> None:
        pass


def git_hash(content: bytes) -> str:
    """What git names a file's content by."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serving(tiny: Path, *faults: tuple[str, str]) -> Iterator[str]:
    """The address at which the fake Hub has a model, and more; as said, some answers go wrong at
    first."""
    files = contents(tiny) | {
        "pytorch_model.bin": b"PK",
        "2_Other/config.json": b"{}",
        "onnx/model.onnx": b"",
        "README.md": b"",
    }
    FakeHub.files = {COMMIT: files, OTHER_COMMIT: files | {"vocab.txt": b"[UNK]\n"}}
    FakeHub.branches = {"main": COMMIT, "v1": COMMIT}
    FakeHub.faults = list(faults)
    FakeHub.log = []
    with ThreadingHTTPServer(("127.0.0.1", 0), FakeHub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_what_the_hub_gives_is_cached_and_nothing_else_is_fetched(
    tiny: Path, tmp_path: Path
) -> None:
    asked: list[tuple[str, str | None]]
    asked = [("tiny/bert", None), ("tiny/bert", None), ("tiny/bert", "v1"), ("tiny/bert", COMMIT)]
    asked += [
        ("tiny/bert", "v2"),
        ("nobody/nothing", None),
        ("gated/bert", None),
        ("broken/bert", None),
    ]
    asked += [("closed/bert", None), ("private/bert", None)]
    with serving(tiny) as endpoint:
        answers, again = find(
            (environment(tmp_path, endpoint), asked),
            # and once the Hub is gone, though most of the repository was never fetched
            (
                environment(tmp_path, endpoint, offline=True),
                [("tiny/bert", None), ("tiny/bert", "v1")],
            ),
        )
    names = ["2_Other", "config.json", "model.safetensors", "vocab.txt"]
    assert answers[:4] == [[source, COMMIT, names] for source in ("hub", "cache", "hub", "cache")]
    assert answers[4] == ["error", "the Hub has tiny/bert, but no revision 'v2' of it"]
    assert answers[5][1].startswith("the Hub has no model nobody/nothing")
    assert answers[6][1].startswith("gated/bert is gated")
    assert_three_ways(answers[7])
    assert answers[8][1].startswith("closed/bert is gated")
    assert answers[9][1].startswith("the Hub has no model private/bert, or it is private")
    assert again == [["cache", COMMIT, names]] * 2
    fetched = [path for path in FakeHub.log if "/resolve/" in path]
    assert any("model.safetensors" in path for path in fetched)
    assert not any(
        name in path for path in fetched for name in ("pytorch_model.bin", "onnx", "README")
    )


def test_a_pickle_alone_is_not_fetched_and_how_to_convert_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [SimpleNamespace(rfilename=name) for name in ("config.json", "pytorch_model.bin")]
    (tmp_path / "config.json").write_text('{"architectures": ["BertForMaskedLM"]}')
    (tmp_path / "modules.json").write_text("[]")
    listed = SimpleNamespace(siblings=files)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: listed)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(
        InputError, match=r"weights of old/bert only as pytorch_model\.bin"
    ) as caught:
        download("old/bert", None)
    assert "hf download old/bert --local-dir FOLDER" in str(caught.value)
    assert "BertForMaskedLM.from_pretrained('FOLDER')" in str(caught.value)


def test_what_goes_wrong_once_is_tried_again(tiny: Path, tmp_path: Path) -> None:
    """A server that is busy, for the repository and for a file, and a download cut in half, which
    goes on there.

    huggingface_hub writes 10 MiB at a time, so the file that is cut has 24.
    """
    shard = "model-00001-of-00001.safetensors"
    faults = ("busy", "/tiny/bert"), ("busy", "vocab.txt"), ("cut", shard)
    with serving(tiny, *faults) as endpoint:
        FakeHub.files[COMMIT][shard] = bytes(range(256)) * 2**12 * 24
        [[answer]] = find((environment(tmp_path, endpoint), [("tiny/bert", None)]))
    assert FakeHub.faults == []
    assert answer[:2] == ["hub", COMMIT]
    assert f"/tiny/bert/resolve/{COMMIT}/{shard} from {10 * 2**20}" in FakeHub.log
    for name in (shard, "vocab.txt"):
        (fetched,) = tmp_path.glob(f"hub/models--tiny--bert/snapshots/{COMMIT}/{name}")
        assert fetched.read_bytes() == FakeHub.files[COMMIT][name]


@pytest.mark.parametrize("name", ["model.safetensors", "vocab.txt"])
def test_a_file_of_another_hash_is_refused_and_fetched_again(
    name: str, tiny: Path, tmp_path: Path
) -> None:
    """Of the right size, so that huggingface_hub takes it."""
    with serving(tiny, ("damaged", name)) as endpoint:
        [[first, second]] = find((environment(tmp_path, endpoint), [("tiny/bert", COMMIT)] * 2))
    assert first[0] == "error"
    assert re.match(
        f"{name} came damaged from the Hub: its hash is [0-9a-f]+, and [0-9a-f]+ was announced",
        first[1],
    )
    assert second[:2] == ["hub", COMMIT]
    (fetched,) = tmp_path.glob(f"hub/models--tiny--bert/snapshots/{COMMIT}/{name}")
    assert fetched.read_bytes() == (tiny / name).read_bytes()


def test_a_branch_that_moved(tiny: Path, tmp_path: Path) -> None:
    """What is cached of a branch stays in use, for nothing is asked; a commit by its name is
    fetched beside it."""
    with serving(tiny) as endpoint:
        [[before]] = find((environment(tmp_path, endpoint), [("tiny/bert", None)]))
        FakeHub.branches["main"] = OTHER_COMMIT
        requests = len(FakeHub.log)
        asked = [("tiny/bert", None), ("tiny/bert", OTHER_COMMIT), ("tiny/bert", COMMIT)]
        [same, moved, pinned], [elsewhere] = find(
            (environment(tmp_path, endpoint), asked),
            (environment(tmp_path / "new", endpoint), [("tiny/bert", "main")]),
        )
        assert OTHER_COMMIT in next(path for path in FakeHub.log[requests:] if "tiny/bert" in path)
    assert [answer[:2] for answer in (before, same)] == [["hub", COMMIT], ["cache", COMMIT]]
    assert [answer[:2] for answer in (moved, pinned)] == [["hub", OTHER_COMMIT], ["cache", COMMIT]]
    assert elsewhere[:2] == ["hub", OTHER_COMMIT]


def test_a_hub_that_gives_nothing_is_one_error_with_three_ways(tiny: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        closed = f"http://127.0.0.1:{gone.getsockname()[1]}"
    with serving(tiny) as endpoint, socket.create_server(("127.0.0.1", 0)) as silent:
        # the system takes connections, and nobody answers
        mute = f"http://127.0.0.1:{silent.getsockname()[1]}"
        answers = find(
            # a commit, too: huggingface_hub asks for one by another way, with retries
            (environment(tmp_path, closed), [("tiny/bert", None), ("tiny/bert", COMMIT)]),
            (environment(tmp_path, mute), [("tiny/bert", None)]),
            (
                environment(tmp_path, f"{endpoint}/portal"),
                [("tiny/bert", None)],
            ),  # such as a hotel's
            (environment(tmp_path, closed, offline=True), [("tiny/bert", None)]),
        )
    reasons = ["refused", "refused", "timed out", "", "offline mode"]
    for answer, reason in zip(
        [answer for case in answers for answer in case], reasons, strict=True
    ):
        assert_three_ways(answer)
        assert reason in answer[1].splitlines()[0]


def test_no_pickle_is_among_what_is_fetched() -> None:
    assert not any(
        name.endswith((".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", "*")) for name in FILES
    )


# A cache that `transformers` filled: it leaves out how to pool


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sentence encoder like BAAI/bge-small-en-v1.5: [CLS], scaled to length 1."""
    folder = tmp_path_factory.mktemp("encoder")
    small_encoder(folder / "vocabulary", pooling="cls", normalize=True).save_pretrained(
        folder / "model"
    )
    return folder / "model"


POOLING = "1_Pooling/config.json"
MODULES = (
    "modules.json",
    POOLING,
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)

OPEN = (
    AT_ONCE
    + """
import json, sys, warnings
from minibert import Bert, InputError, SentenceEncoder
answers = []
for name, pooling in json.loads(sys.argv[1]):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            Bert.from_pretrained(name)  # which pools nothing, and asks nobody
            encoder = SentenceEncoder.from_pretrained(name, pooling=pooling)
            answer = [encoder.settings.pooling, encoder.settings.normalize]
        except InputError as error:
            answer = ["error", str(error)]
    answers.append([*answer, [str(warning.message) for warning in caught]])
print(json.dumps(answers))
"""
)


def opened(environment: dict[str, str], *asked: tuple[str, str | None]) -> list[list[Any]]:
    """Of each model: its pooling, whether it normalizes, and the warnings; or the error."""
    answers: list[list[Any]] = json.loads(python(OPEN, json.dumps(asked), **environment))
    return answers


ASSUMED = "has no modules.json, 1_Pooling/ and sentence_bert_config.json to say how "


def test_without_the_hub_a_half_filled_cache_is_an_error_that_asks_for_the_pooling(
    encoder: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        closed = f"http://127.0.0.1:{gone.getsockname()[1]}"
    for repository in ("tiny/bert", "sentence-transformers/tiny", "google-bert/tiny"):
        fill_cache(tmp_path / "hub", repository, encoder, *MODULES)
    fill_cache(tmp_path / "hub", "tiny/cut", encoder, POOLING)
    for where in (environment(tmp_path, closed), environment(tmp_path, closed, offline=True)):
        half, theirs, cut, said, plain = opened(
            where,
            ("tiny/bert", None),
            ("sentence-transformers/tiny", None),
            ("tiny/cut", None),
            ("tiny/bert", "max"),
            ("google-bert/tiny", None),
        )
        for answer, name, missing in (
            (half, "tiny/bert", "modules.json"),
            (theirs, "sentence-transformers/tiny", "modules.json"),
            (cut, "tiny/cut", POOLING),
        ):
            assert answer[0] == "error"
            assert answer[1].startswith(f"the cache has no {missing} of {name}, and the Hub cannot")
            assert "give pooling= (--pooling)" in answer[1]
            assert "encode(normalize=True)" in answer[1]
        assert said == ["max", False, []]
        assert plain == ["mean", False, []]


@pytest.mark.parametrize("missing", [MODULES, (POOLING,), ("modules.json",)])
def test_the_hub_fills_a_half_filled_cache(
    missing: tuple[str, ...], encoder: Path, tmp_path: Path
) -> None:
    snapshot = fill_cache(tmp_path / "hub", "tiny/bert", encoder, *missing) / "snapshots" / COMMIT
    with serving(encoder) as endpoint:
        # main has moved on: what is asked for belongs to the weights that are here
        FakeHub.branches["main"] = OTHER_COMMIT
        FakeHub.files[OTHER_COMMIT] |= {POOLING: b'{"pooling_mode": "max"}'}
        answers = opened(environment(tmp_path, endpoint), ("tiny/bert", None))
        assert not any("model.safetensors" in path for path in FakeHub.log if "resolve" in path)
    assert answers == [["cls", True, []]]
    assert all((snapshot / name).exists() for name in missing)
    assert opened(environment(tmp_path, offline=True), ("tiny/bert", None)) == answers


@pytest.mark.parametrize("half", [True, False], ids=["in the cache", "nowhere"])
def test_what_the_hub_has_not_is_remembered(half: bool, encoder: Path, tmp_path: Path) -> None:
    """A model without modules.json: plain, and once that is known, nobody is asked again."""
    plain = Path(shutil.copytree(encoder, tmp_path / "plain"))
    for name in MODULES:
        (plain / name).unlink()
    if half:
        fill_cache(tmp_path / "hub", "tiny/bert", plain)
    with serving(plain) as endpoint:
        where = environment(tmp_path, endpoint)
        first = opened(where, ("tiny/bert", None))
        requests = len(FakeHub.log)
        assert requests
        assert opened(where, ("tiny/bert", None)) == first
        assert len(FakeHub.log) == requests
    assert opened(environment(tmp_path, offline=True), ("tiny/bert", None)) == first
    [[pooling, normalize, [warning]]] = first
    assert (pooling, normalize) == ("mean", False)
    assert warning.startswith(f"tiny/bert {ASSUMED}")


def test_a_hub_that_answers_only_once_does_not_make_a_model_plain(
    encoder: Path, tmp_path: Path
) -> None:
    """huggingface_hub gives what the cache has, without an error, if its list of files fails."""
    fill_cache(tmp_path / "hub", "tiny/bert", encoder, *MODULES)
    with serving(encoder) as endpoint:
        # the list of files comes from either, depending on huggingface_hub's version
        FakeHub.faults = [("busy later", f"/revision/{COMMIT}"), ("busy", f"/tree/{COMMIT}")] * 9
        [answer] = opened(environment(tmp_path, endpoint), ("tiny/bert", None))
    assert answer[0] == "error"
    assert answer[1].startswith("the cache has no modules.json of tiny/bert, and the Hub cannot be")


def test_a_folder_that_does_not_say_how_to_pool_is_a_warning(encoder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(encoder, tmp_path / "model"))
    (folder / "modules.json").unlink()
    with pytest.warns(PoolingWarning, match=f"^{folder} {ASSUMED}") as caught:
        assert SentenceEncoder.from_pretrained(folder).settings.pooling == "mean"
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert SentenceEncoder.from_pretrained(folder, pooling="cls").settings.pooling == "cls"
        assert SentenceEncoder.from_pretrained(encoder).settings.pooling == "cls"
        Bert.from_pretrained(folder)
