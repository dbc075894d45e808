"""Label Studio's JSON export: a list of tasks, each with its data and its annotations."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from minibert.files import InputError
from train.data.reading import Reading

# What it writes of the work itself, beside each task of its JSON-MIN and CSV.
ABOUT_THE_WORK = ("annotator", "annotation_id", "created_at", "updated_at", "lead_time")


def is_task(record: Mapping[str, Any]) -> bool:
    """Whether an object is such a task."""
    keys = ("annotations", "completions", "predictions")
    return isinstance(record.get("data"), dict) and any(key in record for key in keys)


def is_about_the_work(names: Sequence[str]) -> bool:
    """Whether fields are those of a task in JSON-MIN or CSV."""
    return {"annotation_id", "lead_time"} <= set(names)


def tasks_fields(
    tasks: Sequence[tuple[str, Mapping[str, Any]]], reading: Reading
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each task as fields, with where it stands: its data, and the results of its first annotation
    that was not cancelled, spans or choices, each by the name of the control that made it.

    A task that nobody annotated has no labels. One that was annotated without any span has an empty
    list of them. Raises InputError for a wanted result that is neither spans nor choices.
    """
    annotated = [(where, task, _results(task, where)) for where, task in tasks]
    controls: dict[str, list[Any]] = {
        name: []
        for where, _, results in annotated
        for name, value in (_labels(results, where, reading) if results else {}).items()
        if value and isinstance(value, list) and isinstance(value[0], dict)
    }
    for where, task, results in annotated:
        fields = dict(task["data"])
        if "id" in task:
            fields["id"] = task["id"]
        if results is not None:
            fields |= controls | _labels(results, where, reading)
        yield where, fields


def _results(task: Mapping[str, Any], where: str) -> list[dict[str, Any]] | None:
    """The results of the annotation that counts; None if there is none."""
    done = task.get("annotations", task.get("completions")) or []
    if not isinstance(done, list):
        raise InputError(f"{where}: annotations must be a list, not {done!r:.80}")
    done = [one for one in done if isinstance(one, dict) and not one.get("was_cancelled")]
    if not done:
        return None
    results = done[0].get("result") or []
    if not isinstance(results, list) or not all(map(_is_result, results)):
        raise InputError(
            f"{where}: the results of an annotation must be a list of objects, each with the name "
            "of a control (from_name) and a value, which is an object"
        )
    return results


def _is_result(result: Any) -> bool:
    return (
        isinstance(result, dict)
        and isinstance(result.get("from_name", ""), str)
        and isinstance(result.get("value", {}), dict)
    )


def _labels(results: Sequence[Mapping[str, Any]], where: str, reading: Reading) -> dict[str, Any]:
    """Results by the names of their controls."""
    labels: dict[str, Any] = {}
    for result in results:
        name, value = result.get("from_name", "label"), result.get("value", {})
        if "choices" in value:
            labels[name] = value["choices"]
        elif "labels" in value and "start" in value:
            labels.setdefault(name, []).append(value)
        elif "rating" in value or "number" in value:
            labels[name] = value.get("rating", value.get("number"))
        elif result.get("type") != "relation" and reading.is_wanted(name):
            raise InputError(
                f"{where}: the result {name} of type {result.get('type')!r} is neither spans nor "
                "choices; --tasks NAME reads the named labels alone"
            )
    return labels
