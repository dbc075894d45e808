"""The pre-training heads against transformers, and checkpoints of all its BERT classes, in both
directions.

Evidence: tiny models with random weights, which one side saves and the other opens. Tensors are
compared bit for bit, logits and gradients within float32's rounding, words with transformers' own
pipeline.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minibert import Bert, BertConfig, BertForPreTraining, InputError, Packed
from minibert.formats.names import checkpoint_name
from minibert.pretraining import KINDS, fill_masks
from minibert.tokenizer import Tokenizer
from tests.test_tokenizer import UNCASED, write_vocabulary
from tools.parity import shake

pytestmark = pytest.mark.usefixtures("one_thread")

ARCHITECTURES = {heads: f"Bert{kind}" for heads, kind in KINDS.items()}
CLASSES = [*ARCHITECTURES.values(), "BertForSequenceClassification", "BertForTokenClassification"]
WORDS, NEXT = "prediction_logits", "seq_relationship_logits"
BOUND = 1e-5


def config(**changes: Any) -> BertConfig:
    sizes = {"vocab_size": 60, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
    return BertConfig(
        **{**sizes, "intermediate_size": 40, "max_position_embeddings": 20, **changes}
    )


def made_by_transformers(
    name: str, folder: Path, dtype: torch.dtype = torch.float32, **options: Any
) -> nn.Module:
    """Save a random model of a class. It is returned in float32, with its values as stored."""
    model = getattr(transformers, name)(transformers.BertConfig(**vars(config()))).eval()
    shake(model, 0.1).to(dtype).save_pretrained(folder, **options)
    return model.float()


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and token types of three sentences of 11, 7 and 1 tokens."""
    ids = torch.randint(1, 60, (3, 11))
    return (
        ids,
        (torch.arange(11) < torch.tensor([[11], [7], [1]])).long(),
        torch.randint(2, (3, 11)),
    )


def expected(theirs: nn.Module, ids: Tensor, mask: Tensor, types: Tensor) -> dict[str, Tensor]:
    """The logits of transformers' heads, by the names that its BertForPreTraining gives them."""
    output = theirs(ids, attention_mask=mask, token_type_ids=types)
    names = {"BertForMaskedLM": WORDS, "BertForNextSentencePrediction": NEXT}
    name = names.get(type(theirs).__name__)
    return (
        {name: output.logits}
        if name
        else {key: output[key] for key in (WORDS, NEXT) if key in output}
    )


def assert_same_logits(ours: BertForPreTraining, theirs: nn.Module) -> None:
    """In both layouts, of the heads that there are; and both sides have the same heads."""
    ids, mask, types = inputs()
    real = mask.bool()
    wanted = expected(theirs, ids, mask, types)
    padded = ours(ids, mask, types)
    packed = ours(ids[real], token_type_ids=types[real], layout=Packed([11, 7, 1]))
    for logits, name in zip(padded, (WORDS, NEXT), strict=True):
        assert (logits is None) == (name not in wanted)
    if WORDS in wanted:
        torch.testing.assert_close(padded[0][real], wanted[WORDS][real], rtol=0, atol=BOUND)
        torch.testing.assert_close(packed[0], wanted[WORDS][real], rtol=0, atol=BOUND)
    if NEXT in wanted:
        torch.testing.assert_close(padded[1], wanted[NEXT], rtol=0, atol=BOUND)
        torch.testing.assert_close(packed[1], wanted[NEXT], rtol=0, atol=BOUND)


# What transformers saves


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CLASSES)
def test_what_transformers_saves_is_opened(
    name: str, dtype: torch.dtype, sharded: bool, tmp_path: Path
) -> None:
    options = {"max_shard_size": "8KB"} if sharded else {}
    theirs = made_by_transformers(name, tmp_path, dtype, **options)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1 or sharded
    ids, mask, types = inputs()
    encoder, report = Bert.from_folder(tmp_path)
    hidden = getattr(theirs, "bert", theirs)(ids, mask, types).last_hidden_state
    torch.testing.assert_close(
        encoder(ids, mask, types)[mask.bool()], hidden[mask.bool()], rtol=0, atol=BOUND
    )
    assert (encoder.pooler is None) == (getattr(theirs, "bert", theirs).pooler is None)
    heads = [entry.name for entry in report.entries if entry.status == "ignored"]
    assert all(head.startswith(("cls.", "classifier.")) for head in heads)
    assert bool(heads) == (name != "BertModel")
    assert all(
        entry.note == "no part of the encoder: a head, as a rule"
        for entry in report.entries
        if entry.status == "ignored"
    )

    whole, report = BertForPreTraining.from_folder(tmp_path)
    assert_same_logits(whole, theirs)
    assert {e.name for e in report.entries if e.status == "ignored"} == {
        h for h in heads if h.startswith("classifier")
    }
    stored = dict(theirs.named_parameters())
    for key, parameter in whole.named_parameters():
        theirs_name = checkpoint_name(key)
        assert torch.equal(
            parameter, stored[theirs_name if hasattr(theirs, "bert") else theirs_name[5:]]
        )


