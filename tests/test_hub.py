"""hub.py: where a model's files come from, in which order, and what is said when they come from
nowhere.

The Hub is played by a small server on this machine; nothing here leaves it.
"""

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import torch

from minibert import Bert, BertConfig, InputError
from minibert.files import write_json
from minibert.formats import hub
from minibert.formats.hub import FILES, MINILM, find_model, from_cache, installed_package

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


# The order


@pytest.fixture
def sources(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Package, cache and Hub in play: what each would give, and the calls that reached them."""
    state: dict[str, Any] = {"package": tiny, "cache": tiny, "hub": tiny, "calls": []}

    def call(source: str, *arguments: Any) -> Any:
        state["calls"].append((source, *arguments))
        return state[source]

    monkeypatch.setattr(hub, "installed_package", lambda: call("package"))
    monkeypatch.setattr(hub, "from_cache", lambda *arguments: call("cache", *arguments))
    monkeypatch.setattr(hub, "from_hub", lambda *arguments: call("hub", *arguments))
    digest = hashlib.sha256((tiny / "model.safetensors").read_bytes()).hexdigest()
    monkeypatch.setattr(hub, "KNOWN_WEIGHTS", {digest: (MINILM, COMMIT)})
    return state


def test_a_folder_goes_first(
    sources: dict[str, Any], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny, tmp_path / "minilm")
    monkeypatch.chdir(tmp_path)
    for name in ("minilm", Path("minilm"), tmp_path / "minilm", str(tmp_path / "minilm")):
        found = find_model(name)
        assert (found.path.resolve(), found.source, found.commit) == (
            tmp_path / "minilm",
            "folder",
            None,
        )
        assert found.name == str(name)
    assert sources["calls"] == []


def test_a_folder_below_the_home_folder(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tiny.parent))
    assert find_model(f"~/{tiny.name}").path == tiny


def test_a_folder_has_no_revision(tiny: Path) -> None:
    with pytest.raises(InputError, match="a folder has no revision 'main'"):
        find_model(tiny, "main")


def test_then_the_package_the_cache_and_the_hub(sources: dict[str, Any], tiny: Path) -> None:
    for name in ("minilm", MINILM):
        assert find_model(name) == hub.ModelFolder(tiny, name, "package", COMMIT)
    assert sources["calls"] == [("package",), ("package",)]

    sources |= {"package": None, "calls": []}
    assert find_model("minilm") == hub.ModelFolder(tiny, "minilm", "cache", tiny.name)
    assert sources["calls"] == [("package",), ("cache", MINILM, None)]

    sources |= {"cache": None, "calls": []}
    assert find_model("minilm") == hub.ModelFolder(tiny, "minilm", "hub", tiny.name)
    assert sources["calls"] == [("package",), ("cache", MINILM, None), ("hub", MINILM, None)]


def test_the_package_is_minilms_alone_and_of_no_other_revision(sources: dict[str, Any]) -> None:
    assert find_model("tiny/bert").source == "cache"
    assert find_model("minilm", "some-tag").source == "cache"
    sources["cache"] = None
    assert find_model("minilm", "some-tag").source == "hub"
    assert sources["calls"][1:] == [("cache", MINILM, "some-tag")] * 2 + [
        ("hub", MINILM, "some-tag")
    ]


def test_the_short_name_of_bert_base(
    sources: dict[str, Any], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "KNOWN_WEIGHTS", {})
    find_model("bert-base-uncased")
    assert sources["calls"] == [("cache", "google-bert/bert-base-uncased", None)]


# What is known by its SHA-256


@pytest.mark.parametrize("source", ["package", "cache", "hub"])
def test_a_changed_byte_in_known_weights_is_refused(
    source: str, sources: dict[str, Any], tiny: Path, tmp_path: Path
) -> None:
    damaged = Path(shutil.copytree(tiny, tmp_path / "damaged"))
    file = damaged / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # the file is sound, and only one weight is another
    file.write_bytes(content)
    sources |= {"package": None, "cache": None, source: damaged}
    with pytest.raises(
        InputError, match=f"{file} has SHA-256 .*, but {MINILM} was published with "
    ):
        find_model("minilm")


def test_a_revision_asked_for_by_name_is_taken_as_it_is(
    sources: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "KNOWN_WEIGHTS", {"0" * 64: (MINILM, COMMIT)})
    assert find_model("minilm", "older").source == "cache"
    with pytest.raises(InputError, match="was published with"):
        find_model("minilm")


def test_what_is_not_known_is_taken_as_it_is(sources: dict[str, Any]) -> None:
    assert find_model("tiny/bert").source == "cache"


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


@pytest.fixture
def cached(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of tiny/bert in an otherwise empty cache of the Hub; its main is the snapshot
    COMMIT."""
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "cache" / "models--tiny--bert"
    shutil.copytree(tiny, repository / "snapshots" / COMMIT)
    (repository / "refs" / "pr").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "refs" / "pr" / "1").write_text(COMMIT)
    return repository


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


