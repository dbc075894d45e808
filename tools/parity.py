"""The same computation by us and by transformers' BertModel, and how far apart they are.

tests/parity and tools.fidelity share it: batches, two models with the same weights, and the
differences between what they compute. Only real positions are compared, since the vectors at padded
ones mean nothing.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from minibert.config import ACTIVATIONS, BertConfig
from minibert.formats.families import FAMILIES
from minibert.formats.names import checkpoint_name
from minibert.heads import pool
from minibert.layout import Packed
from minibert.model import Bert
from minibert.pretraining import BertForPreTraining
from minibert.tokenizer import Tokenizer
from train.load import load_data
from train.settings import Settings

if TYPE_CHECKING:
    from transformers import BertModel


Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Batch:
    """Sentences of token ids, in both layouts."""

    sentences: list[Tensor]
    padding: int = 0  # its id

    @property
    def input_ids(self) -> Tensor:  # (B, S)
        return pad_sequence(self.sentences, batch_first=True, padding_value=self.padding)

    @property
    def mask(self) -> Tensor:  # (B, S)
        return pad_sequence(
            [torch.ones_like(ids) for ids in self.sentences], batch_first=True
        ).bool()

    @property
    def packed_ids(self) -> Tensor:  # (N)
        return torch.cat(self.sentences)

    @property
    def lengths(self) -> list[int]:
        return [len(ids) for ids in self.sentences]


def shake(model: Model, std: float) -> Model:
    """Add noise to every parameter. Fresh biases are all 0, so a forgotten one would not show."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=std)
    return model


def both(bert: Bert, folder: Path, attention: str = "eager") -> tuple[Bert, "BertModel"]:
    """The model, which is saved to a folder, and transformers' model from that folder; both in eval
    mode. So every comparison also tests that others read what we save."""
    from transformers import AutoModel

    bert.save_pretrained(folder)
    opened: Any = AutoModel.from_pretrained(
        folder, attn_implementation=attention, output_loading_info=True
    )
    theirs, problems = opened
    assert not any(problems.values()), problems
    return bert.eval(), theirs.eval()


def our_states(bert: Bert, batch: Batch, packed: bool) -> list[Tensor]:
    """What leaves the embeddings and each layer, (N, D) each."""
    if packed:
        layout = Packed(batch.lengths, batch.packed_ids.device)
        return bert.hidden_states(batch.packed_ids, layout=layout)
    return [x[batch.mask] for x in bert.hidden_states(batch.input_ids, batch.mask)]


def their_states(theirs: "BertModel", batch: Batch) -> list[Tensor]:
    """As `our_states`: (N, D) each."""
    states = theirs(batch.input_ids, batch.mask.long(), output_hidden_states=True).hidden_states
    return [x[batch.mask] for x in states]


def our_attentions(bert: Bert, batch: Batch) -> list[Tensor]:
    """Each layer's attention probabilities of the real queries over all keys, (N, H, S) each."""
    return [
        p.transpose(1, 2)[batch.mask]
        for p in bert.attention_probabilities(batch.input_ids, batch.mask)
    ]


def their_attentions(theirs: "BertModel", batch: Batch) -> list[Tensor]:
    """As `our_attentions`. transformers tells them only with its "eager" attention."""
    attentions = theirs(batch.input_ids, batch.mask.long(), output_attentions=True).attentions
    return [p.transpose(1, 2)[batch.mask] for p in attentions]


