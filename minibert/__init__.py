"""BERT written by hand in plain PyTorch. Read model.py first, then layout.py."""

import minibert.starting  # noqa: F401 - before all that takes long to import
from minibert.config import BertConfig
from minibert.encoder import SentenceEncoder
from minibert.files import InputError
from minibert.formats.names import from_transformers, to_transformers
from minibert.layout import Packed, Padded
from minibert.model import Bert
from minibert.pretraining import BertForPreTraining

__version__ = "0.1.0"

__all__ = [
    "Bert",
    "BertConfig",
    "BertForPreTraining",
    "InputError",
    "Packed",
    "Padded",
    "SentenceEncoder",
    "from_transformers",
    "to_transformers",
]
