"""How times grow with sizes: cases of a record that differ in one number of their titles.

Titles say sizes as `key=number`. Cases with the same title up to one of them are a series, if it
takes three values at least.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench._record import clock_of

SIZE = re.compile(r"\b(\w+)=(\d[\d.]*(?:e[+-]?\d+)?)")
FEWEST = 3


@dataclass(frozen=True)
class Series:
    """Times of competitors over sizes.

    Attributes
    ----------
    title : str
        What the cases have in common.
    size : str
        Name of the number that differs.
    times : dict
        Sizes and seconds of each competitor, increasing, ours first. Extrapolations are left out.
    """

    title: str
    size: str
    times: dict[str, tuple[list[float], list[float]]]

    def exponents(self) -> Iterator[tuple[str, float]]:
        """x of each competitor in time ~ size^x, by least squares of the logarithms."""
        for name, (sizes, seconds) in self.times.items():
            if len(sizes) >= FEWEST:
                yield name, float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def series(cases: list[dict[str, Any]]) -> list[Series]:
    """All series of a record, in the order of their first cases."""
    groups: dict[tuple[str, str], dict[float, dict[str, Any]]] = {}
    for case in cases:
        title = case["title"]
        for found in SIZE.finditer(title):
            rest = " ".join((title[: found.start()] + title[found.end() :]).split()).strip(" ,")
            # Of two cases of one title the first counts: the second has another opponent.
            groups.setdefault((rest, found[1]), {}).setdefault(float(found[2]), case)
    return [
        Series(rest, size, _times(group))
        for (rest, size), group in groups.items()
        if len(group) >= FEWEST
    ]


def _times(group: dict[float, dict[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
    times: dict[str, tuple[list[float], list[float]]] = {}
    for size, case in sorted(group.items()):
        for name, entry in case["competitors"].items():
            sizes, seconds = times.setdefault(name, ([], []))
            if "failed" in entry or entry.get("extrapolated"):
                continue
            sizes.append(size)
            seconds.append(entry[f"{clock_of(entry)}_seconds"])
    return {name: measured for name, measured in times.items() if measured[0]}