# What we save


@pytest.mark.parametrize("heads", ARCHITECTURES)
def test_ours_to_theirs_to_ours(heads: tuple[bool, bool], tmp_path: Path) -> None:
    """transformers' class for these heads finds all its tensors and no others, and saves the
    same."""
    ours = BertForPreTraining(
        config(), pooler=not heads[0], masked_words=heads[0], next_sentence=heads[1]
    )
    shake(ours, 0.1).eval().save_pretrained(tmp_path / "ours")
    auto = transformers.AutoConfig.from_pretrained(tmp_path / "ours").architectures
    assert auto == [ARCHITECTURES[heads]]
    kind = getattr(transformers, ARCHITECTURES[heads])
    theirs, problems = kind.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(problems.values()), problems
    assert_same_logits(ours, theirs.eval())
    theirs.save_pretrained(tmp_path / "theirs")
    again = BertForPreTraining.from_pretrained(tmp_path / "theirs")
    again.save_pretrained(tmp_path / "again")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (tmp_path / "ours/config.json").read_bytes() == (
        tmp_path / "again/config.json"
    ).read_bytes()
    for one, other in zip(ours(*inputs_of_one_seed()), again(*inputs_of_one_seed()), strict=True):
        assert one is other is None or torch.equal(one, other)


def inputs_of_one_seed() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return inputs()


# The decoder and its bias


def test_the_decoder_is_the_word_embeddings(tmp_path: Path) -> None:
    """The gradients are those of transformers' tied model. The table's is the sum over its two
    uses."""
    theirs = made_by_transformers("BertForPreTraining", tmp_path)
    ours = BertForPreTraining.from_pretrained(tmp_path)
    ids, mask, types = inputs()
    weights, more = torch.randn(3, 11, 60) * mask.unsqueeze(-1), torch.randn(3, 2)
    words, follows = ours(ids, mask, types)
    (words * weights).sum().add((follows * more).sum()).backward()
    wanted = expected(theirs, ids, mask, types)
    (wanted[WORDS] * weights).sum().add((wanted[NEXT] * more).sum()).backward()
    found = {checkpoint_name(name): parameter.grad for name, parameter in ours.named_parameters()}
    stored = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    assert found.keys() == stored.keys()  # no second table and no second bias
    for name, gradient in stored.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4)


def test_the_bias_is_applied_once() -> None:
    model = BertForPreTraining(config()).eval()
    ids, mask, types = inputs()
    before = model(ids, mask, types)[0]
    with torch.no_grad():
        model.masked_words.bias[7] += 1
    difference = model(ids, mask, types)[0] - before
    torch.testing.assert_close(difference[..., 7], torch.ones(3, 11), rtol=0, atol=1e-5)
    difference[..., 7] = 0
    assert not difference.any()


