"""Label Studio's JSON export: a list of tasks, each with its data and its annotations."""

from collections.abc import Mapping
from typing import Any

from minibert.files import InputError


def is_task(record: Mapping[str, Any]) -> bool:
    """Whether an object is such a task."""
    return isinstance(record.get("data"), dict) and "annotations" in record


def task_fields(task: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A task as fields: its data, and the results of its first annotation that was not cancelled,
    spans or choices, each by the name of the control that made it.

    A task that nobody annotated has no labels. Raises InputError for a result that is neither
    spans nor choices.
    """
    fields = dict(task["data"])
    if "id" in task:
        fields["id"] = task["id"]
    done = [one for one in task["annotations"] or () if not one.get("was_cancelled")]
    for result in done[0].get("result", ()) if done else ():
        name, value = result.get("from_name", "label"), result.get("value", {})
        if "choices" in value:
            fields[name] = value["choices"]
        elif "labels" in value and "start" in value:
            fields.setdefault(name, []).append(value)
        elif "rating" in value or "number" in value:
            fields[name] = value.get("rating", value.get("number"))
        elif result.get("type") != "relation":
            raise InputError(
                f"{where}: the result {name} of type {result.get('type')!r} is neither spans nor "
                "choices"
            )
    return fields
