"""A search collection in the layout of BEIR (Thakur et al. 2021, arXiv:2104.08663): corpus.jsonl,
queries.jsonl, and qrels/SPLIT.tsv, which says what is relevant to which query."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minibert.files import InputError
from train.data.examples import Document, Example, Query
from train.data.jsonl import parse_object
from train.data.reading import Reading

LABEL = "retrieval"
FILES = ("corpus.jsonl", "queries.jsonl")  # by which a collection is recognised
# Nothing is learnt from a collection, so qrels/train.tsv is not read.
QRELS = {"dev": "qrels/dev.tsv", "test": "qrels/test.tsv"}


def read_beir(folder: Path, reading: Reading) -> dict[str, list[Example]]:
    """The splits that have qrels: the split's queries, and all documents of the corpus.

    A document's text is its title, if it has one, a space, and its text, as in BEIR. A query that
    has no relevant document is left out. Raises InputError, naming file and line, for what cannot
    be read, and for a name in qrels that nothing has.
    """
    corpus_file, queries_file = (folder / name for name in FILES)
    documents = {
        name: Example(
            f"{record.get('title') or ''} {record['text']}".strip(),
            {LABEL: Document(name)},
            where,
            id=name,
        )
        for name, record, where in _records(corpus_file, reading)
    }
    queries = {name: (r["text"], w) for name, r, w in _records(queries_file, reading)}
    splits = {}
    for split, name in QRELS.items():
        if not (file := folder / name).is_file():
            continue
        relevances: dict[str, dict[str, float]] = {}
        for query, document, grade, where in _judgements(file, reading):
            if query not in queries or document not in documents:
                what = f"query {query}" if query not in queries else f"document {document}"
                raise InputError(f"{where}: there is no {what} in {folder}")
            if grade > 0:
                relevances.setdefault(query, {})[document] = grade
        if not relevances:
            raise InputError(f"{file}: no query has a relevant document")
        splits[split] = [
            Example(text, {LABEL: Query(tuple(relevances[query].items()))}, where, id=query)
            for query, (text, where) in queries.items()
            if query in relevances
        ] + list(documents.values())
    if not splits:
        raise InputError(f"{folder} has neither {' nor '.join(QRELS.values())}")
    counts = ", ".join(f"{len(e) - len(documents)} {split}" for split, e in splits.items())
    reading.announce(f"{folder}: {len(documents)} documents; queries: {counts}")
    return splits


def _records(file: Path, reading: Reading) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Each object of a file with its name, `_id`, and where it stands."""
    names = set()
    for i, line in enumerate(reading.lines(file), start=1):
        if not line.strip():
            continue
        where = f"{file}, line {i}"
        record = parse_object(line, where)
        for key in ("_id", "text"):
            if not isinstance(record.get(key), str):
                raise InputError(f"{where}: {key} must be a text, not {record.get(key)!r:.80}")
        if record["_id"] in names:
            raise InputError(f"{where}: there is a second _id {record['_id']!r}")
        names.add(record["_id"])
        yield record["_id"], record, where


def _judgements(file: Path, reading: Reading) -> Iterator[tuple[str, str, float, str]]:
    """A query, a document, the document's grade, and where this stands."""
    for i, line in enumerate(reading.lines(file), start=1):
        where, cells = f"{file}, line {i}", line.split("\t")
        if i == 1 or not line.strip():  # the first line names the columns
            continue
        try:
            query, document, grade = cells
            yield query, document, float(grade), where
        except ValueError as error:
            raise InputError(
                f"{where}: {line!r:.80} should be a query, a document and a grade, with tabs "
                "between them"
            ) from error
