"""settings.py: a value that a run cannot have is refused with its name, and what is written is read
back the same."""

import re
import shutil
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from minibert import InputError
from minibert.files import write_text
from train import run
from train.command_line import RECIPES, command_line, recipe_file
from train.data.read import OURS
from train.parse import parse_number, parse_pairs
from train.settings import Settings
from train.settings_file import read_settings

HINTS = get_type_hints(Settings)
NAMES = [field.name for field in fields(Settings)]
NESTED = (
    'a "quoted" \\ back\\\\slash\n\t\r new line, \x00 \x1b \x7f \x80 é 👩🏽‍🔬'
    " \u2028 # = [x] ''' \"\"\""
)


def parse(*arguments: str) -> tuple[Settings, Path | None]:
    settings, resumed, limits = command_line(list(arguments), "program", "description")
    assert not limits
    return settings, resumed


def wrong_values(name: str) -> list[Any]:
    """Values of every other type than a field's own."""
    allowed = get_args(HINTS[name]) or (HINTS[name],)
    values: list[Any] = [{"a": 1}, b"x"]
    values += [] if str in allowed and get_origin(HINTS[name]) is not tuple else ["x"]
    values += [] if bool in allowed else [True]
    values += [] if int in allowed or float in allowed else [3]
    values += [] if float in allowed else [3.0]
    values += [] if type(None) in allowed else [None]
    values += [["x", 1], [None]] if get_origin(HINTS[name]) is tuple else [["x"]]
    values += [float("nan"), float("inf"), -5.0] if float in allowed else []
    values += [-5] if int in allowed else []
    return values


