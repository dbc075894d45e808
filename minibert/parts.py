"""A folder of vectors in parts: a Parquet file each, with ids and vectors, and what they depend on.

A part is written beside its place and then renamed, so that it is there as a whole or not at all.
"""

import json
import os
import posixpath
from io import BytesIO
from typing import Any

from numpy.typing import NDArray

from minibert.files import InputError

FACTS, DONE = "_minibert.json", "_SUCCESS"  # readers of Parquet leave such names out


def write_part(target: str, ids: list[str], vectors: NDArray) -> None:
    """Write ids and vectors as one Parquet file."""
    import pyarrow
    from fsspec.core import url_to_fs
    from pyarrow import parquet

    system, path = url_to_fs(target)
    flat = pyarrow.array(vectors.reshape(-1))
    column = pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    table = BytesIO()
    parquet.write_table(pyarrow.table({"id": ids, "vector": column}), table)
    write_whole(system, path, table.getvalue())


def write_whole(system: Any, path: str, content: bytes) -> None:
    """Write a file that appears as a whole."""
    folder, name = posixpath.split(path)
    beside = f"{folder}/.{name}.{os.getpid()}.tmp"
    system.pipe_file(beside, content)
    system.mv(beside, path)


def count_rows(system: Any, file: str) -> int:
    """How many rows a part has. Raises InputError if it is damaged."""
    from pyarrow.lib import ArrowException
    from pyarrow.parquet import read_metadata

    try:
        with system.open(file, "rb") as stream:
            return read_metadata(stream).num_rows
    except (ArrowException, OSError) as error:
        raise InputError(f"{file} is damaged: remove it, to compute it again ({error})") from error


def check_facts(system: Any, root: str, facts: dict[str, Any]) -> None:
    """Note what the parts of a folder depend on; or hold it against what a run before has noted.
    Raises InputError, naming what differs, or for a folder that holds something else."""
    file = f"{root}/{FACTS}"
    if not system.exists(file):
        is_file = system.exists(root) and not system.isdir(root)
        if is_file or (system.exists(root) and system.glob(f"{root}/[!.]*")):
            raise InputError(
                f"--output {root}: --ray writes a folder of its own, and this holds other files"
            )
        system.makedirs(root, exist_ok=True)
        write_whole(system, file, json.dumps(facts, indent=2).encode())
        return
    try:
        before = dict(json.loads(system.cat_file(file)))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{file} is damaged: remove {root}, to begin again ({error})") from error
    for key in {**before, **facts}:
        if before.get(key) != facts.get(key):
            raise InputError(
                f"{root} was begun with {key} {before.get(key)!r:.200}, and this run has "
                f"{facts.get(key)!r:.200}: give the same model, options and texts, or another "
                "--output"
            )


def changed(system: Any, file: str) -> str:
    """When a file was last changed, as far as its file system tells."""
    try:
        return str(system.modified(file))
    except NotImplementedError:
        return ""
