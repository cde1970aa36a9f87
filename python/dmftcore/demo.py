"""Real data to start from: handwritten digits, and the configuration of `dmftcore demo`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np

from dmftcore._optional import optional_import
from dmftcore._validate import FloatArray, integer
from dmftcore.data import Dataset

__all__ = ["demo_config", "digits"]


def digits(
    classes: Sequence[int] = (3, 8), train: int = 160, test: int = 60, seed: int = 0
) -> Dataset:
    """Two classes of handwritten digits (8 x 8 pixels, from scikit-learn) with targets +1 and -1.

    The points are centred by the mean training image and divided by one number, so that the
    Gram matrix ``Kx = X X^T / D`` of the training points has a mean diagonal of 1. Training and
    test points are disjoint and sorted by class, half of each class (the first gets one more of
    an odd number).

    Parameters
    ----------
    classes : two int
        Digits that are told apart; the first has target +1.
    train, test : int
        Numbers P >= 2 and Q >= 0 of points.
    seed : int
        Which images are drawn.

    Returns
    -------
    Dataset

    Raises
    ------
    ImportError
        If scikit-learn is not installed.
    ValueError
        For classes that are not two different digits, or more points than there are images.
    """
    labels = [integer("classes", label, at_least=0) for label in classes]
    if len(labels) != 2 or labels[0] == labels[1] or max(labels) > 9:
        raise ValueError(f"classes must be two different digits 0..9, not {classes!r}")
    train, test = integer("train", train, at_least=2), integer("test", test, at_least=0)
    source = optional_import("sklearn.datasets", extra="demo", purpose="the digits data set")
    images, digit = source.load_digits(return_X_y=True)

    generator = np.random.default_rng(integer("seed", seed, at_least=0))
    rows: dict[str, list[FloatArray]] = {"train": [], "test": []}
    targets: dict[str, list[FloatArray]] = {"train": [], "test": []}
    for position, (label, sign) in enumerate(zip(labels, (1.0, -1.0), strict=True)):
        found = generator.permutation(np.flatnonzero(digit == label))
        n_train, n_test = (n - n // 2 if position == 0 else n // 2 for n in (train, test))
        if n_train + n_test > len(found):
            raise ValueError(
                f"train={train} and test={test} need {n_train + n_test} images of the digit "
                f"{label}, but there are {len(found)}"
            )
        for part, chosen in (
            ("train", found[:n_train]),
            ("test", found[n_train : n_train + n_test]),
        ):
            rows[part].append(images[chosen])
            targets[part].append(np.full(len(chosen), sign))

    inputs = np.concatenate(rows["train"])
    centre = inputs.mean(axis=0)
    scale = np.sqrt(np.mean((inputs - centre) ** 2))
    return Dataset(
        inputs=(inputs - centre) / scale,
        targets=np.concatenate(targets["train"]),
        test_inputs=(np.concatenate(rows["test"]) - centre) / scale if test else None,
        test_targets=np.concatenate(targets["test"]) if test else None,
    )


def demo_config() -> Path:
    """Path of the configuration that `dmftcore demo` runs (``examples/digits.toml``).

    Raises
    ------
    FileNotFoundError
        If the installation lacks it.
    """
    found = Path(str(resources.files("dmftcore").joinpath("digits.toml")))
    if not found.is_file():
        raise FileNotFoundError(f"{found} is missing: reinstall dmftcore")
    return found