@pytest.mark.parametrize("spelling", ["", "bert."])
def test_a_decoder_in_the_file_is_held_against_what_it_is_tied_to(
    spelling: str, tmp_path: Path
) -> None:
    """As in checkpoints that were once pickles. The encoder's names sort after the decoder's, or
    before."""
    made_by_transformers("BertForMaskedLM", tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = {name.replace("bert.", spelling): tensor for name, tensor in load_file(file).items()}
    words, bias = (
        tensors[name]
        for name in (f"{spelling}embeddings.word_embeddings.weight", "cls.predictions.bias")
    )
    decoder = {
        "cls.predictions.decoder.weight": words.clone(),
        "cls.predictions.decoder.bias": bias.clone(),
    }
    save_file(tensors | decoder, file)
    _, report = BertForPreTraining.from_folder(tmp_path, torch.bfloat16)
    tied = {entry.name: entry.note for entry in report.entries if entry.status == "tied"}
    assert tied == {
        "cls.predictions.decoder.weight": "equal to embeddings.word.weight",
        "cls.predictions.decoder.bias": "equal to masked_words.bias",
    }
    for name, tensor in decoder.items():
        tensor[0] += 1
        save_file(tensors | decoder, file)
        with pytest.raises(
            InputError, match=rf"unexpected: {name} .*tied to .* but its values are others"
        ):
            BertForPreTraining.from_folder(tmp_path)
        tensor[0] -= 1
    Bert.from_folder(tmp_path)  # the encoder alone does not need the decoder


def test_a_decoder_alone_fills_what_it_is_tied_to(tmp_path: Path) -> None:
    """A checkpoint that was tied the other way round: transformers opens it too."""
    theirs = made_by_transformers("BertForMaskedLM", tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors["cls.predictions.decoder.weight"] = tensors.pop(
        "bert.embeddings.word_embeddings.weight"
    )
    tensors["cls.predictions.decoder.bias"] = tensors.pop("cls.predictions.bias")
    save_file(tensors, file, {"format": "pt"})
    model = BertForPreTraining.from_pretrained(tmp_path)
    words = model.bert.embeddings.word.weight
    assert words.equal(theirs.bert.embeddings.word_embeddings.weight)
    assert model.get_parameter("masked_words.bias").equal(theirs.cls.predictions.bias)
    assert Bert.from_pretrained(tmp_path).embeddings.word.weight.equal(words)
    again = transformers.BertForMaskedLM.from_pretrained(tmp_path)
    assert words.equal(again.bert.embeddings.word_embeddings.weight)


def test_a_decoder_of_its_own_is_refused(tmp_path: Path) -> None:
    """What transformers saves where config.json asks for an untied one."""
    untied = transformers.BertConfig(**vars(config()), tie_word_embeddings=False)
    transformers.BertForMaskedLM(untied).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"unexpected: cls.predictions.decoder.weight \[60, 24\]"):
        BertForPreTraining.from_pretrained(tmp_path)
    Bert.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("BertForMaskedLM", "cls.predictions.bias"),
        ("BertForMaskedLM", "cls.predictions.transform.dense.weight"),
        ("BertForPreTraining", "cls.seq_relationship.bias"),
        ("BertForPreTraining", "cls.predictions.transform.LayerNorm.weight"),
        ("BertForNextSentencePrediction", "pooler.dense.weight"),
    ],
)
def test_half_a_head_is_refused(name: str, lost: str, tmp_path: Path) -> None:
    made_by_transformers(name, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(
        {key: tensor for key, tensor in tensors.items() if not key.endswith(lost)},
        tmp_path / "model.safetensors",
    )
    with pytest.raises(InputError, match=f"missing: {lost}"):
        BertForPreTraining.from_folder(tmp_path)


# Words


def test_fill_masks_finds_what_transformers_pipeline_finds(tmp_path: Path) -> None:
    """One mask and three, words and probabilities.

    Both sides compute in float64. In float32 transformers' own rounding reaches 1.2e-6 here.
    """
    write_vocabulary(tmp_path, UNCASED)
    model = BertForPreTraining(
        config(vocab_size=len(UNCASED)), next_sentence=False, pooler=False
    ).eval()
    shake(model, 0.5).save_pretrained(tmp_path)
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path).double()
    model.double()
    tokenizer = transformers.BertTokenizer.from_pretrained(tmp_path)
    pipeline = transformers.pipeline("fill-mask", model=theirs, tokenizer=tokenizer, device="cpu")
    for text in ("hello [MASK] world", "[MASK] a b [MASK], c[MASK]"):
        found = fill_masks(model, Tokenizer.from_folder(tmp_path), text, top=4)
        wanted = pipeline(text, top_k=4)
        wanted = wanted if isinstance(wanted[0], list) else [wanted]
        assert len(found) == len(wanted) == text.count("[MASK]")
        for ours, others in zip(found, wanted, strict=True):
            ids = [UNCASED.index(word) for word, _ in ours]
            assert ids == [other["token"] for other in others]
            probabilities = [probability for _, probability in ours]
            assert probabilities == pytest.approx([other["score"] for other in others], abs=1e-6)
            assert probabilities == sorted(probabilities, reverse=True)


def test_an_embedding_without_a_token_has_a_name(tmp_path: Path) -> None:
    """Tables are often padded to a round number of rows."""
    write_vocabulary(tmp_path, UNCASED)
    model = BertForPreTraining(config(vocab_size=len(UNCASED) + 2)).eval()
    [words] = fill_masks(model, Tokenizer.from_folder(tmp_path), "[MASK]", top=len(UNCASED) + 2)
    assert {word for word, _ in words} == {
        *UNCASED,
        f"[no token {len(UNCASED)}]",
        f"[no token {len(UNCASED) + 1}]",
    }
    assert sum(probability for _, probability in words) == pytest.approx(1)


def test_the_encoder_alone_is_bert(tmp_path: Path) -> None:
    """An encoder taken out of the whole, saved, is what BertModel opens."""
    ours = shake(BertForPreTraining(config()), 0.1).eval()
    ours.bert.save_pretrained(tmp_path)
    theirs, problems = transformers.BertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(problems.values())
    ids, mask, types = inputs()
    hidden = theirs.eval()(ids, mask, types).last_hidden_state
    torch.testing.assert_close(
        Bert.from_pretrained(tmp_path)(ids, mask, types), hidden, rtol=0, atol=BOUND
    )
