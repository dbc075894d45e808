"""formats/sentence_transformers.py: settings survive a folder, and odd paths are one error.

What the settings do to vectors is tested in test_encoder.py.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from minibert import InputError
from minibert.after import AfterPooling
from minibert.files import write_json
from minibert.formats.sentence_transformers import (
    POOLINGS,
    EncoderSettings,
    read_encoder_folder,
    write_encoder_settings,
)
from minibert.heads import POOLINGS as COMPUTED


def test_the_format_names_every_pooling_that_is_computed() -> None:
    assert tuple(POOLINGS) == tuple(COMPUTED)


@pytest.mark.parametrize(
    "settings",
    [
        EncoderSettings(),
        EncoderSettings("cls", True, 256, {"query": "search: ", "none": ""}, "query", False, 5),
        EncoderSettings(pooling="max", truncate_dim=1),
        EncoderSettings("weightedmean", similarity="dot", others={"a key": [1]}),
        EncoderSettings("cls+mean+lasttoken"),
        EncoderSettings("mean+cls+mean"),  # an order that only version 6 can write
    ],
)
def test_what_is_written_is_read(settings: EncoderSettings, tmp_path: Path) -> None:
    write_encoder_settings(settings, 24, AfterPooling(), tmp_path)
    read = read_encoder_folder(tmp_path)
    assert (read.transformer, read.settings, read.lower_first) == (tmp_path, settings, False)


def test_a_folder_without_modules_is_a_plain_bert(tmp_path: Path) -> None:
    read = read_encoder_folder(tmp_path)
    assert (read.transformer, read.settings) == (tmp_path, EncoderSettings("mean", False))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("transformer_task", "text-generation"),
        ("model_args", {"attn_implementation": "eager"}),
        ("processing_kwargs", {"text": {"padding": "max_length"}}),
        ("query_length", 32),
    ],
)
def test_an_entry_that_could_change_vectors_is_refused(
    key: str, value: Any, tmp_path: Path
) -> None:
    write_encoder_settings(EncoderSettings(), 24, AfterPooling(), tmp_path)
    file = tmp_path / "sentence_bert_config.json"
    content = {"transformer_task": "feature-extraction", "modality_config": {}, "model_args": {}}
    write_json(file, content)
    read_encoder_folder(tmp_path)
    write_json(file, content | {key: value})
    with pytest.raises(InputError, match=rf"sentence_bert_config\.json: {key} is "):
        read_encoder_folder(tmp_path)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("path", ["loop", "\ud800", "x" * 300, "x/" * 3000, "loop/x", 3, None])
def test_a_path_that_leads_nowhere_is_one_error(number: int, path: Any, tmp_path: Path) -> None:
    os.symlink("loop", tmp_path / "loop")
    write_encoder_settings(EncoderSettings(), 24, AfterPooling(), tmp_path)
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules[number]["path"] = path
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(
        InputError,
        match=r"^.*modules\.json: "
        r"(the path .* (is no folder|leads out of the folder)|.* half a surrogate pair.*)$",
    ) as caught:
        read_encoder_folder(tmp_path)
    assert len(str(caught.value)) < 500
