"""A file of bert-base-uncased's exact shape, written by tools/make_bert_base, loaded by us and by
transformers.

Evidence: the published file's facts (bytes, tensors, values, names, config's SHA-256), and
transformers' own names and shapes and hidden states. The real weights are tested in test_golden.py,
where they can be had.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import safe_open
from torch.nn.utils.rnn import pad_sequence
from transformers import BertModel

from minibert import Bert, Packed
from minibert.files import sha256
from minibert.pretraining import BertForPreTraining
from tools.make_bert_base import main


@pytest.fixture(scope="session")
def bert_base_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that the tool wrote: 440 MB, once a session, and gone after it."""
    folder = tmp_path_factory.mktemp("bert-base") / "new"
    assert main([str(folder)]) == 0
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]
    yield folder
    shutil.rmtree(folder)


def test_the_published_facts_hold(bert_base_file: Path) -> None:
    """Facts of google-bert/bert-base-uncased at revision
    86b5e0934494bd15c9632b12f734a8a67f723594."""
    file, config = bert_base_file / "model.safetensors", bert_base_file / "config.json"
    assert file.stat().st_size == 440449768
    assert config.stat().st_size == 570
    assert sha256(config) == "7160e1553ad2ca51d8c1cb066be533db31826e12d173824c1bb0cb1a4f187d20"
    with safe_open(file, framework="pt") as tensors:
        assert tensors.metadata() == {"format": "pt"}
        names = set(tensors.keys())
        views = [tensors.get_slice(name) for name in names]
        assert {view.get_dtype() for view in views} == {"F32"}
        assert sum(torch.Size(view.get_shape()).numel() for view in views) == 110_106_428
    assert len(names) == 206
    assert sum(name.startswith("bert.") for name in names) == 199
    assert {name for name in names if not name.startswith("bert.")} == {
        "cls.predictions.bias",
        "cls.predictions.transform.dense.weight",
        "cls.predictions.transform.dense.bias",
        "cls.predictions.transform.LayerNorm.gamma",
        "cls.predictions.transform.LayerNorm.beta",
        "cls.seq_relationship.weight",
        "cls.seq_relationship.bias",
    }


def test_names_and_shapes_are_transformers_own(bert_base_file: Path) -> None:
    """All but the decoder, whose weight is the word embeddings and whose bias is
    `cls.predictions.bias`."""
    config = transformers.BertConfig(**json.loads((bert_base_file / "config.json").read_text()))
    with torch.device("meta"):
        theirs = transformers.BertForPreTraining(config).state_dict()
    expected = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): [*tensor.shape]
        for name, tensor in theirs.items()
        if "predictions.decoder" not in name
    }
    with safe_open(bert_base_file / "model.safetensors", framework="pt") as tensors:
        assert {name: tensors.get_slice(name).get_shape() for name in tensors.keys()} == expected  # noqa: SIM118


def test_it_loads_whole_and_computes_what_transformers_computes(bert_base_file: Path) -> None:
    """Nothing missing, unexpected or of a wrong shape; every hidden state within 1e-5, in both
    layouts."""
    ours, report = Bert.from_folder(bert_base_file)
    assert not {"missing", "unexpected", "wrong shape"} & report.counts.keys()
    filled = [entry for entry in report.entries if entry.status in ("loaded", "renamed")]
    assert len(filled) == sum(entry.name.startswith("bert.") for entry in filled) == 199
    assert {entry.note for entry in filled} == {name for name, _ in ours.named_parameters()}

    theirs = BertModel.from_pretrained(bert_base_file).eval()
    sentences = [torch.randint(30522, (length,)) for length in (40, 1, 12)]
    input_ids = pad_sequence(sentences, batch_first=True)
    mask = pad_sequence([torch.ones_like(ids) for ids in sentences], batch_first=True).bool()
    with torch.inference_mode():
        expected = theirs(input_ids, mask.long(), output_hidden_states=True)
        padded = ours.hidden_states(input_ids, mask)
        packed = ours.hidden_states(torch.cat(sentences), layout=Packed([40, 1, 12]))
        assert ours.pooler is not None
        pooled = ours.pooler(padded[-1][:, 0])
    assert len(padded) == len(packed) == len(expected.hidden_states) == 13
    for one, other, x in zip(padded, packed, expected.hidden_states, strict=True):
        torch.testing.assert_close(one[mask], x[mask], rtol=0, atol=1e-5)
        torch.testing.assert_close(other, x[mask], rtol=0, atol=1e-5)
    torch.testing.assert_close(pooled, expected.pooler_output, rtol=0, atol=1e-5)


def test_all_206_tensors_are_used_and_give_the_scores_of_transformers(bert_base_file: Path) -> None:
    """None is ignored. Both heads' scores within 1e-5, for a pair of 12 and 11 tokens."""
    ours, report = BertForPreTraining.from_folder(bert_base_file)
    assert report.counts == {"renamed": 201, "loaded": 5}
    assert {entry.note for entry in report.entries} == {
        name.removeprefix("bert.") for name, _ in ours.named_parameters()
    }
    theirs = transformers.BertForPreTraining.from_pretrained(bert_base_file).eval()
    input_ids, types = torch.randint(30522, (1, 23)), torch.tensor([[0] * 12 + [1] * 11])
    with torch.inference_mode():
        words, follows = ours(input_ids, None, types)
        expected = theirs(input_ids, token_type_ids=types)
    assert words is not None
    assert follows is not None
    torch.testing.assert_close(words, expected.prediction_logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(follows, expected.seq_relationship_logits, rtol=0, atol=1e-5)


def test_a_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main([str(tmp_path / "file" / "folder")]) == 2
    assert capsys.readouterr().err.startswith("error: cannot write")
