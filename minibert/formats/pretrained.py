"""What every model has in common: it is read from a checkpoint's folder, and written as one.

What stands here for what people know from transformers, given `bert = Bert.from_pretrained(NAME)`:

| transformers                                          | here                                     |
| ----------------------------------------------------- | ---------------------------------------- |
| model(**batch).last_hidden_state                      | bert(**batch), which is the tensor       |
| model(**batch).pooler_output                          | bert.pooler(bert(**batch)[:, 0])         |
| model(**batch, output_hidden_states=True)             | bert.hidden_states(**batch)              |
| model(**batch, output_attentions=True)                | bert.attention_probabilities(**batch)    |
| AutoModelForMaskedLM.from_pretrained(NAME)            | BertForPreTraining.from_pretrained(NAME) |
| model.state_dict()                                    | to_transformers(bert.state_dict(),       |
|                                                       | bert.config)                             |
| model.device, model.dtype, model.num_parameters(),    | the same                                 |
| model.config.to_dict(), model.get_input_embeddings()  |                                          |
"""

from abc import ABC, abstractmethod
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

from minibert.devices import as_dtype
from minibert.formats.checkpoint import LoadReport, load_model, save_model, warn_of_head
from minibert.formats.families import FAMILIES
from minibert.formats.hub import find_model
from minibert.formats.names import checkpoint_name


class Pretrained(nn.Module, ABC):
    """A model of a `config` that knows its checkpoints.

    A subclass names the class of its config, says how it is built, and which class of transformers
    has the same parameters.
    """

    config_class: ClassVar[type[Any]]
    config: Any  # of that class

    @classmethod
    @abstractmethod
    def build(cls, config: Any, names: set[str]) -> Self:
        """The model with all parts that a checkpoint can fill. names: the parameters in it."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """The class of transformers that opens what we save, without the family's name before it:
        "Model", "ForMaskedLM"."""

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    @classmethod
    def from_pretrained(
        cls,
        name: str | PathLike[str],
        *,
        revision: str | None = None,
        dtype: torch.dtype | str = torch.float32,
    ) -> Self:
        """The model of a checkpoint, in eval mode, with its weights in `dtype`, such as "bfloat16".

        name: a folder, "minilm", or a Hub id (with the branch, tag or commit `revision`).
        Raises InputError, naming file and tensor, if it cannot be had or is no complete BERT. Warns
        if the folder has a fine-tuned head too, which is left aside.
        """
        dtype, folder = as_dtype(dtype), find_model(name, revision).path
        model, report = cls.from_folder(folder, dtype)
        warn_of_head(folder, report, stacklevel=2)
        return model

    @classmethod
    def from_folder(
        cls, folder: Path, dtype: torch.dtype = torch.float32
    ) -> tuple[Self, LoadReport]:
        """The model in a folder, and what became of each of its tensors. Raises InputError."""
        return load_model(folder, cls.config_class, cls.build, dtype)

    def save_pretrained(self, folder: str | PathLike[str]) -> None:
        """Write config.json and model.safetensors, as transformers and we open them.

        Both are written before they replace older ones, see `replacing_model`.
        Raises InputError if the disk refuses; the files that were there before are then unchanged.
        """
        family = FAMILIES[self.config.model_type]
        tensors = {
            checkpoint_name(name, family): tensor for name, tensor in self.named_parameters()
        }
        save_model(family.classes + self.kind, self.config, tensors, Path(folder))
