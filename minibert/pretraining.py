"""BERT as it was pre-trained: the encoder with the masked-word head and the next-sentence head.

Source: Devlin et al. 2019, section 3.1 (arXiv:1810.04805), and the original's run_pretraining.py.

Shapes: B sentences, D hidden, V vocabulary. `*` stands for the tokens: (B, S) padded, or (N)
packed.
"""

from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from minibert.files import InputError
from minibert.formats.checkpoint import LoadReport, load_model, save_model
from minibert.formats.hub import BERT_BASE, find_model
from minibert.formats.names import checkpoint_name
from minibert.heads import MaskedWordHead
from minibert.layout import Layout, Packed
from minibert.model import Bert, BertConfig, init_weights
from minibert.tokenizer import Tokenizer

# Which class of transformers has just these heads: the masked-word head, the next-sentence head.
ARCHITECTURES = {
    (True, True): "BertForPreTraining",
    (True, False): "BertForMaskedLM",
    (False, True): "BertForNextSentencePrediction",
    (False, False): "BertModel",
}


class BertForPreTraining(nn.Module):
    """The encoder and the heads that it was pre-trained with, or as many of them as a checkpoint
    has kept.

    pooler, masked_words, next_sentence: which parts there are. The next-sentence head stands on the
    pooler.
    """

    def __init__(
        self,
        config: BertConfig,
        pooler: bool = True,
        masked_words: bool = True,
        next_sentence: bool = True,
    ) -> None:
        super().__init__()
        self.bert = Bert(config, pooler=pooler or next_sentence)
        self.masked_words = MaskedWordHead(config) if masked_words else None
        self.next_sentence = nn.Linear(config.hidden_size, 2) if next_sentence else None
        if self.next_sentence is not None:
            init_weights(self.next_sentence, config)

    @classmethod
    def from_pretrained(
        cls,
        name: str | PathLike[str],
        *,
        revision: str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> "BertForPreTraining":
        """The encoder of a checkpoint and the heads that its files have, in eval mode. As
        `Bert.from_pretrained`.

        Raises InputError too if half of a head is there, or if the decoder's weights are not the
        word embeddings.
        """
        return load_pretraining(find_model(name, revision).path, dtype)[0]

    def save_pretrained(self, folder: str | PathLike[str]) -> None:
        """Write config.json and model.safetensors, as the class in `transformers` with these heads
        opens them.

        That is BertForPreTraining, BertForMaskedLM or BertForNextSentencePrediction. The decoder is
        not written: it is the word embeddings. Raises InputError if the disk refuses; files that
        were there before are whole in any case.
        """
        heads = self.masked_words is not None, self.next_sentence is not None
        tensors = {checkpoint_name(name): parameter for name, parameter in self.named_parameters()}
        save_model(ARCHITECTURES[heads], self.bert.config, tensors, Path(folder))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """The scores of both heads; None for one that is not there. Arguments as in `Bert.forward`.

        Returns (*, V), a score for each word at each token; and (B, 2), of which the first is for a
        second text that does follow the first one, the other for one that does not.
        """
        hidden = self.bert(input_ids, attention_mask, token_type_ids)  # (*) -> (*, D)
        words = None if self.masked_words is None else self.word_scores(hidden)  # (*, D) -> (*, V)
        if self.next_sentence is None:
            return words, None
        first = (
            attention_mask.first(hidden) if isinstance(attention_mask, Packed) else hidden[:, 0]
        )  # (*, D) -> (B, D)
        assert self.bert.pooler is not None
        return words, self.next_sentence(self.bert.pooler(first))

    def word_scores(self, hidden: Tensor) -> Tensor:
        """A score for each word, from last hidden states: (*, D) -> (*, V)."""
        assert self.masked_words is not None
        return self.masked_words(hidden, self.bert.embeddings.word.weight)  # (*, D) -> (*, V)


def load_pretraining(
    folder: Path, dtype: torch.dtype = torch.float32
) -> tuple[BertForPreTraining, LoadReport]:
    """The encoder in a model folder with the heads that are there, in eval mode, and the report of
    its tensors.

    Raises InputError as `load_model`.
    """

    def build(config: BertConfig, names: set[str]) -> BertForPreTraining:
        parts = {name.partition(".")[0] for name in names}
        return BertForPreTraining(
            config,
            pooler="pooler" in parts,
            masked_words="masked_words" in parts,
            next_sentence="next_sentence" in parts,
        )

    return load_model(folder, BertConfig, build, dtype)


@torch.inference_mode()
def fill_masks(
    model: BertForPreTraining, tokenizer: Tokenizer, text: str, top: int
) -> list[list[tuple[str, float]]]:
    """The likeliest words for each [MASK] of a text, each with its probability, the likeliest
    first.

    Raises InputError for a text without [MASK] or too long for the model, and for a model without
    masked-word head.
    """
    if model.masked_words is None:
        raise InputError(
            "this model has no masked-word head: its files hold no tensor cls.predictions.bias. Take one that "
            f"was saved with it: {BERT_BASE}, say"
        )
    if not 1 <= top <= model.bert.config.vocab_size:
        raise InputError(
            f"the top {top} words were asked for, and the model knows {model.bert.config.vocab_size}"
        )
    [tokens] = tokenizer.encode([text], "error")
    mask = tokenizer.token_id("[MASK]")
    masks = [position for position, token in enumerate(tokens.ids) if token == mask]
    if not masks:
        raise InputError(f"nothing to fill: there is no [MASK] in {text!r:.200}")
    input_ids = torch.tensor([tokens.ids], device=model.bert.embeddings.word.weight.device)
    hidden = model.bert(input_ids)[0, masks]  # of the masks' places alone
    best = model.word_scores(hidden).float().softmax(-1).topk(top)
    return [
        [(tokenizer.token(word), probability) for word, probability in zip(*row, strict=True)]
        for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
