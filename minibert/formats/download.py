"""Fetches the files of a model from the Hub into the Hub's cache."""

import hashlib
import re
import shutil
import time
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub  # which imports its parts when they are first used: half a second

from minibert.files import InputError, sha256
from minibert.formats.tensors import conversion

# What we read of a repository. Pickled weights and other frameworks' files are never fetched.
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
    "*_*/config.json",  # of 1_Pooling and other modules
    "*_*/model.safetensors",  # of 2_Dense
)


class HubUnreachableError(InputError):
    """The Hub could not be asked. The message is the reason, in one line."""


def download(repository: str, revision: str | None) -> Path:
    """Fetch those of a repository's FILES that the Hub's cache lacks, and return its snapshot.

    Raises InputError, in one line, if the Hub refuses; HubUnreachableError if it gives no answer.
    """
    try:
        for wait in (1, 2, 0):
            try:
                # Asked first, with a timeout: snapshot_download would wait without limit for a
                # server that is silent, and for half a minute for one that is not there.
                hub = huggingface_hub.HfApi()
                listed = hub.model_info(repository, revision=revision, timeout=5).siblings or []
                folder = Path(
                    huggingface_hub.snapshot_download(
                        repository, revision=revision, allow_patterns=list(FILES), etag_timeout=5
                    )
                )
                break
            except huggingface_hub.errors.HfHubHTTPError as error:
                # a busy server (5xx) is asked three times
                if not wait or error.response.status_code < 500:
                    raise
                time.sleep(wait)
        # If it is refused the second time, snapshot_download returns what the cache has.
        for file in listed:
            name = file.rfilename
            if any(fnmatch(name, wanted) for wanted in FILES) and not (folder / name).exists():
                raise OSError(f"it did not send {name}")
        if not (folder / "modules.json").exists():
            # Asked for by its name, so that the cache records that there is none. If that fails,
            # it is asked again next time.
            with suppress(huggingface_hub.errors.HfHubHTTPError, OSError):
                huggingface_hub.hf_hub_download(
                    repository, "modules.json", revision=folder.name, etag_timeout=5
                )
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
    # Depending on its version, huggingface_hub raises the errors of requests, httpx or httpx2, and
    # OSError and ValueError.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        told = without_secrets(reason)
        # A traceback would show the first error too, so with a secret in it, it is not kept.
        raise HubUnreachableError(told) from (error if told == reason else None)
    names = {file.rfilename for file in listed}
    if "pytorch_model.bin" in names and not any(name.endswith(".safetensors") for name in names):
        raise InputError(
            f"the Hub has the weights of {repository} only as pytorch_model.bin, a pickle, which "
            f"is never fetched here. hf download {repository} --local-dir FOLDER fetches it. "
            f"{conversion(folder, 'FOLDER')}"
        )
    return folder


def without_secrets(message: str) -> str:
    """A message without the user's token, any other token of the Hub, or names and passwords in
    addresses."""
    if token := huggingface_hub.get_token():
        message = message.replace(token, "***")
    return re.sub(r"hf_\w{8,}|(?<=://)[^/@\s]+(?=@)", "***", message)


def check_download(folder: Path) -> None:
    """Check every file of a snapshot against the hash that the Hub announced for it, which is its
    name in the cache.

    huggingface_hub itself compares sizes alone. A large file's hash is its SHA-256; a small one's
    is git's SHA-1, of "blob", the size and the content. Where the cache has copies in place of
    links, no hash is known, and nothing is checked. Raises InputError, naming the file, which is
    removed; and so are the links of its snapshot, which could be taken for the whole model.
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
            blob.unlink()
            shutil.rmtree(folder)
            raise InputError(
                f"{link.name} came damaged from the Hub: its hash is {digest}, and {blob.name} was "
                "announced. It is removed; run this again to fetch it again"
            )