@pytest.mark.parametrize("name", NAMES)
def test_a_value_of_another_type_is_refused_by_name(name: str) -> None:
    for value in wrong_values(name):
        with pytest.raises(InputError, match=f"^{name} = .*: must be "):
            Settings(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epochs", 2.0, "epochs = 2.0: must be a whole number"),
        ("lr", "fast", "lr = 'fast': must be a number"),
        ("lr", 0, "lr = 0.0: must be a number above 0"),
        ("batch_size", 0, "batch_size = 0: must be a number above 0"),
        ("max_length", 2, "max_length = 2: must be a number above 2"),
        ("max_length", "x", "max_length = 'x': must be a whole number or absent"),
        ("cache", 1, "cache = 1: must be true or false"),
        ("tasks", "intent", "tasks = 'intent': must be a list of texts"),
        ("warmup", 1, "warmup = 1.0: must be at least 0 and below 1"),
        ("warmup", -0.5, "warmup = -0.5: must be at least 0 and below 1"),
        ("dropout", 1, "dropout = 1: must be at least 0 and below 1"),
        ("label_smoothing", 1.0, "label_smoothing = 1.0: must be at least 0 and below 1"),
        ("weight_decay", -0.1, "weight_decay = -0.1: must be at least 0"),
        ("clip", -0.1, "clip = -0.1: must be at least 0"),
        ("data", [], "data is empty: name at least one data folder, or text"),
        ("schedule", "steep", "schedule = 'steep': must be one of linear, cosine, constant"),
        (
            "sampling",
            "",
            "sampling = '': must be one of proportional, temperature, uniform, round-robin",
        ),
        ("loss", "Sum", "loss = 'Sum': must be one of sum, fixed, uncertainty"),
        ("data", ["\udcff"], "data = ('\\udcff',): not UTF-8 text"),
        ("output", "a\ud800", "output = 'a\\ud800': not UTF-8 text"),
    ],
)
def test_what_a_setting_cannot_be(name: str, value: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Settings(**{name: value})
    assert str(caught.value) == message


def test_what_a_setting_can_be() -> None:
    settings = Settings(
        lr=1, epochs=0, dropout=0, max_length=3, tasks=[], data=["a"], warmup=0, clip=0
    )  # type: ignore[arg-type]
    assert (settings.lr, settings.tasks, settings.data) == (1.0, (), ("a",))
    assert type(settings.lr) is float
    assert Settings().epochs > 0


# settings.toml


ALONE = ("mini_batch_size", "max_steps")  # other settings do not go with them


def other_value(name: str) -> Any:
    """A value that differs from the default."""
    default = getattr(Settings(), name)
    choices = next(f for f in fields(Settings) if f.name == name).metadata["choices"]
    if choices:
        return choices[-1]
    if isinstance(default, bool):
        return not default
    if get_origin(HINTS[name]) is tuple:
        return (NESTED, "b", "")
    allowed = get_args(HINTS[name]) or (HINTS[name],)
    return NESTED if str in allowed else 0.1 + 0.2 if float in allowed else 7


def test_settings_toml_is_exact(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    others = Settings(**{name: other_value(name) for name in NAMES if name not in ALONE})
    alone = Settings(**{name: other_value(name) for name in ALONE})
    default = Settings()
    for name in NAMES:
        assert getattr(alone if name in ALONE else others, name) != getattr(default, name)
    small = replace(
        default,
        lr=1e-300,
        head_lr=123456789.123456789,
        weight_decay=1e22,
        layer_decay=5e-324,
        dropout=0,
    )
    for settings in (default, others, alone, small):
        write_text(file, settings.toml())
        assert Settings(**read_settings(file)) == settings
        assert read_settings(file) == {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(settings).items()
            if value is not None
        }


@pytest.mark.parametrize(
    "character", [chr(i) for i in (*range(32), 34, 92, *range(127, 160), 0x2028, 0xFEFF, 0x1F600)]
)
def test_every_character_comes_back(character: str, tmp_path: Path) -> None:
    settings = Settings(output=f"a{character}b", data=(character,))
    write_text(tmp_path / "settings.toml", settings.toml())
    assert Settings(**read_settings(tmp_path / "settings.toml")) == settings


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "lr = 1\nwieght_decay = 2\n",
            "there is no setting 'wieght_decay'; the nearest is 'weight_decay'",
        ),
        ("batchsize = 2\n", "there is no setting 'batchsize'; the nearest is 'batch_size'"),
        ("Epochs = 2\n", "there is no setting 'Epochs'; the nearest is 'epochs'"),
        ("qqq = 2\n", "there is no setting 'qqq'; the nearest is "),
        ("[train]\nlr = 1\n", "there is no setting 'train'; the nearest is "),
        ("lr = \n", "not TOML (Invalid value (at line 1, column 6))"),
        ("lr = 1\nlr = 2\n", "not TOML (Cannot overwrite a value (at line 2, column 7))"),
    ],
)
def test_a_recipe_gone_wrong(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(content)
    with pytest.raises(InputError) as caught:
        parse("--recipe", str(file))
    assert str(caught.value).startswith(f"{file}: {message}")


def test_a_recipe_that_is_no_utf8(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"lr = 1\n# caf\xe9\n")
    with pytest.raises(InputError, match="line 2: not UTF-8"):
        parse("--recipe", str(tmp_path / "mine.toml"))


def test_a_recipe_that_there_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("newsrom", "absent.toml"):
        with pytest.raises(
            InputError,
            match=f"there is no recipe '{name}'; there are goemotions, newsroom, notebook",
        ):
            parse("--recipe", name)


# Our recipes

OUR_RECIPES = sorted(RECIPES.glob("*.toml"))


def test_the_recipes_that_the_project_promises() -> None:
    names = {
        "newsroom",
        "snips",
        "tweeteval",
        "notebook-alpha",
        "notebook-layerwise",
        "notebook-overfit",
    }
    assert names <= {file.stem for file in OUR_RECIPES}


@pytest.mark.parametrize("file", OUR_RECIPES, ids=lambda file: file.stem)
def test_each_recipe_is_valid_and_says_what_it_reproduces(file: Path) -> None:
    assert recipe_file(file.stem) == file
    assert re.match(r"# \S.{20,}\n", file.read_text(encoding="utf-8"))
    settings, resumed = parse("--recipe", file.stem)
    assert resumed is None
    assert settings == Settings(**read_settings(file))
    assert settings.output is None
    for name in settings.data:  # ours, or named after what its comment says to give
        assert (OURS / name).is_dir() or "--data " in file.read_text(encoding="utf-8")


def test_the_notebooks_recipes_are_the_notebooks() -> None:
    alpha, layerwise, overfit = (
        parse("--recipe", f"notebook-{name}")[0] for name in ("alpha", "layerwise", "overfit")
    )
    assert (alpha.loss, parse_pairs(alpha.loss_weights, ""), alpha.epochs) == (
        "fixed",
        {"label": "0.7", "tags": "0.3"},
        3,
    )
    assert (layerwise.lr, layerwise.head_lr, layerwise.layer_decay) == (1e-5, 1e-4, 1.0)
    assert (overfit.overfit_batch, overfit.epochs) == (8, 30)


def test_the_notebooks_eight_sentences_are_memorised(
    minilm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run.main(
            ["--recipe", "notebook-overfit", "--device", "cpu", "--output", str(tmp_path / "run")]
        )
        == 0
    )
    shutil.rmtree(tmp_path / "run")  # hundreds of megabytes, which pytest would keep
    out = capsys.readouterr().out
    assert out.count("  right  ") == 16  # a class and tags for each of the eight
    assert "WRONG" not in out
    assert "memorised: all 16 predictions are equal to the labels" in out


# The command line


def test_without_data_or_a_recipe_it_is_newsrooms() -> None:
    newsroom, _ = parse("--recipe", "newsroom")
    assert newsroom.data == ("newsroom",)
    assert parse() == (newsroom, None)
    assert parse("--lr", "0.125") == (replace(newsroom, lr=0.125), None)
    assert parse("--data", "x") == (Settings(data=("x",)), None)


def test_every_field_is_an_option() -> None:
    for names in ([name for name in NAMES if name not in ALONE], ALONE):
        arguments: list[str] = []
        wanted = {}
        for name in names:
            flag, value = f"--{name.replace('_', '-')}", other_value(name)
            wanted[name] = value
            if isinstance(value, bool):
                arguments.append(flag if value else f"--no-{flag[2:]}")
            else:
                for part in value if isinstance(value, tuple) else (value,):
                    arguments.append(f"{flag}={part}")
        if "data" not in wanted:
            arguments.append("--data=newsroom")
        assert parse(*arguments)[0] == Settings(**wanted)


def test_the_command_line_is_over_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        'data = ["a", "b"]\nlr = 0.5\nhead_lr = 0.25\nprecision = "bfloat16"\nepochs = 9\n'
    )
    settings, _ = parse(
        "--recipe",
        str(recipe),
        "--lr",
        "0.125",
        "--data",
        "c",
        "--precision",
        "float32",
        "--epochs",
        "0",
    )
    assert settings == Settings(data=("c",), lr=0.125, head_lr=0.25, precision="float32", epochs=0)


