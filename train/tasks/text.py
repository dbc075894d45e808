"""What the kinds share that learn from plain text: no field of the data is for them."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Never

from minibert.config import BertConfig
from minibert.tokenizer import Tokenizer
from train.data.corpus import TextForm
from train.data.examples import Example
from train.settings import Settings
from train.tasks.base import Task


class TextTask(Task):
    """A kind that plain text makes, if `settings.objectives` has its word.

    text_form: what a sequence of its text is. can_memorise: whether the sanity check can tell
    whether a batch was memorised.
    """

    text_form: ClassVar[TextForm] = "sequence"
    can_memorise: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def from_text(cls, settings: Settings, tokenizer: Tokenizer) -> "TextTask":
        """The task, which needs no examples."""

    @abstractmethod
    def text_label(self, text: str, follows: bool) -> Any:
        """What an example of plain text has as this task's label. follows: whether its second
        segment follows the first."""

    def expectation(self, entropy: float, config: BertConfig) -> str:
        """What the loss of random weights is at first, for people. entropy: of the text's tokens,
        in nats."""
        return ""

    @classmethod
    def fits(cls, name: str, examples: Sequence[Example]) -> bool:
        return False

    @classmethod
    def from_examples(cls, name: str, examples: Sequence[Example], settings: Settings) -> Never:
        raise NotImplementedError(f"{cls.__name__} fits no field, so none can make it")


def of_text(tasks: Sequence[Task]) -> list[TextTask]:
    """Those tasks that learn from plain text."""
    return [task for task in tasks if isinstance(task, TextTask)]
