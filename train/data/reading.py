"""How a user's files are to be read: what the settings say of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from minibert.files import InputError, read_bytes, split_lines
from train.parse import parse_pairs, parse_whole
from train.settings import Settings

UTF8 = "utf-8"
MOST_COLUMNS = 10_000
DELIMITERS = {"tab": "\t", "\\t": "\t"}  # what a shell makes hard to type


def _silent(_: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Reading:
    """What the user says of the data's files. Without it, a file says what it is by itself."""

    columns: tuple[tuple[str, str], ...] = ()  # a name of ours, and the file's column for it
    delimiter: str | None = None
    quoted: bool = True
    header: bool = True
    encoding: str = UTF8
    tasks: tuple[str, ...] = ()  # what is to be learnt; none: all
    classes: tuple[str, ...] = ()
    score: tuple[str, ...] = ()
    # a task of several labels, and its columns of 0 and 1; none if it is a field of its own
    multilabel: tuple[tuple[str, tuple[str, ...]], ...] = ()
    announce: Callable[[str], None] = _silent  # is told what was read as what
    # the columns that rows have a value in, so far: not what the user says, but what was found
    seen: set[str] = field(default_factory=set, compare=False)

    @classmethod
    def of(cls, settings: Settings, announce: Callable[[str], None]) -> "Reading":
        """What the settings say. Raises InputError, naming the setting, for what makes no sense."""
        delimiter = settings.delimiter
        if delimiter is not None:
            delimiter = DELIMITERS.get(delimiter, delimiter)
            if len(delimiter) != 1 or delimiter in '"\r\n':
                raise InputError(
                    f"delimiter = {settings.delimiter!r}: must be one character, or tab"
                )
        columns = parse_pairs(settings.columns, "columns")
        if not settings.header:
            for name, number in columns.items():
                if not parse_whole(number):
                    raise InputError(
                        f"columns = {settings.columns!r}: {name}={number}: without a header, "
                        "columns are numbered from 1"
                    )
                if int(number) > MOST_COLUMNS:
                    raise InputError(
                        f"columns = {settings.columns!r}: {name}={number}: a table may have "
                        f"{MOST_COLUMNS:,} columns"
                    )
        multilabel = []
        for text in settings.multilabel:
            name, equals, rest = (part.strip() for part in text.partition("="))
            parts = tuple(part.strip() for part in rest.split(",") if part.strip())
            if not name or (equals and len(parts) < 2):
                raise InputError(f"multilabel = {text!r}: should read NAME or NAME=COLUMN,COLUMN")
            multilabel.append((name, parts))
        if both := set(settings.classes) & set(settings.score):
            raise InputError(f"{sorted(both)[0]!r} is in classes and in score: which is it?")
        return cls(
            columns=tuple(columns.items()),
            delimiter=delimiter,
            quoted=settings.quoted,
            header=settings.header,
            encoding=settings.encoding,
            tasks=settings.tasks,
            classes=settings.classes,
            score=settings.score,
            multilabel=tuple(multilabel),
            announce=announce,
        )

    def is_wanted(self, field: str) -> bool:
        """Whether a field is one of the tasks, or a part of one."""
        names = {name.rpartition(".")[2] for name in self.tasks}
        parts = (column for _, columns in self.multilabel for column in columns)
        return not names or field in names or field in parts

    def text(self, file: Path) -> str:
        """The content of a file, without the byte order mark that some editors put first. Raises
        InputError, naming file and line, if it is not of the encoding."""
        content = read_bytes(file)
        try:
            text = content.decode(self.encoding).removeprefix("\ufeff")
            if self.encoding != UTF8:
                text.encode()  # utf-7 and others can write half of a surrogate pair
            return text
        except LookupError as error:
            raise InputError(
                f"encoding = {self.encoding!r}: there is no such encoding; utf-8, cp1252, latin-1 "
                "and utf-16 are some"
            ) from error
        except UnicodeError as error:
            line = content[: getattr(error, "start", 0)].count(b"\n") + 1
            name = "UTF-8" if self.encoding == UTF8 else self.encoding
            is_utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
            others = "utf-16" if is_utf16 else "cp1252 (of Windows), latin-1 or utf-16"
            raise InputError(
                f"{file}, line {line}: not {name} text ({getattr(error, 'reason', error)}); if it "
                f"is of another encoding, say which, as in --encoding {others}"
            ) from error

    def lines(self, file: Path) -> list[str]:
        """The lines of a file, without their ends."""
        return split_lines(self.text(file))
