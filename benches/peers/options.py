#!/usr/bin/env python3
"""What run.sh takes. By itself it reads them and stops, so that a wrong one shows before anything is installed."""

import argparse
import math
import shlex
import shutil
from pathlib import Path

PARTS = (
    "threads-2",
    "threads-1",
    "no-amx",
    "no-amx-threads-1",
    "avx-vnni",
    "avx2",
    "bert-base",
    "bert-base-no-amx",
    "accuracy",
)

DESCRIPTION = """octet against its peers on this machine, on the same token ids; see docs/benchmarks.md.

  benches/peers/run.sh               all parts: more than an hour on 2 CPUs
  benches/peers/run.sh --quick       the grid and the stream, int8 only, briefly, and accuracy: about eight minutes
  benches/peers/run.sh --only avx2   one part; the others keep what an earlier run found

Needs Linux on x86-64, cargo, python3 (3.11) with venv and pip, and 10 GB in target/. The first run fetches the peers
from the package registries and makes their models; what is there is kept. Results: target/peers/results.{json,md}.
"""


# A comparison's tables stand between these two lines of a file.
BEGIN = "<!-- made by benches/peers/run.sh -->"
END = "<!-- end of what benches/peers/run.sh made -->"


def above_zero(kind):
    """Reads a finite number of that kind above zero."""

    def read(text: str):
        try:
            found = kind(text)
        except ValueError:
            found = 0
        if not 0 < found < math.inf:
            raise argparse.ArgumentTypeError(f"{text!r} is no {'whole ' if kind is int else ''}number above 0")
        return found

    return read


def parts(text: str) -> list[str]:
    """Reads names of parts, comma-separated; each counts once."""
    found = list(dict.fromkeys(text.split(",")))
    if unknown := [part for part in found if part not in PARTS]:
        raise argparse.ArgumentTypeError(f"no part is named {', '.join(map(repr, unknown))}; there is {', '.join(PARTS)}")
    return found


def document(text: str) -> Path:
    """Reads the path of a file that has the lines between which tables belong."""
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text!r} (paths are from the repository's root)")
    written = Path(text).read_text(encoding="utf-8")
    if END not in written.partition(BEGIN)[2]:
        raise argparse.ArgumentTypeError(f"{text!r} has not the lines {BEGIN!r} and {END!r}, between which tables belong")
    return Path(text)


def command(text: str) -> str:
    """Reads a command whose program is there."""
    if not (words := shlex.split(text)) or not shutil.which(words[0]):
        raise argparse.ArgumentTypeError(f"there is no program {text!r}")
    return text


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benches/peers/run.sh", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--rounds", type=above_zero(int), help="rounds of threads-2 and no-amx; at most 3 of the others [default: 5]")
    parser.add_argument("--seconds", type=above_zero(float), help="time for each cell and engine [default: 1]")
    parser.add_argument("--only", type=parts, metavar="PART,...", help=f"parts to run [default: all]: {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="2 rounds, 0.3 s, contenders only; threads-2, no-amx, accuracy")
    parser.add_argument("--hold", type=command, metavar="COMMAND", help="gives turns on a shared machine; see SharedMachine in compare.py")
    parser.add_argument("--docs", type=document, help="Markdown file, from the repository's root, whose generated section is replaced")
    return parser


def with_defaults(args: argparse.Namespace) -> argparse.Namespace:
    """Fills in what was not given."""
    args.only = args.only or (["threads-2", "no-amx", "accuracy"] if args.quick else list(PARTS))
    args.rounds = args.rounds or (2 if args.quick else 5)
    args.seconds = args.seconds or (0.3 if args.quick else 1.0)
    return args


if __name__ == "__main__":
    parser().parse_args()
