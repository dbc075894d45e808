"""python -m tools.faults: what goes wrong on purpose, and what is lost by it; prints a table.

Each experiment is a row: the fault, how often it was tried, what came of it, what was lost. All of
it is drawn from seeds. Faults that are found are shown on standard error; the exit status is 1 if
there are any.
"""

import argparse
import sys

from tools.faults.fuzz import Fuzzer, fuzz
from tools.faults.kinds import EXPERIMENTS, kinds


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.faults", description=__doc__)
    names = [kind.name for kind in kinds()]
    listed = ", ".join((*names, *EXPERIMENTS))
    parser.add_argument("chosen", nargs="*", metavar="FAULT", help=f"of {listed}; all")
    parser.add_argument("--cases", type=int, default=10_000, help="of each kind; default 10,000")
    parser.add_argument("--first", type=int, default=0, help="the first case's number; default 0")
    parser.add_argument("--replay", type=int, metavar="CASE", help="one case of the kinds named")
    options = parser.parse_args()
    chosen = options.chosen or [*names, *EXPERIMENTS]
    if options.replay is not None:
        with Fuzzer(kinds) as fuzzer:
            for name in chosen:
                outcome = fuzzer.outcome(name, options.replay)
                print(f"{name}, case {outcome.case}: {outcome.what}: {outcome.message}")
        return 0
    print("| fault | tried | what came of it | lost or wrong |\n| --- | --- | --- | --- |")
    fuzzed = [name for name in chosen if name in names]
    faults = fuzz(kinds, fuzzed, options.cases, options.first)
    for name in (name for name in chosen if name in EXPERIMENTS):
        row = EXPERIMENTS[name]()
        lost = f"{len(row.faults)} of them" if row.faults else "none"
        print(f"| {name} | {row.tried} | {row.came_of_it} | {lost} |", flush=True)
        for fault in row.faults:
            print(fault, file=sys.stderr)
        faults += len(row.faults)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
