"""BERT's relatives against transformers: RoBERTa, XLM-R, DistilBERT and ELECTRA.

Evidence: random models that one side saves and the other opens; tokenizers that transformers'
own classes saved; its pipeline for masked words; and sentence-transformers, on folders that we
saved. Bounds are those of test_transformers.py.
"""

import copy
import json
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from sentence_transformers import SentenceTransformer
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import UnigramTrainer
from transformers import (
    AutoTokenizer,
    DistilBertTokenizer,
    PreTrainedTokenizerBase,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

from minibert import (
    Bert,
    BertConfig,
    BertForPreTraining,
    InputError,
    SentenceEncoder,
    from_transformers,
    to_transformers,
)
from minibert.formats.checkpoint import HeadWarning
from minibert.formats.config import read_config
from minibert.formats.families import FAMILIES
from minibert.formats.tokenizer import ROLES, readable
from minibert.pretraining import fill_masks
from minibert.tokenizer import Tokenizer
from tests.parity.test_tokenizer import HARD
from tests.parity.test_transformers import BOUND, plain, sped_up
from tests.test_tokenizer import UNCASED
from tests.training import World, differing, make_world, trained
from tools.parity import (
    masked_word_differences,
    random_batch,
    random_config,
    random_model_differences,
    shake,
    worst,
)
from train.model import JointModel
from train.run import train
from train.saved import open_run
from train.tasks.masked_words import MaskedWords
from train.tasks.masks import Masks

pytestmark = pytest.mark.usefixtures("one_thread")

RELATIVES = ["roberta", "xlm-roberta", "distilbert", "electra"]


@pytest.mark.parametrize("variant", [plain, sped_up])
@pytest.mark.parametrize("number", range(30))
@pytest.mark.parametrize("model_type", RELATIVES)
def test_random_configs(
    model_type: str, number: int, variant: Callable[[Bert], Bert], tmp_path: Path
) -> None:
    """Hidden states and pooler within 1e-5, and the gradient of every parameter, in both
    layouts."""
    assert worst(random_model_differences(number, tmp_path, variant, model_type)) <= BOUND


@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize("model_type", ["roberta", "xlm-roberta", "distilbert"])
def test_masked_words(model_type: str, number: int, tmp_path: Path) -> None:
    assert masked_word_differences(number, tmp_path, model_type) <= BOUND


# Tokenizers, which transformers' own classes make and save


TEXTS = [
    "The cat sat on the mat, and the dog sat by the door.",
    "Québec naïve façade, words of many letters and some numbers: 1 22 333.",
    "日本語のテキスト and 北京大学 in one text",
    "don't stop — “quotes” and emails@example.org, #tags",
] * 5


def roberta_tokenizer(folder: Path, **options: Any) -> PreTrainedTokenizerBase:
    """Byte-level BPE."""
    backend = tokenizers.ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    backend.train_from_iterator(TEXTS, vocab_size=400, special_tokens=special, show_progress=False)
    content = json.loads(backend.to_str())["model"]
    theirs = RobertaTokenizer(
        vocab=content["vocab"], merges=[tuple(pair) for pair in content["merges"]], **options
    )
    theirs.save_pretrained(folder)
    return theirs


def xlm_roberta_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """SentencePiece's Unigram."""
    backend = tokenizers.Tokenizer(Unigram())
    backend.pre_tokenizer = Metaspace()
    trainer = UnigramTrainer(
        vocab_size=200,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    vocab = [(token, score) for token, score in json.loads(backend.to_str())["model"]["vocab"]]
    theirs = XLMRobertaTokenizer(vocab=[*vocab, ("<mask>", 0.0)])
    theirs.save_pretrained(folder)
    return theirs


def distilbert_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    theirs = DistilBertTokenizer(vocab={token: i for i, token in enumerate(UNCASED)})
    theirs.save_pretrained(folder)
    return theirs


TOKENIZERS: dict[str, Callable[[Path], PreTrainedTokenizerBase]] = {
    "roberta": roberta_tokenizer,
    "xlm-roberta": xlm_roberta_tokenizer,
    "distilbert": distilbert_tokenizer,
}
MASKS = [text.replace("[MASK]", "<mask>") for text in HARD]


@pytest.mark.parametrize("model_type", TOKENIZERS)
def test_ids_of_hard_texts(model_type: str, tmp_path: Path) -> None:
    """Alone, in pairs, cut to a limit; and again from what we save."""
    theirs = TOKENIZERS[model_type](tmp_path)
    for ours in (Tokenizer.from_folder(tmp_path), saved_again(tmp_path, theirs)):
        assert [tokens.ids for tokens in ours.encode(MASKS)] == theirs(MASKS)["input_ids"]
        pairs = list(zip(MASKS, MASKS[::-1], strict=True))
        options: dict[str, Any] = {"truncation": "longest_first", "max_length": 12}
        expected = theirs(MASKS, MASKS[::-1], **options)["input_ids"]
        found = Tokenizer(ours.backend, 12).encode_pairs(pairs, "silent")
        assert [tokens.ids for tokens in found] == expected
        if model_type != "distilbert":
            assert not any(any(tokens.type_ids) for tokens in found)


def saved_again(folder: Path, theirs: PreTrainedTokenizerBase) -> Tokenizer:
    """The tokenizer after we have saved it; transformers reads that as it was."""
    Tokenizer.from_folder(folder).save(folder / "again", token_types=False)
    again = AutoTokenizer.from_pretrained(folder / "again")
    assert again(MASKS)["input_ids"] == theirs(MASKS)["input_ids"]
    assert set(again(["a"])) == {"input_ids", "attention_mask"}
    for role in ROLES:
        assert getattr(again, f"{role}_token") == getattr(theirs, f"{role}_token")
        assert getattr(again, f"{role}_token_id") == getattr(theirs, f"{role}_token_id")
    assert again(["a", "a b c"], padding=True) == theirs(["a", "a b c"], padding=True)
    return Tokenizer.from_folder(folder / "again")


@pytest.mark.parametrize("model_type", TOKENIZERS)
def test_special_tokens_are_known_by_their_roles(model_type: str, tmp_path: Path) -> None:
    theirs = TOKENIZERS[model_type](tmp_path)
    ours = Tokenizer.from_folder(tmp_path)
    assert ours.special == {role: getattr(theirs, f"{role}_token") for role in ROLES}
    assert ours.special_id("mask") == theirs.mask_token_id
    assert ours.limited(5).special == ours.special
    ours.save(tmp_path / "again")
    assert (tmp_path / "again/vocab.txt").exists() == (model_type == "distilbert")


def test_words_that_are_split_already_have_their_space(tmp_path: Path) -> None:
    theirs = roberta_tokenizer(tmp_path, add_prefix_space=True)
    roberta_tokenizer(tmp_path)  # without
    ours, words = Tokenizer.from_folder(tmp_path), [text.split() for text in TEXTS[:4]]
    expected = theirs(words, is_split_into_words=True)
    found = ours.encode_words(words)
    assert [tokens.ids for tokens in found] == expected["input_ids"]
    assert [tokens.words for tokens in found] == [expected.word_ids(i) for i in range(4)]
    windows = [one for (one,) in ours.encode_windows(words, 0, "words")]
    assert [tokens.ids for tokens in windows] == expected["input_ids"]


# Whole models


def sizes(tokenizer: Tokenizer, model_type: str) -> BertConfig:
    return BertConfig(
        **{
            "vocab_size": tokenizer.vocab_size,
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "intermediate_size": 40,
            "max_position_embeddings": 60,
            "type_vocab_size": 1 if "roberta" in model_type else 2,
            "pad_token_id": tokenizer.special_id("pad"),
            "model_type": model_type,
            "embedding_size": 16,
        }
        | dict(FAMILIES[model_type].fixed)
    )


@pytest.mark.parametrize("model_type", TOKENIZERS)
def test_masked_words_are_what_transformers_pipeline_finds(model_type: str, tmp_path: Path) -> None:
    theirs = TOKENIZERS[model_type](tmp_path)
    ours = Tokenizer.from_folder(tmp_path)
    model = shake(BertForPreTraining(sizes(ours, model_type), False, next_sentence=False), 0.5)
    model.eval().save_pretrained(tmp_path)
    ours.save(tmp_path, token_types=False)
    pipeline = transformers.pipeline("fill-mask", model=str(tmp_path), device="cpu")
    text = f"a {theirs.mask_token} sat, and{theirs.mask_token} by"
    found = fill_masks(BertForPreTraining.from_pretrained(tmp_path), ours, text, top=4)
    for mine, others in zip(found, pipeline(text, top_k=4), strict=True):
        ids = [ours.backend.token_to_id(token) for token, _ in mine]
        assert ids == [other["token"] for other in others]
        for (token, _), other in zip(mine, others, strict=True):
            part_of_a_character = "\ufffd" in other["token_str"]
            shown = token if part_of_a_character else other["token_str"].strip() or token
            assert readable(token, ours.backend) == shown
        scores = [other["score"] for other in others]
        assert [probability for _, probability in mine] == pytest.approx(scores, abs=1e-5)
    with pytest.raises(InputError, match=re.escape(f"there is no {theirs.mask_token} in 'none'")):
        fill_masks(model, ours, "none", top=4)


@pytest.mark.parametrize("model_type", [*TOKENIZERS, "bert"])
def test_sentence_transformers_opens_what_we_save(model_type: str, tmp_path: Path) -> None:
    """Equal vectors of hard texts, which theirs pads and ours does not. The multilingual MiniLMs
    are BERTs with XLM-R's tokenizer."""
    TOKENIZERS.get(model_type, xlm_roberta_tokenizer)(tmp_path)
    tokenizer = Tokenizer.from_folder(tmp_path)
    bert = shake(Bert(sizes(tokenizer, model_type), pooler=model_type != "distilbert"), 0.3).eval()
    encoder = SentenceEncoder(bert, tokenizer, normalize=True)
    encoder.save_pretrained(tmp_path / "saved")
    theirs = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    texts = [text for text in MASKS if "[PAD]" not in text]
    expected = theirs.encode(texts)
    for ours in (encoder, SentenceEncoder.from_pretrained(tmp_path / "saved")):
        assert np.abs(ours.encode(texts, truncation="silent") - expected).max() <= 1e-6
    bridge = encoder.to_sentence_transformers()
    assert np.abs(bridge.encode(texts) - expected).max() <= 1e-6
    for role in ROLES:
        name = f"{role}_token"
        assert getattr(bridge.tokenizer, name) == getattr(theirs.tokenizer, name)
    found = bridge.tokenizer([f"a {text}" for text in texts], truncation=True)
    assert dict(found) == dict(theirs.tokenizer([f"a {text}" for text in texts], truncation=True))
    bridge.save_pretrained(str(tmp_path / "bridge"))
    for file in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        saved = [(tmp_path / name / file).read_text() for name in ("saved", "bridge")]
        assert saved[0] == saved[1]


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_defaults_of_transformers_are_read(model_type: str, tmp_path: Path) -> None:
    """With every key written, and not only those that differ from the defaults."""
    theirs = transformers.AutoConfig.for_model(model_type)
    theirs.to_json_file(tmp_path / "config.json", use_diff=False)
    ours = read_config(tmp_path / "config.json", BertConfig)
    assert {key: getattr(theirs, key, value) for key, value in ours.to_dict().items()} == (
        ours.to_dict()
    )


@pytest.mark.parametrize("model_type", RELATIVES)
def test_theirs_to_ours(model_type: str, tmp_path: Path) -> None:
    """A model that transformers made and saved, in any of its spellings; and tensors in memory,
    both ways."""
    kind = {"roberta": "Roberta", "xlm-roberta": "XLMRoberta", "distilbert": "DistilBert"}
    name = kind.get(model_type, "Electra")
    config = getattr(transformers, f"{name}Config")(
        **random_config(3, model_type).to_dict(), attn_implementation="eager"
    )
    theirs = shake(getattr(transformers, f"{name}Model")(config), 0.1).eval()
    theirs.save_pretrained(tmp_path / "alone")
    head = getattr(transformers, f"{name}ForTokenClassification")(config)
    head.base_model.load_state_dict(theirs.state_dict(), strict=False)  # it has no pooler
    head.save_pretrained(tmp_path / "head")
    ours = Bert.from_pretrained(tmp_path / "alone")
    with pytest.warns(HeadWarning, match=rf"the head classifier\.\* \({name}ForToken"):
        beside = Bert.from_pretrained(tmp_path / "head")
    assert ours.config == random_config(3, model_type)
    batch = random_batch([9, 4, 1], ours.config)
    with torch.no_grad():
        expected = theirs(batch.input_ids, batch.mask.long()).last_hidden_state[batch.mask]
        for bert in (ours, beside):
            found = bert(batch.input_ids, batch.mask)[batch.mask]
            assert (found - expected).abs().max() <= BOUND

    blank = Bert(ours.config, pooler=ours.pooler is not None)
    blank.load_state_dict(from_transformers(theirs.state_dict(), ours.config))
    again = to_transformers(blank.state_dict(), ours.config)
    assert again.keys() == theirs.state_dict().keys()
    assert all(torch.equal(again[key], value) for key, value in theirs.state_dict().items())
    with pytest.raises(InputError, match=f"classifier.* is no parameter of a {model_type}"):
        from_transformers(head.state_dict(), ours.config)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert"])
def test_state_dicts_of_models_with_heads(model_type: str, tmp_path: Path) -> None:
    config = random_config(2, model_type)
    ours = shake(BertForPreTraining(config, pooler=False, next_sentence=False), 0.1)
    ours.save_pretrained(tmp_path)
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path)
    state = to_transformers(ours.state_dict(), config)
    assert state.keys() == theirs.state_dict().keys()  # with the decoder
    assert all(torch.equal(state[key], value) for key, value in theirs.state_dict().items())
    back = from_transformers(theirs.state_dict(), config)
    assert back.keys() == ours.state_dict().keys()
    ours.load_state_dict(back)


# Training


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def write_relative(folder: Path, model_type: str, world: World, **changes: Any) -> Path:
    """A model to train from, with the tokenizer of its family."""
    if "roberta" in model_type:
        TOKENIZERS[model_type](folder)
    else:
        folder.mkdir()
        (folder / "vocab.txt").write_bytes((world.model / "vocab.txt").read_bytes())
    config = replace(sizes(Tokenizer.from_folder(folder), model_type), **changes)
    shake(Bert(config, pooler=False), 0.02).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("model_type", RELATIVES)
def test_a_run_and_its_head_of_tokens(model_type: str, tmp_path: Path, world: World) -> None:
    """transformers' class for the family opens it, and we open that again."""
    model = write_relative(tmp_path / "model", model_type, world)
    train(world.settings(model=str(model), epochs=1, seed=1), tmp_path / "run")
    theirs, problems = transformers.AutoModelForTokenClassification.from_pretrained(
        tmp_path / "run/transformers/slots", output_loading_info=True
    )
    assert not any(problems.values()), problems
    assert theirs.config.model_type == model_type
    ids = torch.arange(6, 14).unsqueeze(0)
    with torch.no_grad():
        expected = theirs.eval()(ids).logits
        for folder, name in (("run", "slots"), ("run/transformers/slots", "tags")):
            run = open_run(str(tmp_path / folder))
            found = run.model.heads[name](run.model.bert(ids))
            torch.testing.assert_close(found, expected, rtol=0, atol=BOUND)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run/transformers/slots")
    assert ("token_type_ids" in tokenizer(["a"])) == (model_type == "electra")


def test_the_cache_holds_states_that_are_wider_than_the_embeddings(
    tmp_path: Path, world: World
) -> None:
    """ELECTRA's: the run is the same bit for bit as without a cache."""
    model = write_relative(tmp_path / "model", "electra", world)
    for name, cache in (("cached", True), ("computed", False)):
        settings = world.settings(model=str(model), freeze="embeddings, layers.0", cache=cache)
        train(settings, tmp_path / name)
    first, second = (trained(tmp_path / name) for name in ("cached", "computed"))
    assert not differing(first, second)


@pytest.mark.parametrize("model_type", ["roberta", "distilbert"])
def test_masked_words_learn_from_text(model_type: str, tmp_path: Path, world: World) -> None:
    model = write_relative(tmp_path / "model", model_type, world)
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join("play a song in new york please" for _ in range(40)))
    settings = world.settings(model=str(model), epochs=1, text=(str(text),), objectives="masked")
    train(replace(settings, data=()), tmp_path / "run")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run/model")
    pipeline = transformers.pipeline("fill-mask", model=str(tmp_path / "run/model"), device="cpu")
    sentence = f"play a {tokenizer.mask_token} in"
    [found] = fill_masks(
        BertForPreTraining.from_pretrained(tmp_path / "run/model"),
        Tokenizer.from_folder(tmp_path / "run/model"),
        sentence,
        top=3,
    )
    scores = [other["score"] for other in pipeline(sentence, top_k=3)]
    assert [probability for _, probability in found] == pytest.approx(scores, abs=1e-5)


