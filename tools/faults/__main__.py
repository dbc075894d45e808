"""python -m tools.faults: what goes wrong on purpose, and what is lost by it; prints a table.

Each experiment is a row: the fault, how often it was tried, what came of it, what was lost. All of
it is drawn from seeds. Faults that are found are shown on standard error; the exit status is 1 if
there are any.
"""

import argparse
import sys

from tools.faults.fuzz import Fuzzer, fuzz
from tools.faults.kinds import kinds


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.faults", description=__doc__)
    names = [kind.name for kind in kinds()]
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(names)}; all")
    parser.add_argument("--cases", type=int, default=10_000, help="of each kind; default 10,000")
    parser.add_argument("--first", type=int, default=0, help="the first case's number; default 0")
    parser.add_argument("--replay", type=int, metavar="CASE", help="one case of the kinds named")
    options = parser.parse_args()
    chosen = options.kinds or names
    if options.replay is not None:
        with Fuzzer(kinds) as fuzzer:
            for name in chosen:
                outcome = fuzzer.outcome(name, options.replay)
                print(f"{name}, case {outcome.case}: {outcome.what}: {outcome.message}")
        return 0
    print("| fault | tried | what came of it | lost or wrong |\n| --- | --- | --- | --- |")
    return int(fuzz(kinds, chosen, options.cases, options.first) > 0)


if __name__ == "__main__":
    sys.exit(main())
