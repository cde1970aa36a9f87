"""`python -m bench NAME` runs the benchmark bench/NAME.py; what follows NAME is passed to it."""

import argparse
import importlib
import inspect
from pathlib import Path

NAMES = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))

parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
parser.add_argument("name", choices=NAMES)
parser.add_argument("options", nargs=argparse.REMAINDER)
given = parser.parse_args()
main = importlib.import_module(f"bench.{given.name}").main
if given.options and not inspect.signature(main).parameters:
    parser.error(f"{given.name} takes no options, but got {' '.join(given.options)}")
main(*given.options)
