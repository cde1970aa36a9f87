"""Scaling laws of the loss in size, data and precision.

Source of the form: Kumar, Ankner, Spector, Bordelon, Muennighoff, Paul, Pehlevan, Re & Raghunathan,
"Scaling laws for precision" (2024, arXiv:2411.04330). It is a functional form to be fitted, not
the solution of a model.
"""

from __future__ import annotations

import numbers
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.optimize

from dmftcore._validate import FloatArray, one_of, positive, real_array
from dmftcore.limits.precision_fit import PARAMETERS, Fit

__all__ = ["FittedPrecisionLaw", "Optimum", "PrecisionLaw"]

#: What is quantised in training: weights, activations, and the keys and values of attention.
QUANTISED = ("w", "a", "kv")

#: Bits of the arithmetic whose cost is 6 N D.
FULL_BITS = 16.0


@dataclass(frozen=True)
class Optimum:
    """Where a budget is spent best; floats for one budget, else arrays of its shape.

    Attributes
    ----------
    P : float or array
        Bits of what is quantised.
    N, D : float or array
        Parameters and training tokens.
    loss : float or array
    """

    P: Any
    N: Any
    D: Any
    loss: Any


@dataclass(frozen=True)
class PrecisionLaw:
    r"""Loss of a network of N parameters trained on D tokens in low precision.

    .. math::
        L = A N_\mathrm{eff}^{-\alpha} + B D^{-\beta} + E + \delta, \qquad
        N_\mathrm{eff} = N \prod_{x \in w, a, kv} (1 - e^{-P_x / \gamma_x}), \qquad
        \delta = C_T \frac{D^{\gamma_D}}{N^{\gamma_N}} e^{-P_\mathrm{post} / \gamma_\mathrm{post}}

    P_w, P_a, P_kv are the bits of weights, activations and attention cache in training, P_post
    those to which the weights are rounded after it; they are real numbers, infinity leaves out the
    rounding.

    Parameters
    ----------
    A, alpha, B, beta, E : float
        Constants > 0 of the law of size and data.
    gamma : (3,) sequence of float
        Sensitivities > 0 to P_w, P_a and P_kv, in bits.
    C_T, gamma_D, gamma_N, gamma_post : float, optional
        Constants > 0 of the cost delta of rounding after training: all four, or none of them for a
        law without it.
    effective_size : bool
        Whether delta is that of N_eff instead of N.
    overlap : (3,) sequence of float, optional
        Constants C_x > 0 of factors :math:`1 - e^{-C_x \max(P_x - P_\mathrm{post}, 0)}` of delta:
        weights trained in few bits lose less when they are rounded.

    Raises
    ------
    TypeError, ValueError
        For constants that are not positive, for some of the four of delta without the others, and
        for `effective_size` or `overlap` without them.

    Notes
    -----
    `effective_size` and `overlap` make a unified law for the precision in training and after it.
    They are off by default: this form has not been compared with the published text.
    """

    A: float
    alpha: float
    B: float
    beta: float
    E: float
    gamma: tuple[float, float, float]
    C_T: float | None = None
    gamma_D: float | None = None
    gamma_N: float | None = None
    gamma_post: float | None = None
    effective_size: bool = False
    overlap: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("A", "alpha", "B", "beta", "E"):
            object.__setattr__(self, name, positive(name, getattr(self, name)))
        object.__setattr__(self, "gamma", _triple("gamma", self.gamma))
        rounding = ("C_T", "gamma_D", "gamma_N", "gamma_post")
        missing = [name for name in rounding if getattr(self, name) is None]
        if 0 < len(missing) < len(rounding):
            raise ValueError(
                f"{missing[0]} is missing: rounding after training needs all of "
                f"{', '.join(rounding)}"
            )
        if missing and (self.effective_size or self.overlap is not None):
            name = "effective_size" if self.effective_size else "overlap"
            raise ValueError(f"{name} is about rounding after training: pass {', '.join(rounding)}")
        if not missing:
            for name in rounding:
                object.__setattr__(self, name, positive(name, getattr(self, name)))
        if self.overlap is not None:
            object.__setattr__(self, "overlap", _triple("overlap", self.overlap))

    def effective(
        self,
        N: npt.ArrayLike,
        P_w: npt.ArrayLike = np.inf,
        P_a: npt.ArrayLike = np.inf,
        P_kv: npt.ArrayLike = np.inf,
    ) -> Any:
        """Number N_eff of parameters of equal worth in full precision.

        Parameters and errors as in `loss`.
        """
        kept: Any = _above_zero("N", N)
        for name, bits, gamma in zip(QUANTISED, (P_w, P_a, P_kv), self.gamma, strict=True):
            kept = kept * -np.expm1(-_above_zero(f"P_{name}", bits, finite=False) / gamma)
        return kept[()]

    def loss(
        self,
        N: npt.ArrayLike,
        D: npt.ArrayLike,
        P_w: npt.ArrayLike = np.inf,
        P_a: npt.ArrayLike = np.inf,
        P_kv: npt.ArrayLike = np.inf,
        P_post: npt.ArrayLike = np.inf,
    ) -> Any:
        """The loss; all arguments are broadcast against each other.

        Parameters
        ----------
        N, D : array
            Parameters and training tokens, > 0.
        P_w, P_a, P_kv, P_post : array, optional
            Bits > 0; infinity, the default, is full precision.

        Returns
        -------
        float or array

        Raises
        ------
        TypeError, ValueError
            For arguments that are not positive; for `P_post` in a law without rounding after
            training.
        """
        effective = self.effective(N, P_w, P_a, P_kv)
        tokens = _above_zero("D", D)
        loss = self.A * effective**-self.alpha + self.B * tokens**-self.beta + self.E
        post = _above_zero("P_post", P_post, finite=False)
        if np.isinf(post).all():
            return np.broadcast_arrays(loss, post)[0][()]
        if self.C_T is None:
            raise ValueError(
                "P_post: this law has no rounding after training; give it C_T, gamma_D, gamma_N "
                "and gamma_post"
            )
        size = effective if self.effective_size else _above_zero("N", N)
        assert self.gamma_D is not None
        assert self.gamma_N is not None
        assert self.gamma_post is not None
        delta = self.C_T * tokens**self.gamma_D / size**self.gamma_N
        delta = delta * np.exp(-post / self.gamma_post)
        if self.overlap is not None:
            # Where nothing is rounded delta vanishes whatever its factors.
            rounded = np.where(np.isinf(post), 0.0, post)
            for bits, constant in zip((P_w, P_a, P_kv), self.overlap, strict=True):
                delta = delta * -np.expm1(-constant * np.maximum(bits - rounded, 0))
        return (loss + delta)[()]

    def optimum(
        self,
        budget: npt.ArrayLike,
        *,
        N: npt.ArrayLike | None = None,
        quantised: str | tuple[str, ...] = QUANTISED,
        lowest: float = 1.0,
    ) -> Optimum:
        r"""Bits, size and data of the lowest loss at the cost :math:`C = (P / 16) \, 6 N D`.

        All that is `quantised` has the same P bits. With N free, P solves

        .. math:: \sum_x \frac{P / \gamma_x}{e^{P / \gamma_x} - 1} = 1

        whatever the budget, and N and D balance, ``alpha A N_eff^-alpha = beta B D^-beta``. With N
        given, the left-hand side times ``alpha A N_eff^-alpha`` is ``beta B D^-beta``, and P grows
        with the logarithm of the budget.

        Parameters
        ----------
        budget : array
            Cost C > 0 in operations.
        N : array, optional
            Size > 0 that is not to be chosen; of one shape with `budget`, up to broadcasting.
        quantised : {"w", "a", "kv"}, or tuple of these
            What is trained in P bits, the others in full precision. With a single one and N free
            there is no optimum, fewer bits are always better, and P is `lowest`.
        lowest : float
            Fewest bits > 0 that are allowed.

        Returns
        -------
        Optimum

        Raises
        ------
        TypeError, ValueError
            For arguments that are not as described.
        """
        cost = _above_zero("budget", budget)
        lowest = positive("lowest", lowest)
        names = (quantised,) if isinstance(quantised, str) else quantised
        chosen = [one_of("quantised", name, QUANTISED) for name in names]
        if not chosen or len(set(chosen)) < len(chosen):
            raise ValueError(f"quantised must name some of {QUANTISED} once, found {quantised!r}")
        gammas = np.array([self.gamma[QUANTISED.index(name)] for name in chosen])
        if N is None:
            bits: Any = np.full(cost.shape, max(lowest, _free_bits(gammas)))
            operations = cost * FULL_BITS / (6 * bits)
            # alpha A N_eff^-alpha = beta B D^-beta with D = operations / N.
            kept = _kept(bits, gammas)
            ratio = self.alpha * self.A * kept**-self.alpha / (self.beta * self.B)
            size = (ratio * operations**self.beta) ** (1 / (self.alpha + self.beta))
        else:
            size = _above_zero("N", N)
            try:
                cost, size = np.broadcast_arrays(cost, size)
            except ValueError as error:
                raise ValueError(f"budget and N do not fit: {error}") from None
            bits = np.vectorize(self._bits_at_size, signature="(),(),(n),()->()")(
                cost, size, gammas, lowest
            )
            operations = cost * FULL_BITS / (6 * bits)
        tokens = operations / size
        precisions = {f"P_{name}": bits for name in chosen}
        return Optimum(bits[()], size[()], tokens[()], self.loss(size, tokens, **precisions))

    def _bits_at_size(self, cost: float, size: float, gammas: FloatArray, lowest: float) -> float:
        """Best P at given N: the loss falls with P by N_eff and rises by D."""

        def excess(log_bits: float) -> float:
            bits = np.exp(log_bits)
            tokens = cost * FULL_BITS / (6 * bits * size)
            of_size = self.alpha * self.A * (size * _kept(bits, gammas)) ** -self.alpha
            return float(
                np.log(of_size)
                + np.log(_elasticity(bits, gammas))
                - np.log(self.beta * self.B)
                + self.beta * np.log(tokens)
            )

        # Falls with P from +inf to -inf; at 500 gamma the elasticity is still above underflow.
        low, high = np.log(lowest), np.log(500 * gammas.max())
        if low >= high or excess(low) <= 0:
            return lowest
        return float(np.exp(scipy.optimize.brentq(excess, low, high, xtol=1e-14)))

    @classmethod
    def fit(
        cls,
        N: npt.ArrayLike,
        D: npt.ArrayLike,
        P_w: npt.ArrayLike,
        P_a: npt.ArrayLike,
        P_kv: npt.ArrayLike,
        loss: npt.ArrayLike,
    ) -> FittedPrecisionLaw:
        """Fit A, alpha, B, beta, E and gamma to measured losses.

        Minimises the Huber loss (width 1e-3) of the residuals of log L, by trust-region least
        squares with the analytic Jacobian, from the best of a grid of starts; in logarithms of the
        constants, so that they stay positive.

        Parameters
        ----------
        N, D, P_w, P_a, P_kv, loss : arrays
            Runs, one an entry, broadcast against each other; all > 0, bits may be infinite. The
            losses are those before any rounding after training.

        Returns
        -------
        FittedPrecisionLaw
            A `PrecisionLaw` with its residuals and the covariance of its parameters.

        Raises
        ------
        TypeError, ValueError
            For arguments that are not positive; for fewer runs than parameters; if D, or N and all
            bits, take a single value, so that a power law cannot be told from a constant.

        Warns
        -----
        UserWarning
            If some P_x takes a single value: its gamma_x is not identifiable and kept at 1 (A makes
            up for it). If the runs do not determine some combination of the parameters.
        """
        sizes, tokens, losses = (
            _above_zero(name, value) for name, value in (("N", N), ("D", D), ("loss", loss))
        )
        bits = [
            _above_zero(f"P_{name}", value, finite=False)
            for name, value in zip(QUANTISED, (P_w, P_a, P_kv), strict=True)
        ]
        try:
            arrays = np.broadcast_arrays(sizes, tokens, losses, *bits)
        except ValueError as error:
            raise ValueError(f"N, D, P_w, P_a, P_kv and loss do not fit: {error}") from None
        sizes, tokens, losses, *bits = (np.ravel(array) for array in arrays)
        varied = [len(np.unique(values)) > 1 for values in bits]
        if len(np.unique(tokens)) == 1:
            raise ValueError("D takes a single value: B D^-beta cannot be told from E")
        if len(np.unique(sizes)) == 1 and not any(varied):
            raise ValueError("N and all bits take a single value: A cannot be told from E")
        free = np.array([True] * 5 + varied)
        if len(losses) < free.sum():
            raise ValueError(
                f"{len(losses)} runs cannot determine {free.sum()} parameters: pass more runs"
            )
        for name, is_free in zip(QUANTISED, varied, strict=True):
            if not is_free:
                warnings.warn(
                    f"P_{name} takes a single value: gamma_{name} cannot be identified and is kept "
                    "at 1",
                    stacklevel=2,
                )
        found = Fit(np.log(sizes), np.log(tokens), np.array(bits), np.log(losses), free).result()
        A, alpha, B, beta, E, *gamma = found.constants.tolist()
        return FittedPrecisionLaw(
            A=A,
            alpha=alpha,
            B=B,
            beta=beta,
            E=E,
            gamma=tuple(gamma),
            residuals=found.residuals,
            covariance=found.covariance,
        )


