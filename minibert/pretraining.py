"""BERT as it was pre-trained: the encoder with the masked-word head and the next-sentence head.

Source: Devlin et al. 2019, section 3.1 (arXiv:1810.04805), and Google's run_pretraining.py.

Shapes: B sentences, D hidden, V vocabulary. `*` stands for the tokens, as the layout arranges them:
        (B, S) padded, or (N) packed.
"""

import torch
from torch import Tensor, nn

from minibert.config import BertConfig
from minibert.files import InputError
from minibert.formats.hub import BERT_BASE
from minibert.formats.pretrained import Pretrained
from minibert.heads import MaskedWordHead, pool
from minibert.layout import Layout
from minibert.model import Bert, init_weights
from minibert.tokenizer import Tokenizer

# The kind of class of transformers with these heads: the masked-word head, the next-sentence head.
KINDS = {
    (True, True): "ForPreTraining",
    (True, False): "ForMaskedLM",
    (False, True): "ForNextSentencePrediction",
    (False, False): "Model",
}


class BertForPreTraining(Pretrained):
    """The encoder and the heads that it was pre-trained with, as far as a checkpoint has kept them.

    pooler, masked_words, next_sentence: which parts there are. The next-sentence head needs the
    pooler. `from_pretrained` also raises InputError if half of a head is there, or if the decoder's
    weights are not the word embeddings. `save_pretrained` does not write the decoder.
    """

    config_class = BertConfig

    def __init__(
        self,
        config: BertConfig,
        pooler: bool = True,
        masked_words: bool = True,
        next_sentence: bool = True,
    ) -> None:
        super().__init__()
        self.config = config
        self.bert = Bert(config, pooler=pooler or next_sentence)
        self.masked_words = MaskedWordHead(config) if masked_words else None
        self.next_sentence = nn.Linear(config.hidden_size, 2) if next_sentence else None
        if self.next_sentence is not None:
            init_weights(self.next_sentence, config)

    @classmethod
    def build(cls, config: BertConfig, names: set[str]) -> "BertForPreTraining":
        parts = {name.partition(".")[0] for name in names}
        return cls(config, *(part in parts for part in ("pooler", "masked_words", "next_sentence")))

    @classmethod
    def of(cls, bert: Bert, **heads: nn.Module) -> "BertForPreTraining":
        """The model of an encoder and some heads, "masked_words" and "next_sentence": these objects
        themselves, and no copies."""
        with torch.device("meta"):  # no memory, since the encoder is replaced
            whole = cls(bert.config, False, False, False)
        whole.bert = bert
        for name, head in heads.items():
            setattr(whole, name, head)
        return whole

    @property
    def kind(self) -> str:
        return KINDS[self.masked_words is not None, self.next_sentence is not None]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        layout: Layout | None = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """The logits of both heads; None for a head that is not there. Arguments as in `Bert`.

        Returns (*, V), a logit for each word at each token; and (B, 2), of which the first is for a
        second text that follows the first one, the other for one that does not.
        """
        layout = layout or self.bert.layout(input_ids, attention_mask)
        hidden = self.bert(input_ids, token_type_ids=token_type_ids, layout=layout)  # (*, D)
        words = None if self.masked_words is None else self.word_logits(hidden)  # (*, D) -> (*, V)
        if self.next_sentence is None:
            return words, None
        assert self.bert.pooler is not None
        first = self.bert.pooler(pool(hidden, layout, "cls"))  # (*, D) -> (B, D)
        return words, self.next_sentence(first)

    def word_logits(self, hidden: Tensor) -> Tensor:
        """A logit for each word, from last hidden states: (*, D) -> (*, V)."""
        assert self.masked_words is not None
        return self.masked_words(hidden, self.bert.embeddings.word.weight)  # (*, D) -> (*, V)


@torch.inference_mode()
def fill_masks(
    model: BertForPreTraining, tokenizer: Tokenizer, text: str, top: int
) -> list[list[tuple[str, float]]]:
    """The likeliest tokens for each [MASK] of a text and their probabilities, the likeliest first.

    Raises InputError for a text without [MASK] or too long for the model, and for a model without a
    masked-word head.
    """
    if model.masked_words is None:
        raise InputError(
            "this model has no masked-word head: its files hold none. "
            f"Take one that was saved with it: {BERT_BASE}, say"
        )
    if not 1 <= top <= model.config.vocab_size:
        raise InputError(
            f"the top {top} words were asked for, and the model knows {model.config.vocab_size}"
        )
    [tokens] = tokenizer.encode([text], "error")
    mask = tokenizer.special_id("mask")
    masks = [position for position, token in enumerate(tokens.ids) if token == mask]
    if not masks:
        name = tokenizer.special.get("mask", "[MASK]")
        raise InputError(f"nothing to fill: there is no {name} in {text!r:.200}")
    hidden = model.bert(torch.tensor([tokens.ids], device=model.bert.device))  # (1, S, D)
    logits = model.word_logits(hidden[0, masks])  # of the masked positions only
    best = logits.float().softmax(-1).topk(top)
    return [
        [(tokenizer.token(word), probability) for word, probability in zip(*row, strict=True)]
        for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