def test_electra_has_no_masked_words(tmp_path: Path, world: World) -> None:
    bert = Bert.from_pretrained(write_relative(tmp_path / "model", "electra", world))
    task = MaskedWords("masked", Masks(0.15, 0.8, 0.1, False, 4, 20, 0))
    with pytest.raises(InputError, match="masked trains a head that no electra has"):
        JointModel(bert, [task])


@pytest.mark.filterwarnings("ignore::minibert.tokens.TruncationWarning")
@pytest.mark.parametrize("model_type", ["xlm-roberta", "distilbert"])
def test_pairs_need_no_types(model_type: str, tmp_path: Path, world: World) -> None:
    model = write_relative(tmp_path / "model", model_type, world)
    settings = world.settings(world.pairs, model=str(model), epochs=1, pairs="together")
    train(settings, tmp_path / "run")
    assert (tmp_path / "run/metrics.json").exists()


def test_types_that_the_model_lacks_are_named(tmp_path: Path, world: World) -> None:
    """RoBERTa has one type, and a tokenizer.json of BERT gives the second text another."""
    model = write_relative(tmp_path / "model", "roberta", world)
    backend = Tokenizer.from_folder(model).backend
    backend.post_processor = TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B:1 </s>:1",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    backend.save(str(model / "tokenizer.json"))
    settings = world.settings(world.pairs, model=str(model), pairs="together")
    with pytest.raises(InputError, match="token type 1, and the model has 1: its tokenizer"):
        train(settings, tmp_path / "run")