def test_the_command_line_refuses_what_no_field_can_be(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["--lr", "fast"],
        ["--epochs", "1.5"],
        ["--loss", "max"],
        ["--no-such-option"],
        ["stray"],
    ):
        with pytest.raises(SystemExit) as caught:
            parse(*arguments)
        assert caught.value.code == 2
        assert arguments[-1] in capsys.readouterr().err
    with pytest.raises(InputError, match="lr = nan: must be a number above 0"):
        parse("--lr", "nan")


def test_help_names_every_option_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for field in fields(Settings):
        assert f"--{field.name.replace('_', '-')}" in shown
        assert " ".join(field.metadata["help"].split()) in shown
    assert "(default 0.0001)" in shown


def test_resuming_takes_the_runs_own_settings_and_no_others(tmp_path: Path) -> None:
    settings = Settings(data=("x",), lr=0.125, seed=9)
    write_text(tmp_path / "settings.toml", settings.toml())
    assert parse("--resume", str(tmp_path)) == (settings, tmp_path)
    longer = command_line(["--resume", str(tmp_path), "--epochs", "9"], "program", "description")
    assert longer == (settings, tmp_path, {"epochs": 9})
    for more in (["--lr", "0.125"], ["--recipe", "newsroom"], ["--no-cache"], ["--data", "x"]):
        with pytest.raises(
            InputError, match="--resume goes on with the run's own settings: give it alone"
        ):
            parse("--resume", str(tmp_path), *more)
    with pytest.raises(InputError, match=r"cannot read .*absent/settings\.toml"):
        parse("--resume", str(tmp_path / "absent"))
    (tmp_path / "settings.toml").write_text("lr = 0.5\nspeed = 3\n")
    with pytest.raises(InputError, match="there is no setting 'speed'; the nearest is 'seed'"):
        parse("--resume", str(tmp_path))


# Texts with a structure


def test_pairs() -> None:
    assert parse_pairs("", "x") == {}
    assert parse_pairs(" a = 1 ,b=2,, c=x=y", "x") == {"a": "1", "b": "2", "c": "x=y"}
    for text in ("a", "a=", "=1", "a=1, a=2"):
        with pytest.raises(InputError, match="^" + re.escape(f"x = {text!r}: ")):
            parse_pairs(text, "x")


def test_numbers() -> None:
    assert [parse_number(text, "x") for text in ("0", "1e-5", " 2.5 ")] == [0.0, 1e-5, 2.5]
    for text in ("", "-1", "nan", "inf", "1,5", "one"):
        with pytest.raises(InputError, match=f"^x: '{text}' is no number of at least 0"):
            parse_number(text, "x")


def test_tasks_are_compared_by_epochs() -> None:
    with pytest.raises(InputError, match=r"compare_single = true .* leave max_steps out"):
        Settings(compare_single=True, max_steps=3)