def test_a_sentence_transformer_cached_without_its_modules_does_not_count(cached: Path) -> None:
    renamed = cached.rename(cached.with_name("models--sentence-transformers--tiny"))
    assert from_cache("sentence-transformers/tiny", None) is None
    write_json(renamed / "snapshots" / COMMIT / "modules.json", [])
    assert from_cache("sentence-transformers/tiny", None) == renamed / "snapshots" / COMMIT


def test_a_cache_cut_short_does_not_count(cached: Path) -> None:
    (cached / "refs" / "main").write_text("")
    assert from_cache("tiny/bert", None) is None


# The package


def test_the_package_is_found_without_running_its_code(tmp_path: Path) -> None:
    package = tmp_path / hub.PACKAGE
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('the package was imported')")
    code = "import sys; from minibert.formats import hub; print(hub.installed_package()); assert hub.PACKAGE not in sys.modules"
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


FIND = """
import importlib, json, os, sys
from minibert import InputError
from minibert.formats import hub
for environment, asked in json.loads(sys.argv[1]):
    os.environ.update(environment)
    for module in [name for name in sys.modules if name.startswith("huggingface_hub")]:
        del sys.modules[module]  # imported again, it reads the environment again
    hub.huggingface_hub = importlib.import_module("huggingface_hub")
    answers = []
    for name, revision in asked:
        try:
            found = hub.find_model(name, revision)
            answers.append([found.source, found.commit, sorted(file.name for file in found.path.iterdir())])
        except InputError as error:
            answers.append(["error", str(error)])
    print(json.dumps(answers))
"""


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
    assert "pip install" in ways[2]


class FakeHub(BaseHTTPRequestHandler):
    """As much of the Hub as is asked for a download: tiny/bert, with a pickle that nobody should
    fetch."""

    files: dict[str, dict[str, bytes]]  # of each commit
    branches: dict[str, str]  # branches and tags, and the commits that they name
    # what goes wrong, once each: "busy", "cut" or "damaged", and how the path ends
    faults: list[tuple[str, str]]
    log: list[str]  # paths, and " from N" where a download is resumed

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        start = int(re.sub(r"bytes=(\d+)-.*", r"\1", self.headers.get("Range") or "0"))
        self.log.append(f"{path} from {start}" if start else path)
        if self.fails("busy", path):
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
            # As on the Hub: large files are known by their SHA-256, small ones by git's hash.
            digest = (
                hashlib.sha256(content).hexdigest() if "safetensors" in path else git_hash(content)
            )
            if self.fails("damaged", path):
                content = bytes([content[0] ^ 1]) + content[1:]
            self.answer(
                content,
                start=start,
                cut=self.fails("cut", path),
                ETag=f'"{digest}"',
                X_Repo_Commit=commit,
            )
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
    """The address at which the fake Hub has the small model, and more; as said, some answers go
    wrong at first."""
    files = {file.name: file.read_bytes() for file in tiny.iterdir()}
    files |= {
        "pytorch_model.bin": b"PK",
        "1_Pooling/config.json": b"{}",
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
    names = ["1_Pooling", "config.json", "model.safetensors", "vocab.txt"]
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
def test_a_file_of_another_hash_is_refused_and_fetched_anew(
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
            (environment(tmp_path, f"{endpoint}/portal"), [("tiny/bert", None)]),  # a hotel's, say
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
