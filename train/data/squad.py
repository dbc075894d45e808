"""SQuAD's own JSON: questions about paragraphs of articles (Rajpurkar et al. 2016 and 2018)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minibert.files import InputError
from train.data.examples import Answers, Example


def squad_examples(content: Any, file: Path) -> Iterator[Example]:
    """A file of SQuAD 1.1 or 2.0, as JSON holds it: an example for each question, with the task
    `answer`.

    The answers are none where `is_impossible` says so; `plausible_answers` are not read. A question
    without a field `answers` has no label. Raises InputError, naming article, paragraph and
    question, for anything else.
    """
    for number, article in enumerate(_list(content, "data", f"{file}"), start=1):
        title = article.get("title", number) if isinstance(article, dict) else number
        of_article = f"{file}, article {title!r}"
        paragraphs = _list(article, "paragraphs", of_article)
        for i, paragraph in enumerate(paragraphs, start=1):
            where = f"{of_article}, paragraph {i}"
            context = _text(paragraph, "context", where)
            for question in _list(paragraph, "qas", where):
                yield _example(question, context, where)


def _example(record: Any, context: str, where: str) -> Example:
    name = record.get("id") if isinstance(record, dict) else None
    where = f"{where}, question {name!r}"
    question = _text(record, "question", where).strip()
    if name is not None and not isinstance(name, str | int):
        raise InputError(f"{where}: an id must be a text or a number")
    labels = {}
    if record.get("is_impossible", False):
        labels["answer"] = Answers((), ())
    elif "answers" in record:
        answers = _list(record, "answers", where)
        if not answers:
            raise InputError(f"{where} has no answer, and `is_impossible` does not say so")
        texts = tuple(_text(answer, "text", where) for answer in answers)
        starts = tuple(answer.get("answer_start") for answer in answers)
        if not all(type(start) is int for start in starts):
            raise InputError(f"{where}: an answer needs answer_start, a whole number")
        labels["answer"] = Answers(texts, starts)
    return Example(question, labels, where, second=context, id=name)


def _list(record: Any, key: str, where: str) -> list[Any]:
    """A field that is a list."""
    if not isinstance(record, dict) or not isinstance(record.get(key), list):
        raise InputError(f"{where} is not SQuAD's: it needs {key!r}, a list")
    return record[key]


def _text(record: Any, key: str, where: str) -> str:
    """A field that is a text which is not blank."""
    value = record.get(key) if isinstance(record, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: {key} must be a text that is not blank, not {value!r:.40}")
    return value
