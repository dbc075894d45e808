"""Data sets of the Hugging Face Hub, by the `datasets` library."""

from pathlib import Path
from typing import Any

from minibert.files import InputError
from minibert.formats.download import without_secrets
from train.data.columns import from_fields
from train.data.examples import SPLITS, Example
from train.data.reading import Reading

MATCHED = {"dev": "validation_matched", "test": "test_matched"}  # MNLI's


def read_hub(name: str, reading: Reading) -> dict[str, list[Example]]:
    """The splits of OWNER/NAME, of OWNER/NAME/CONFIG, or of a local folder that the `datasets`
    library reads.

    Columns are fields as in `from_fields`; classes become their names. Raises InputError if the
    data set cannot be had.
    """
    try:
        from datasets import ClassLabel, load_dataset
    except ImportError as error:
        raise InputError(f"hub:{name} needs the datasets library: pip install datasets") from error
    has_config = name.count("/") >= 2 and not Path(name).is_dir()
    path, config = name.rsplit("/", 1) if has_config else (name, None)
    try:
        loaded = load_dataset(path, config)
    except Exception as error:  # the library raises exceptions of every kind
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        told = without_secrets(reason)
        raise InputError(f"hub:{name} cannot be loaded: {told}") from (
            error if told == reason else None
        )

    def with_names(feature: Any, value: Any) -> Any:
        """A class's number as its name; -1, as in GLUE's test splits, as no label."""
        if isinstance(feature, ClassLabel):
            return None if value in (None, -1) else feature.int2str(value)
        inner = getattr(feature, "feature", None)
        if value is None or not isinstance(inner, ClassLabel):
            return value
        return [inner.int2str(v) for v in value]

    splits = {}
    for split, names in SPLITS.items():
        names = (*names, MATCHED.get(split, split))
        rows = next((loaded[n] for n in names if n in loaded), None)
        if rows is None:
            continue
        splits[split] = [
            from_fields(
                {k: with_names(rows.features[k], value) for k, value in row.items()},
                f"hub:{name}, {split}, row {i}",
                reading,
            )
            for i, row in enumerate(rows)
        ]
    return splits
