"""`python -m bench NAME` runs the benchmark bench/NAME.py."""

import argparse
import importlib
from pathlib import Path

NAMES = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))

parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
parser.add_argument("name", choices=NAMES)
importlib.import_module(f"bench.{parser.parse_args().name}").main()
