"""Deep linear networks on random data: samples, width and input dimension in proportion.

Source of the theory: Bordelon & Pehlevan, "Deep linear network training dynamics from random
initialization: data, width, depth, and hyperparameter transfer" (2025, arXiv:2502.02531).

The hidden chain (`dmftcore.chain`) and the random data (`dmftcore.random_data`) drive each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dmftcore import _arrays
from dmftcore._validate import INFINITE, FloatArray, integer, non_negative, one_of, positive
from dmftcore.chain import Couplings, TwoTimeChain, hidden_layers
from dmftcore.limits.linear import DeepLinear
from dmftcore.march import largest_loss
from dmftcore.random_data import Population, RandomData
from dmftcore.solution import IntArray, Layers
from dmftcore.spectrum import AnySpectrum, PowerLaw, Spectrum
from dmftcore.training import GradientDescent, OnlineSGD

__all__ = ["ProportionalLinear", "ProportionalMarch"]

#: What `save` of `dmftcore.solve` may name.
DATA_KERNELS = ("Cp", "CD", "Cv")
RESPONSES = ("RD", "A", "B")
FIELDS = (*DATA_KERNELS, "H", "G", *RESPONSES)

#: The equations are evaluated once more over a quarter of the steps, but so many at least and at
#: most; with many modes no more than keep steps^3 x modes below CHECKED_WORK, or a tenth.
LEAST_CHECKED, MOST_CHECKED = 32, 200
CHECKED_WORK = 2e7


@dataclass(frozen=True)
class ProportionalLinear:
    """Deep linear network on random data, with width N and samples P in proportion to D.

    ``h^1 = W^0 x / sqrt(D)``, ``h^{l+1} = W^l h^l / sqrt(N)``, ``f = w . h^L / (kap sqrt(N))``,
    all weights iid N(0, init_scale^2) at the start. Inputs are ``x_i = sqrt(lambda_i) N(0, 1)``,
    targets ``y = beta* . x / sqrt(D) + noise N(0, 1)``. Every parameter moves by
    ``theta <- theta - lr D kap^2 grad(loss)``, ``loss = (1/2P) sum (y - f)^2``. With
    `branch_scale` the hidden layers are residual blocks,
    ``h^{l+1} = h^l + b W^l h^l / sqrt(N)``, ``b = branch_scale / sqrt(L - 1)``.

    Parameters
    ----------
    depth : int or INFINITE
        Number L of hidden layers; INFINITE, of residual blocks only, is the limit in which the
        depth becomes a continuous variable, as in `DeepLinear`.
    width_ratio : float
        nu = N / D > 0.
    sample_ratio : float
        alpha = P / D > 0; of the samples in each batch, in `OnlineSGD`.
    gamma : float
        Feature-learning strength gamma_0 > 0.
    noise : float
        Standard deviation >= 0 of the label noise.
    init_scale : float
        Standard deviation sigma of the initial weights.
    spectrum : Spectrum or PowerLaw, optional
        Covariance and target: eigenvalues, the mean of ``beta*^2`` over the directions of each
        mode, and the weights of the modes, by default all the same. With multiplicities, as of
        `PowerLaw.grouped`, weights are their parts of the sum, and the target of a mode is shared
        by its directions. None is isotropic: all eigenvalues and all ``beta*^2`` are 1.
    parameterization : {"mup", "ntk"}
        ``kap = gamma sqrt(nu)``, where the initial output vanishes at large width and learning
        does not change with it, or ``kap = gamma``.
    branch_scale : float, optional
        Scale beta_0 > 0 of the L - 1 residual blocks; None for a network without skips.

    Raises
    ------
    TypeError, ValueError
        For values out of range, and a depth without limit.

    Notes
    -----
    Source of the theory: Bordelon & Pehlevan, "Deep linear network training dynamics from random
    initialization" (2025, arXiv:2502.02531).
    """

    depth: int
    width_ratio: float
    sample_ratio: float
    gamma: float = 1.0
    noise: float = 0.0
    init_scale: float = 1.0
    spectrum: AnySpectrum | None = None
    parameterization: str = "mup"
    branch_scale: float | None = None

    def __post_init__(self) -> None:
        for name in ("width_ratio", "sample_ratio", "gamma", "init_scale"):
            object.__setattr__(self, name, positive(name, getattr(self, name)))
        object.__setattr__(self, "noise", non_negative("noise", self.noise))
        kind = one_of("parameterization", self.parameterization, ("mup", "ntk"))
        object.__setattr__(self, "parameterization", kind)
        if self.branch_scale is not None:
            scale = positive("branch_scale", self.branch_scale)
            object.__setattr__(self, "branch_scale", scale)
        if self.depth == INFINITE:
            if self.branch_scale is None:
                raise ValueError("depth = INFINITE needs residual blocks: pass branch_scale")
        else:
            at_least = 1 if self.branch_scale is None else 2
            object.__setattr__(self, "depth", integer("depth", self.depth, at_least=at_least))
        if self.spectrum is not None and not isinstance(self.spectrum, Spectrum | PowerLaw):
            raise TypeError(f"spectrum must be a Spectrum or a PowerLaw, not {self.spectrum!r}")

    @property
    def output_scale(self) -> float:
        """kap, the factor in ``f = w . h^L / (kap sqrt(N))``."""
        return self.gamma * (math.sqrt(self.width_ratio) if self.parameterization == "mup" else 1.0)

    @property
    def branch_factor(self) -> float | None:
        """Factor b of a residual block at finite depth; None for a network without skips."""
        if self.branch_scale is None or self.depth == INFINITE:
            return None
        return self.branch_scale / math.sqrt(self.depth - 1)

    @property
    def modes(self) -> Spectrum:
        """The spectrum, with the weights of its modes."""
        if self.spectrum is None:
            return Spectrum([1.0], [1.0], weights=[1.0])
        values, target = self.spectrum.values, self.spectrum.target
        weights, counts = self.spectrum.weights, self.spectrum.multiplicities
        if counts is not None:
            weights, target = counts / counts.sum(), target / counts
        elif weights is None:
            weights = np.full(len(values), 1 / len(values))
        return Spectrum(values, target, weights=weights)

    def population(self, *, fresh: bool = False) -> Population:
        """The random data; `fresh` ones are drawn anew at every step."""
        return Population(
            modes=self.modes,
            width_ratio=self.width_ratio,
            sample_ratio=self.sample_ratio,
            output_scale=self.output_scale,
            noise=self.noise,
            fresh=fresh,
        )

    @property
    def initial_curvature(self) -> float:
        """What an eigenvalue of the covariance contributes to the sharpness at step 0, nu large."""
        chain = DeepLinear(self.depth, init_scale=self.init_scale, branch_scale=self.branch_scale)
        return chain.initial_tangent_scale


class ProportionalMarch:
    """The hidden chain, driven by random data; a `dmftcore.march.March`.

    At each step: the backward rows of the chain; those of the data, which contain the losses; the
    forward rows of the chain.

    Parameters
    ----------
    limit : ProportionalLinear
    training : GradientDescent or OnlineSGD
    with_responses : bool
        Whether the responses A are wanted at the stored steps.
    xp : module, optional
        Array library in which the march runs. Results are numpy.
    """

    def __init__(
        self,
        limit: ProportionalLinear,
        training: GradientDescent | OnlineSGD,
        *,
        with_responses: bool = False,
        xp: Any = np,
    ) -> None:
        population = limit.population(fresh=isinstance(training, OnlineSGD))
        # The update of a hidden layer carries lr kap / sqrt(nu).
        couplings = Couplings(
            training.descent if isinstance(training, OnlineSGD) else training,
            points=population.feedback,
            init_scale=limit.init_scale,
            outputs=1,
            xp=xp,
        )
        self._xp, self._with_responses = xp, with_responses
        self._chain = hidden_layers(
            couplings,
            depth=limit.depth,
            branch=limit.branch_scale if limit.depth == INFINITE else limit.branch_factor,
            steps=training.steps,
            outputs=1,
            # The scale of the features is in the couplings.
            gamma=1.0,
            xp=xp,
            answers=True,
        )
        self._data = RandomData(population, couplings, steps=training.steps, xp=xp)
        self._recorded: _Recorded | None = None
        self._loss_limit = np.inf
        self._diverged = False
        self._stored: list[int] = []
        #: By stored step, rows of H of the last layer, and of A of all, where they are wanted.
        self._last_features: list[FloatArray] = []
        self._responses: list[list[FloatArray]] = []

    @property
    def step(self) -> int:
        return self._chain.step + self._diverged

    @property
    def chain(self) -> TwoTimeChain:
        """The hidden layers."""
        return self._chain

    def advance(self, stops: IntArray) -> FloatArray:
        """Cp(t,t), CD(t,t) and overlap, (len(stops), 3); fewer rows if the loss diverges."""
        begin, pieces = self._chain.step + 1, [np.empty((0, 3))]
        end = int(stops.max(initial=-1)) + 1
        with np.errstate(over="ignore", invalid="ignore"):
            while self.step + 1 < end and not self._diverged:
                pieces.append(self._next_steps(end))
        curves = np.concatenate(pieces)
        reached: FloatArray = curves[stops[stops < begin + len(curves)] - begin]
        return reached

    def store_kernels(self) -> None:
        """Keep the rows at the step that the histories do not hold."""
        step = self._chain.step
        self._stored.append(step)
        if self._chain.layers[-1] in self._chain.histories["h"] and not self._with_responses:
            return
        h, a = (
            self._xp.ascontiguousarray(self._data.histories[name][step : step + 1, : step + 1])
            for name in ("Cv", "A0")
        )
        rows = self._chain.lift(h, step, a)
        self._last_features.append(_arrays.to_host(rows.h[-1][0]))
        if self._with_responses:
            self._responses.append([_arrays.to_host(layer[0]) for layer in rows.a])

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything `restore` needs to go on bit for bit."""
        rows = {f"features{i}": row for i, row in enumerate(self._last_features)}
        responses = {f"responses{i}": np.stack(row) for i, row in enumerate(self._responses)}
        return {
            **{f"chain_{name}": array for name, array in self._chain.state().items()},
            **{
                f"data_{name}": array
                for name, array in self._data.state(self._chain.step + 1).items()
            },
            **rows,
            **responses,
            "loss_limit": np.array(self._loss_limit),
            "stored": np.array(self._stored, dtype=np.int64),
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state, on a march of the same problem; it may be longer."""
        for part, prefix in ((self._chain, "chain_"), (self._data, "data_")):
            names = (name for name in state if name.startswith(prefix))
            part.restore({name.removeprefix(prefix): state[name] for name in names})
        self._loss_limit = float(state["loss_limit"])
        self._stored = state["stored"].tolist()
        indices = range(len(self._stored))
        self._last_features = [state[f"features{i}"] for i in indices if f"features{i}" in state]
        self._responses = [
            list(state[f"responses{i}"]) for i in indices if f"responses{i}" in state
        ]

    def worth(self) -> dict[str, Any]:
        """What its answer is worth, for the diagnostics."""
        return {
            "residual": self.residual(),
            "mode_points": self._data.points,
            **self._chain.diagnostics,
        }

    def residual(self) -> float:
        """Largest relative violation of the equations of chain and data, from whole matrices."""
        modes = len(self._data.population.modes.values)
        done = self._chain.step + 1
        affordable = max(int((CHECKED_WORK / modes) ** (1 / 3)), done // 10)
        n = min(done, affordable, MOST_CHECKED, max(LEAST_CHECKED, done // 4))
        if n <= 0:
            return 0.0
        bottom = self._chain.layers[0]
        gradients = _arrays.to_host(self._chain.gradients(bottom)[:n, :n])
        first = min(self._chain.responses)
        kept, learned = self._chain.couplings.dense(n)
        response = kept * _arrays.to_host(self._chain.responses[first][:n, :n])
        response += learned * gradients
        return max(self._chain.residual(n), self._data.residual(response, gradients))

    def fields(self, save: tuple[str, ...]) -> dict[str, Any]:
        """Kernels and responses of a `Solution`, at the stored steps."""
        if not self._stored:
            return {}
        chain, data = self._chain, self._data.histories
        kernels: dict[str, Layers] = {
            **{name: {0: self._at_stored(data[name])} for name in DATA_KERNELS},
            "H": {layer: self._features(layer) for layer in chain.layers},
            "G": {
                layer: self._at_stored(chain.gradient_histories[layer]) for layer in chain.layers
            },
        }
        responses: dict[str, Layers] = {}
        if "RD" in save:
            responses["RD"] = {0: self._at_stored(data["RD"])}
        if "A" in save:
            responses["A"] = {
                layer: chain.link(layer) * self._rows_at_stored([row[i] for row in self._responses])
                for i, layer in enumerate(chain.layers)
            }
        if "B" in save:
            responses["B"] = {
                layer: chain.link(layer) * self._at_stored(history)
                for layer, history in chain.responses.items()
            }
        return {
            "equal_time": {
                name: {layer: k.diagonal().copy() for layer, k in layers.items()}
                for name, layers in kernels.items()
            },
            "two_time": {
                name: {layer: k + np.tril(k, -1).T for layer, k in layers.items()}
                for name, layers in kernels.items()
                if name in save
            },
            "responses": responses,
        }

    def _next_steps(self, end: int) -> FloatArray:
        """Move on by some steps, none of them beyond `end`; the curves of those that are done.

        If the loss at one has diverged, or the chain itself, the kernels end before it.
        """
        begin, gradients = self.step + 1, self._chain.gradient_histories[self._chain.layers[0]]
        reached = begin + 1
        if self._chain.repeats:
            if self._recorded is None:
                self._recorded = _Recorded(self._chain, self._data, gradients)
            reached = self._recorded.run(begin, end)
        else:
            self._append(gradients)
        curves = self._data.curves(begin, reached)
        if begin == 0:
            self._loss_limit = largest_loss(float(curves[0, 1]))
        sound = (curves[:, 1] <= self._loss_limit) & np.isfinite(curves).all(axis=1)
        done = len(curves) if sound.all() else int(np.argmin(sound))
        done *= self._chain.settled
        self._diverged = done < len(curves)
        self._chain.step = begin + done - 1
        return curves[:done]

    def _append(self, gradients: FloatArray) -> None:
        """Do the equations of one step."""
        d = self._chain.backward()
        step = self._chain.step
        if self._chain.settled:
            self._data.enter(step, d)
            self._chain.forward(*self._data.leave(step, *self._data.sums(step, gradients)))

    def _features(self, layer: int) -> FloatArray:
        """Lower triangle of H of a layer over the stored steps."""
        if layer in self._chain.histories["h"]:
            return self._at_stored(self._chain.histories["h"][layer])
        return self._rows_at_stored(self._last_features)

    def _at_stored(self, history: FloatArray) -> FloatArray:
        """Lower triangle over the stored steps of a history."""
        return np.tril(_arrays.to_host(history)[np.ix_(self._stored, self._stored)])

    def _rows_at_stored(self, rows: list[FloatArray]) -> FloatArray:
        """The same from the rows of the stored steps."""
        lower = np.zeros((len(rows), len(rows)))
        for i, row in enumerate(rows):
            lower[i, : i + 1] = row[self._stored[: i + 1]]
        return lower


class _Recorded:
    """The equations of a step, run by the core.

    Few modes are recorded with the rest, and the steps follow each other there. Many modes are
    summed between what precedes and what follows them.
    """

    def __init__(self, chain: TwoTimeChain, data: RandomData, gradients: FloatArray) -> None:
        self._data, self._gradients = data, gradients
        self._before = self._after = chain.program()
        top: Any = self._before.columns(chain.top)
        k: Any = data.enter(0, chain.descend(top))
        sums: Any
        if data.few_modes:
            sums = data.recorded_sums(k, gradients)
        else:
            self._after = chain.program()
            sums = self._after.input(2), self._after.input(2)
        self._sums = sums
        chain.ascend(*data.leave(0, *sums))

    def run(self, begin: int, end: int) -> int:
        """Run the step `begin`, and those up to `end` where nothing is between; where it ended."""
        if self._data.few_modes:
            self._before.run(begin, end)
            return end
        self._before.run(begin)
        for rows, found in zip(self._sums, self._data.sums(begin, self._gradients), strict=True):
            self._after.at(rows, begin)[:] = found
        self._after.run(begin)
        return begin + 1