@dataclass(frozen=True, eq=False)
class FittedPrecisionLaw(PrecisionLaw):
    """A law with the quality of its fit; see `PrecisionLaw.fit`.

    Attributes
    ----------
    residuals : (n,) array
        log L measured minus fitted, run by run.
    covariance : (8, 8) array
        Of A, alpha, B, beta, E, gamma_w, gamma_a, gamma_kv, from the Jacobian and the variance of
        the residuals; infinite on the diagonal for a gamma that is not identifiable, NaN for as
        many runs as parameters, which leave no residual to judge by.
    """

    residuals: Any = None
    covariance: Any = None

    @property
    def errors(self) -> dict[str, float]:
        """Standard errors of the parameters by name."""
        return dict(zip(PARAMETERS, np.sqrt(np.diag(self.covariance)).tolist(), strict=True))


def _kept(bits: Any, gammas: FloatArray) -> Any:
    """Product of 1 - exp(-P/gamma_x)."""
    return np.prod(-np.expm1(-np.asarray(bits)[..., None] / gammas), axis=-1)


def _elasticity(bits: float, gammas: FloatArray) -> float:
    """d log N_eff / d log P, from their number at P = 0 to 0."""
    scaled = bits / gammas
    return float(np.sum(scaled * np.exp(-scaled) / -np.expm1(-scaled)))


