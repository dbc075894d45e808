"""Where the settings of a run come from, the command line and recipes; and which folder it gets."""

import argparse
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from minibert.files import InputError, remove, writing
from minibert.locks import LockedError, locked
from minibert.program import Interrupted, Parser, called_as
from minibert.usage import usage
from train.checkpoint import has_results
from train.data.read import name_of
from train.prolong import LIMITS
from train.settings import Settings
from train.settings_file import read_settings

RECIPES = Path(__file__).parent / "recipes"
METAVARS = {int: "N", float: "X", str: "TEXT"}  # what stands for a setting's value in --help
EXAMPLES = """\
%(prog)s
%(prog)s --data tweets.csv --columns "text=tweet, label=mood"
%(prog)s --data pairs.jsonl --freeze backbone --epochs 3
%(prog)s --text novel.txt --epochs 1 --output runs/novel
%(prog)s --resume runs/newsroom --epochs 8"""


def command_line(
    arguments: list[str] | None, program: str, description: str
) -> tuple[Settings, Path | None, dict[str, int]]:
    """The settings that the command line asks for, over those of its recipe; the run folder to
    resume, if any; and the higher limits that this run is to have."""
    given = vars(parser(program, description).parse_args(arguments))
    recipe, resume = given.pop("recipe"), given.pop("resume")
    if resume is not None:
        limits = {name: given.pop(name) for name in LIMITS if name in given}
        if given or recipe:
            raise InputError(
                "--resume goes on with the run's own settings: give it alone, or with --epochs or "
                "--max-steps to train longer"
            )
        return Settings(**read_settings(resume / "settings.toml")), resume, limits
    if recipe is None and "data" not in given:
        if "text" in given:
            given["data"] = ()
        else:
            recipe = "newsroom"
    base = read_settings(recipe_file(recipe)) if recipe else {}
    return Settings(**(base | given)), None, {}


def parser(program: str, description: str) -> argparse.ArgumentParser:
    """All options: a setting's own, in groups, and two that say where the settings come from."""
    made = Parser(
        prog=program,
        usage="%(prog)s [--data TEXT] [options]",
        argument_default=argparse.SUPPRESS,
        **usage(description, EXAMPLES),
    )
    group = made.add_argument_group("where to begin")
    group.add_argument(
        "--recipe",
        default=None,
        metavar="NAME",
        help="settings to start from: the name of one of our recipes, or a TOML file (default "
        "newsroom, if there is neither --data nor --text)",
    )
    group.add_argument(
        "--resume",
        default=None,
        type=Path,
        metavar="RUN",
        help="go on with an interrupted run; with --epochs N or --max-steps N, train it longer, "
        "finished or not: the steps to come have the learning rates of a schedule over all of it "
        "(default: a new run)",
    )
    hints = get_type_hints(Settings)
    for f in fields(Settings):
        if f.metadata["group"]:
            group = made.add_argument_group(f.metadata["group"])
        flag, wanted, choices = (
            f"--{f.name.replace('_', '-')}",
            hints[f.name],
            f.metadata["choices"],
        )
        help = f.metadata["help"] + _shown(f)
        if wanted is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, help=help)
        elif get_origin(wanted) is tuple:
            group.add_argument(flag, action="append", metavar="TEXT", help=help)
        else:
            kind = next(t for t in (*get_args(wanted), wanted) if t is not type(None))
            metavar = None if choices else METAVARS[kind]
            group.add_argument(flag, type=kind, choices=choices, metavar=metavar, help=help)
    return made


def recipe_file(name: str) -> Path:
    """The file of a recipe: one of ours by its name, or any TOML file."""
    ours = RECIPES / f"{name}.toml"
    if ours.exists():
        return ours
    if name.endswith(".toml") and Path(name).exists():
        return Path(name)
    names = sorted(file.stem for file in RECIPES.glob("*.toml"))
    raise InputError(
        f"there is no recipe {name!r}; there are {', '.join(names)}, or name a .toml file"
    )


def train_command() -> str:
    """The command that trains, as the user called it, to be shown in messages."""
    return called_as("minibert-train", "train.run")


@contextmanager
def run_folder(settings: Settings, resumed: Path | None) -> Iterator[Path]:
    """The run's folder, which no other process can take until the block ends.

    It is the one to resume, or the one that the settings ask for, or the first free runs/NAME,
    runs/NAME-2 ... A folder that was made here is removed if nothing was written to it. What a
    process that was killed left half written is removed too.
    Raises InputError if another process is writing it, or if it holds results of a run that is not
    resumed. A KeyboardInterrupt in the block becomes an Interrupted that says how to go on.
    """
    asked = resumed or (None if settings.output is None else Path(settings.output))
    is_ours = resumed is None and not (asked and os.path.exists(asked))
    lock = ExitStack()
    with writing(asked or Path("runs")):
        folder = asked or take_free_folder(settings, lock)
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with lock:
            if asked:
                lock.enter_context(locked(asked))
            if resumed is None and has_results(folder):
                raise InputError(
                    f"{folder} holds a run already: resume it (--resume {folder}), or choose "
                    "another --output"
                )
            for path in [*folder.rglob(".*.tmp")]:  # half written by a process that was killed
                remove(path)
            yield folder
    except (KeyboardInterrupt, ImportError) as stop:
        # A signal that comes while a package loads its machine code ends as an ImportError.
        if not isinstance(stop.__cause__ or stop, KeyboardInterrupt):
            raise
        if not (folder / "settings.toml").exists():
            raise Interrupted("stopped before training began: start it again") from stop
        done = stop if isinstance(stop, Interrupted) else "stopped"
        raise Interrupted(f"{done}; to go on: {train_command()} --resume {folder}") from stop
    finally:
        with suppress(OSError):  # it is not empty
            if is_ours:
                folder.rmdir()
            if asked is None:
                folder.parent.rmdir()


def take_free_folder(settings: Settings, lock: ExitStack) -> Path:
    """Make and lock the folder of a new run. Two runs that start together get two folders. One in
    which a process was killed before it wrote anything is free again."""
    name, source = name_of((*settings.data, *settings.text)[0])
    named = name or Path(os.path.expanduser(source)).resolve().name  # of "..", its real name
    first = folder = Path("runs") / (re.sub(r"[^\w.+ -]", "_", named).strip(". ") or "run")
    number = 1
    while True:
        with suppress(FileExistsError, LockedError):  # a file has the name; a run has the folder
            folder.mkdir(parents=True, exist_ok=True)
            if is_free(folder):
                lock.enter_context(locked(folder))
                if is_free(folder):
                    return folder
        number += 1
        folder = first.with_name(f"{first.name}-{number}")


def is_free(folder: Path) -> bool:
    """Whether a run can have a folder: at most hidden files are there, such as a lock."""
    is_usable = os.access(folder, os.R_OK | os.W_OK)  # else it is somebody else's
    return is_usable and all(name.startswith(".") for name in os.listdir(folder))


def _shown(f: Any) -> str:
    """A setting's default, as the command line writes it, where the help does not tell what happens
    without it."""
    if "If absent" in f.metadata["help"]:
        return ""
    if isinstance(f.default, bool):
        return f" (default {'yes' if f.default else 'no'})"
    shown = ", ".join(f.default) if isinstance(f.default, tuple) else f.default
    return " (default: none)" if shown in (None, "") else f" (default {shown})"