def test_padding_before_a_text_is_refused_where_positions_would_differ() -> None:
    """transformers counts the positions of a RoBERTa over what is no padding."""
    mask = torch.tensor([[1, 1, 1], [0, 1, 1]])
    ids = torch.full((2, 3), 5)
    for model_type in ("bert", "distilbert", "electra"):
        Bert(random_config(0, model_type), pooler=False)(ids, mask)
    for model_type in ("roberta", "xlm-roberta"):
        bert = Bert(random_config(0, model_type), pooler=False)
        bert(ids, mask.flip(1))
        with pytest.raises(ValueError, match="padding must follow the text"):
            bert(ids, mask)


# Objects


@pytest.mark.parametrize("model_type", ["bert", *RELATIVES])
def test_copies_and_what_people_ask_of_a_model(model_type: str) -> None:
    config = random_config(4, model_type)
    bert = Bert(config, FAMILIES[model_type].has("pooler")).eval()
    ids = random_batch([7], config).input_ids
    for copied in (copy.deepcopy(bert), pickle.loads(pickle.dumps(bert))):
        assert torch.equal(copied(ids), bert(ids))
        assert copied.config == config
    assert not any(".project." in name and model_type != "electra" for name in bert.state_dict())
    theirs = transformers.AutoModel.from_config(
        transformers.AutoConfig.for_model(**config.to_dict())
    )
    assert bert.num_parameters() == theirs.num_parameters()
    assert bert.get_input_embeddings().weight.shape == theirs.get_input_embeddings().weight.shape
    assert (bert.device, bert.dtype) == (theirs.device, theirs.dtype)
    assert theirs.config.to_dict().items() >= config.to_dict().items()


def test_weights_in_a_dtype_by_its_name(tmp_path: Path) -> None:
    Bert(random_config(1)).save_pretrained(tmp_path)
    assert Bert.from_pretrained(tmp_path, dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(InputError, match="dtype 'int8' is not one of"):
        Bert.from_pretrained(tmp_path, dtype="int8")


@pytest.mark.parametrize("part", ["pooler", "masked_words"])
def test_a_part_that_no_model_of_the_family_has_is_not_saved(part: str, tmp_path: Path) -> None:
    config = random_config(5, "electra")
    parts = {"pooler": False, "masked_words": False, "next_sentence": False, part: True}
    with pytest.raises(InputError, match=f"files of Electra models have no name for .*{part}"):
        BertForPreTraining(config, **parts).save_pretrained(tmp_path)
