"""BERT and its relatives that differ by a table: what their files call things.

| model_type          | differs from BERT in                                                       |
| ------------------- | -------------------------------------------------------------------------- |
| roberta             | positions that are counted from the id of padding on (Liu et al. 2019,     |
|                     | arXiv:1907.11692), one token type, and the names of the masked-word head   |
| xlm-roberta         | nothing from RoBERTa (Conneau et al. 2020, arXiv:1911.02116)               |
| distilbert          | no token types, no pooler, other names (Sanh et al. 2019, arXiv:1910.01108)|
| electra             | embeddings that may be narrower than the hidden states, no pooler (Clark   |
|                     | et al. 2020, arXiv:2003.10555). Read is the discriminator's encoder        |
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

# Prefixes of the model's names beside the checkpoint's; {i} stands for a layer's number.
Names = tuple[tuple[str, str], ...]
EMBEDDINGS: Names = (
    ("embeddings.word.", "embeddings.word_embeddings."),
    ("embeddings.position.", "embeddings.position_embeddings."),
    ("embeddings.token_type.", "embeddings.token_type_embeddings."),
    ("embeddings.norm.", "embeddings.LayerNorm."),
)
LAYERS: Names = (
    ("layers.{i}.attention.query.", "encoder.layer.{i}.attention.self.query."),
    ("layers.{i}.attention.key.", "encoder.layer.{i}.attention.self.key."),
    ("layers.{i}.attention.value.", "encoder.layer.{i}.attention.self.value."),
    ("layers.{i}.attention.output.", "encoder.layer.{i}.attention.output.dense."),
    ("layers.{i}.attention_norm.", "encoder.layer.{i}.attention.output.LayerNorm."),
    ("layers.{i}.feed_forward.intermediate.", "encoder.layer.{i}.intermediate.dense."),
    ("layers.{i}.feed_forward.output.", "encoder.layer.{i}.output.dense."),
    ("layers.{i}.feed_forward_norm.", "encoder.layer.{i}.output.LayerNorm."),
)
POOLER: Names = (("pooler.dense.", "pooler.dense."),)


ENCODER = ("embeddings.", "embeddings_project.", "encoder.", "transformer.", "pooler.")
# Kinds of classes whose heads are the same in all families. A head of texts is not: RoBERTa's and
# ELECTRA's have a layer more, and DistilBERT's another activation.
SAME_HEADS = ("ForTokenClassification", "ForQuestionAnswering")
NOT_NARROWER = {"embedding_size": None}


@dataclass(frozen=True)
class Family:
    """What the files of one kind of model call things.

    prefix: before the encoder's names, where a head stands beside it. classes: what the names of
    its classes in transformers begin with. heads: prefixes of its pre-training heads' names. ties:
    names that hold a parameter for the second time. keys: a config's fields that config.json calls
    otherwise. fixed: fields that have one value in all models of the family; a config.json that
    says another is refused. defaults: values of fields that config.json lacks, where they are not
    BERT's. counts_from_padding: whether the first position is the one after the id of padding.
    head_act: the masked-word head's activation, where it is not the config's. has_pair_types:
    whether the second text of a pair has another token type than the first.
    """

    prefix: str
    classes: str
    names: Names
    heads: tuple[str, ...]
    ties: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=lambda: NOT_NARROWER)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    counts_from_padding: bool = False
    head_act: str | None = None
    has_pair_types: bool = True

    def is_of_encoder(self, name: str) -> bool:
        """Whether a tensor's name is the encoder's, or should be."""
        return name.startswith((self.prefix, *ENCODER))

    def has(self, part: str) -> bool:
        """Whether its files can hold a part: "pooler", "masked_words", "next_sentence"."""
        return any(ours.startswith(f"{part}.") for ours, _ in self.names)

    def in_bert(self, architecture: str) -> str:
        """The class of BERT that has the same head as one of the family's classes; the name as it
        is where there is none."""
        task = architecture.removeprefix(self.classes)
        return f"Bert{task}" if task in SAME_HEADS else architecture

    def like_berts(self, architecture: str) -> str | None:
        """The class of the family that has the same head as one of BERT's; None if there is
        none."""
        task = architecture.removeprefix("Bert")
        return f"{self.classes}{task}" if self.classes == "Bert" or task in SAME_HEADS else None


BERT = Family(
    prefix="bert.",
    classes="Bert",
    names=(
        *EMBEDDINGS,
        *LAYERS,
        *POOLER,
        ("masked_words.dense.", "cls.predictions.transform.dense."),
        ("masked_words.norm.", "cls.predictions.transform.LayerNorm."),
        ("masked_words.bias", "cls.predictions.bias"),
        ("next_sentence.", "cls.seq_relationship."),
    ),
    heads=("cls.",),
    # Some checkpoints hold these a second time: the masked-word head's decoder has the word
    # embeddings for its weight, and the head's one bias.
    ties={
        "cls.predictions.decoder.weight": "embeddings.word.weight",
        "cls.predictions.decoder.bias": "masked_words.bias",
    },
)
ROBERTA = Family(
    prefix="roberta.",
    classes="Roberta",
    names=(
        *EMBEDDINGS,
        *LAYERS,
        *POOLER,
        ("masked_words.dense.", "lm_head.dense."),
        ("masked_words.norm.", "lm_head.layer_norm."),
        ("masked_words.bias", "lm_head.bias"),
    ),
    heads=("lm_head.",),
    ties={
        "lm_head.decoder.weight": "embeddings.word.weight",
        "lm_head.decoder.bias": "masked_words.bias",
    },
    defaults={"pad_token_id": 1},
    counts_from_padding=True,
    head_act="gelu",
    has_pair_types=False,
)
DISTILBERT = Family(
    prefix="distilbert.",
    classes="DistilBert",
    names=(
        *EMBEDDINGS,
        ("layers.{i}.attention.query.", "transformer.layer.{i}.attention.q_lin."),
        ("layers.{i}.attention.key.", "transformer.layer.{i}.attention.k_lin."),
        ("layers.{i}.attention.value.", "transformer.layer.{i}.attention.v_lin."),
        ("layers.{i}.attention.output.", "transformer.layer.{i}.attention.out_lin."),
        ("layers.{i}.attention_norm.", "transformer.layer.{i}.sa_layer_norm."),
        ("layers.{i}.feed_forward.intermediate.", "transformer.layer.{i}.ffn.lin1."),
        ("layers.{i}.feed_forward.output.", "transformer.layer.{i}.ffn.lin2."),
        ("layers.{i}.feed_forward_norm.", "transformer.layer.{i}.output_layer_norm."),
        ("masked_words.dense.", "vocab_transform."),
        ("masked_words.norm.", "vocab_layer_norm."),
        ("masked_words.bias", "vocab_projector.bias"),
    ),
    heads=("vocab_",),
    ties={"vocab_projector.weight": "embeddings.word.weight"},
    keys={
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
    },
    fixed={"type_vocab_size": 0, "layer_norm_eps": 1e-12, **NOT_NARROWER},
    has_pair_types=False,
)
ELECTRA = Family(
    prefix="electra.",
    classes="Electra",
    names=(*EMBEDDINGS, *LAYERS, ("embeddings.project.", "embeddings_project.")),
    heads=("discriminator_predictions.", "generator_"),
    fixed={},
    defaults={"embedding_size": 128},
)
FAMILIES = {  # model_type in config.json -> what its files call things
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": replace(ROBERTA, classes="XLMRoberta"),
    "distilbert": DISTILBERT,
    "electra": ELECTRA,
}
