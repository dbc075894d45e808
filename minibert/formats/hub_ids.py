"""What a model's name means on the Hub."""

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
BERT_BASE = "google-bert/bert-base-uncased"
ALIASES = {"minilm": MINILM, "bert-base-uncased": BERT_BASE}
# Models of the families read here that have no organisation before their name. As in
# sentence-transformers' list, any other name alone means one of its own models.
BARE = (
    "bert-base-cased",
    "bert-base-cased-finetuned-mrpc",
    "bert-base-chinese",
    "bert-base-german-cased",
    "bert-base-german-dbmdz-cased",
    "bert-base-german-dbmdz-uncased",
    "bert-base-multilingual-cased",
    "bert-base-multilingual-uncased",
    "bert-base-uncased",
    "bert-large-cased",
    "bert-large-cased-whole-word-masking",
    "bert-large-cased-whole-word-masking-finetuned-squad",
    "bert-large-uncased",
    "bert-large-uncased-whole-word-masking",
    "bert-large-uncased-whole-word-masking-finetuned-squad",
    "distilbert-base-cased",
    "distilbert-base-cased-distilled-squad",
    "distilbert-base-german-cased",
    "distilbert-base-multilingual-cased",
    "distilbert-base-uncased",
    "distilbert-base-uncased-distilled-squad",
    "distilbert-base-uncased-finetuned-sst-2-english",
    "distilroberta-base",
    "roberta-base",
    "roberta-base-openai-detector",
    "roberta-large",
    "roberta-large-mnli",
    "roberta-large-openai-detector",
    "xlm-roberta-base",
    "xlm-roberta-large",
    "xlm-roberta-large-finetuned-conll02-dutch",
    "xlm-roberta-large-finetuned-conll02-spanish",
    "xlm-roberta-large-finetuned-conll03-english",
    "xlm-roberta-large-finetuned-conll03-german",
)


def repository_of(name: str) -> str:
    """The repository on the Hub that a name means."""
    if name in ALIASES:
        return ALIASES[name]
    return name if "/" in name or name in BARE else f"sentence-transformers/{name}"


def is_plain(repository: str) -> bool:
    """Whether a repository is known to hold no sentence encoder: then nothing says how to pool, and
    nothing needs to."""
    return repository in BARE or repository.startswith("google-bert/")