def differences(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> list[float]:
    """The largest absolute difference in each pair of tensors."""
    return [(x - y).abs().max().item() for x, y in zip(ours, theirs, strict=True)]


def worst(values: Iterable[float]) -> float:
    """The largest, or NaN if one of them is NaN, which Python's own `max` may miss."""
    return torch.tensor(list(values), dtype=torch.float64).max().item()


def relative_errors(states: Sequence[Tensor], reference: Sequence[Tensor]) -> list[float]:
    """|x - y| / |y| for each tensor x and its reference y, taken as vectors."""
    return [
        ((x.double() - y).norm() / y.norm()).item() for x, y in zip(states, reference, strict=True)
    ]


@torch.inference_mode()
def half_precision_errors(
    folder: Path, batch: Batch, dtype: torch.dtype, packed: bool
) -> tuple[list[float], list[float]]:
    """What half precision costs us, and transformers, after the embeddings and each layer: the
    relative error of a model in `dtype` against ours in float32."""
    from transformers import BertModel

    device = batch.packed_ids.device
    theirs: Any = BertModel.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").eval()
    theirs.to(device)
    reference = our_states(Bert.from_pretrained(folder).to(device), batch, packed)
    found = our_states(Bert.from_pretrained(folder, dtype=dtype).to(device), batch, packed)
    return relative_errors(found, reference), relative_errors(
        their_states(theirs, batch), reference
    )


def newsroom_batch(tokenizer: Tokenizer, count: int) -> Batch:
    """The first sentences of newsroom's test split, which have from 8 to about 60 tokens."""
    examples = load_data(Settings(), lambda _: None)[0].splits["test"][:count]
    return Batch(
        [
            torch.tensor(tokens.ids)
            for tokens in tokenizer.encode([example.text for example in examples])
        ]
    )


def gradients(model: torch.nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """The gradient of every parameter that the loss depends on, by the checkpoint's names."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    if isinstance(model, Bert):
        family = FAMILIES[model.config.model_type]
        names = tuple(checkpoint_name(name, family) for name in names)
    return {
        name: gradient for name, gradient in zip(names, found, strict=True) if gradient is not None
    }


def gradient_differences(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    """For each parameter: the largest difference of its gradients, over the largest gradient in it.

    A key's bias adds the same number to all scores of a query, which changes no softmax. So its
    true gradient is 0, and either side finds rounding only. Its difference is held against the
    largest gradient of the whole model.
    """
    assert ours.keys() == theirs.keys()
    sizes = {name: gradient.abs().max().item() for name, gradient in theirs.items()}
    largest = max(sizes.values())
    return {
        name: (ours[name] - theirs[name]).abs().max().item()
        / (largest if name.endswith(("self.key.bias", "k_lin.bias")) else size)
        for name, size in sizes.items()
    }


def random_config(number: int, model_type: str = "bert") -> BertConfig:
    """The config of a small model of odd sizes. The same number gives the same config."""
    draw, family = random.Random(number), FAMILIES[model_type]
    heads, width = draw.choice([1, 2, 3, 4, 6]), draw.choice([1, 4, 7, 8, 16])
    sizes: dict[str, Any] = {
        "vocab_size": draw.randint(20, 200),
        "hidden_size": max(heads * width, 4),
        "num_hidden_layers": draw.randint(1, 4),
        "num_attention_heads": heads if heads * width >= 4 else 1,
        "intermediate_size": draw.randint(1, 96),
        "max_position_embeddings": draw.randint(12, 40),
        "type_vocab_size": draw.randint(1, 3),
        "hidden_act": list(ACTIVATIONS)[number // 2 % len(ACTIVATIONS)],
        "layer_norm_eps": draw.choice([1e-12, 1e-5, 1e-3]),
        "pad_token_id": draw.choice([0, 0, 3]),
    }
    sizes["embedding_size"] = draw.choice([sizes["hidden_size"], 4, 9])
    return BertConfig(**{**sizes, **family.fixed, "model_type": model_type})


def random_batch(lengths: Sequence[int], config: BertConfig) -> Batch:
    """Sentences of random ids. Padding is none of them where positions are counted from it: there,
    transformers would not count its place."""
    first = config.first_position  # 0, or one more than padding
    sentences = [torch.randint(first, config.vocab_size, (length,)) for length in lengths]
    return Batch(sentences, config.pad_token_id)


def random_model_differences(
    number: int,
    folder: Path,
    change: Callable[[Bert], Bert] = lambda bert: bert,
    model_type: str = "bert",
) -> tuple[float, float]:
    """How far a random model is from transformers' in both layouts: the largest difference of its
    hidden states and pooler's output, and of the gradients of its parameters.

    Odd numbers have sentences of one length and no mask, even ones have padding. Every third has no
    token types. change: turns our model into the one that computes, such as `fast`.
    """
    torch.manual_seed(number)
    config = random_config(number, model_type)
    attention = "sdpa" if number % 5 < 2 else "eager"
    has_pooler = "pooler.dense." in dict(FAMILIES[model_type].names)
    ours, theirs = both(shake(Bert(config, has_pooler), 0.1), folder, attention)
    ours = change(ours)
    longest = config.most_tokens
    lengths = (
        [longest - 1] * 4
        if number % 2
        else [longest, 1, 5, *torch.randint(1, longest, (4,)).tolist()]
    )
    batch = random_batch(lengths, config)
    mask = None if number % 2 else batch.mask
    types = None
    if number % 3 and config.type_vocab_size:
        types = torch.randint_like(batch.input_ids, config.type_vocab_size)

    asked = {"attention_mask": None if mask is None else mask.long(), "token_type_ids": types}
    reference = theirs(
        batch.input_ids,
        **{name: tensor for name, tensor in asked.items() if tensor is not None},
        output_hidden_states=True,
    )
    weights = torch.randn(sum(lengths), config.hidden_size)
    pooler_weights = torch.randn(len(lengths), config.hidden_size)

    def loss(states: Sequence[Tensor], pooled: Tensor | None) -> Tensor:
        own = (states[-1] * weights).sum()
        return own if pooled is None else own + (pooled * pooler_weights).sum()

    expected_states = [x[batch.mask] for x in reference.hidden_states]
    pooled = reference.pooler_output if has_pooler else None
    expected = gradients(theirs, loss(expected_states, pooled))
    assert len(expected) == len(list(ours.parameters()))

    layout, packed_types = Packed(lengths), None if types is None else types[batch.mask]
    packed = ours.hidden_states(batch.packed_ids, token_type_ids=packed_types, layout=layout)
    padded = ours.hidden_states(batch.input_ids, mask, types)
    firsts = (
        pool(packed[-1], layout, "cls"),
        pool(padded[-1], ours.layout(batch.input_ids, mask), "cls"),
    )
    values: list[float] = []
    slopes: list[float] = []
    for states, first in zip((packed, [x[batch.mask] for x in padded]), firsts, strict=True):
        vectors = None if ours.pooler is None else ours.pooler(first)
        assert (vectors is None) == (pooled is None)
        values += differences(states, expected_states)
        if vectors is not None and pooled is not None:
            values += differences([vectors], [pooled])
        slopes += gradient_differences(gradients(ours, loss(states, vectors)), expected).values()
    return worst(values), worst(slopes)


@torch.inference_mode()
def masked_word_differences(number: int, folder: Path, model_type: str) -> float:
    """The largest difference of a random model's masked-word logits from transformers', which opens
    what we saved."""
    from transformers import AutoModelForMaskedLM

    torch.manual_seed(number)
    config = random_config(number, model_type)
    ours = shake(BertForPreTraining(config, pooler=False, next_sentence=False), 0.1).eval()
    ours.save_pretrained(folder)
    opened: Any = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    theirs, problems = opened
    assert not any(problems.values()), problems
    lengths = [config.most_tokens, 1, 5]
    batch = random_batch(lengths, config)
    words, _ = ours(batch.packed_ids, layout=Packed(lengths))
    expected = theirs.eval()(batch.input_ids, batch.mask.long()).logits[batch.mask]
    return worst(differences([words], [expected]))


@torch.inference_mode()
def head_differences(number: int, folder: Path) -> float:
    """The largest difference of a random model's pre-training logits from transformers', which
    opens what we saved."""
    from transformers import BertForPreTraining as Theirs

    torch.manual_seed(number)
    config = random_config(number)
    ours = shake(BertForPreTraining(config), 0.1).eval()
    ours.save_pretrained(folder)
    opened: Any = Theirs.from_pretrained(folder, output_loading_info=True)
    theirs, problems = opened
    assert not any(problems.values()), problems
    lengths = [config.max_position_embeddings, 1, 5]
    batch = Batch([torch.randint(config.vocab_size, (length,)) for length in lengths])
    words, follows = ours(batch.packed_ids, layout=Packed(lengths))
    expected = theirs.eval()(batch.input_ids, batch.mask.long())
    references = [expected.prediction_logits[batch.mask], expected.seq_relationship_logits]
    return worst(differences([words, follows], references))