def _free_bits(gammas: FloatArray) -> float:
    """The P at which N_eff gains as much from bits as from parameters; 0 for a single gamma."""
    if len(gammas) == 1:
        return 0.0
    largest = 2.0 * float(gammas.max()) * len(gammas)
    return float(
        scipy.optimize.brentq(
            lambda bits: _elasticity(bits, gammas) - 1, 1e-9 * gammas.min(), largest, xtol=1e-14
        )
    )


def _triple(name: str, values: Any) -> tuple[float, float, float]:
    found = real_array(name, values, 1)
    if len(found) != len(QUANTISED) or np.any(found <= 0):
        raise ValueError(f"{name} must hold three numbers > 0, for w, a and kv, not {values!r}")
    first, second, third = found.tolist()
    return first, second, third


def _above_zero(name: str, value: npt.ArrayLike, *, finite: bool = True) -> FloatArray:
    found = np.asarray(value)
    # Integers beyond 64 bits are objects.
    whole = found.dtype.kind == "O" and all(isinstance(x, numbers.Integral) for x in found.flat)
    if found.dtype.kind not in "fiu" and not whole:
        raise TypeError(f"{name} must hold real numbers, not {value!r}")
    array = found.astype(np.float64)
    wrong = ~(array > 0) | (np.isinf(array) & finite)
    if wrong.any():
        wanted = "> 0 and finite" if finite else "> 0"
        index = tuple(np.argwhere(wrong)[0].tolist())
        raise ValueError(
            f"{name} must be {wanted}, found {found[index]}" + (f" at {index}" if index else "")
        )
    return array
