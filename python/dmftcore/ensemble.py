r"""The ensemble march: nonlinear networks of infinite width, on particles that stand for neurons.

Every hidden state h^l_mu is a field over particles, and the random matrices between them are
sampled interfaces (`dmftcore.sampled_interfaces`), so that no two-time kernel is stored. With
`Kx = X X^T`, X of r0 columns, the outer layers are columns a (r0) and w (K) over particles, and

    h^1 = a X^T,   h^{l+1} = s h^l + b W^l phi(h^l),   f_k = <w_k, psi(h^{B+1})> / gamma,

    g^{B+1}_{mu k} = w_k psi'(h_mu^{B+1}),   g^l = s g^{l+1} + b phi'(h^l) W^{l T} g^{l+1},

    W^l += lr b gamma / P sum_{mu k} Delta_{mu k} g^{l+1}_{mu k} phi(h^l_mu)^T,   likewise a and w.

Independent runs of the same network are marched side by side; their scatter is the sampling error.
The outputs are f - f(0), as in networks of finite width: f(0) vanishes in the limit.

Source of the theory: Bordelon & Pehlevan, "Self-consistent dynamical field theory of kernel
evolution in wide neural networks" (2022), in discrete time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dmftcore._validate import FloatArray
from dmftcore.losses import loss_function
from dmftcore.march import DIVERGENCE_FACTOR
from dmftcore.particles import CounterNormals, Normals, Particles, blend, products
from dmftcore.sampled_interfaces import Interface, Visit
from dmftcore.solution import IntArray, Layers
from dmftcore.training import GradientDescent

__all__ = ["Ensemble", "Network", "Sampling", "StoredKernels"]

#: Arrays of sources of the outer layers; those of the interfaces follow.
FIRST, LAST, INNER = 0, 1, 2


class Network(Protocol):
    """What the march is told of a network: `dmftcore.limits.architecture.Architecture`."""

    @property
    def blocks(self) -> int:
        """B, hidden matrices or blocks."""

    @property
    def skip(self) -> int:
        """s."""

    @property
    def branch(self) -> float:
        """b."""

    @property
    def activation(self) -> str:
        """phi."""

    @property
    def readout_activation(self) -> str:
        """psi."""

    @property
    def gamma(self) -> float:
        """gamma_0 > 0."""

    @property
    def block_layers(self) -> int:
        """Matrices of a block."""


@dataclass(frozen=True)
class Sampling:
    """How the particles of a march are sampled.

    Attributes
    ----------
    size : int
        Particles S of a set, in each run.
    runs : int
        Independent runs.
    tol : float
        Truncation of the bases; see `dmftcore.sampled_interfaces.Interface`.
    seed : int
    dtype : {"float64", "float32"}
    match : bool
        Whether sources are matched; see `dmftcore.particles.Particles`.
    pool : int, optional
        Largest number of columns they are matched to.
    unit : bool
        Take unit sources, in a network where nothing is nonlinear.
    control_variates : bool
        Subtract from fields and outputs what they would be without responses.
    """

    size: int
    runs: int = 1
    tol: float = 1e-4
    seed: int = 0
    dtype: str = "float64"
    match: bool = True
    pool: int | None = None
    unit: bool = False
    control_variates: bool = False


class Ensemble:
    """Runs of a network of infinite width; a `dmftcore.march.March`.

    Parameters
    ----------
    network : Network
        With gamma > 0.
    points : (P + Q, r0) array
        All points, training points first, as coordinates with ``Kx = points points^T``.
    targets : (P, K) array
    training : GradientDescent
    sampling : Sampling
    fields : bool, optional
        Whether the backward pass carries the gradients of every output, P K columns, or P columns
        in which the errors combine them, which is cheaper and serves as well, but knows no
        gradients at two times. By default the former for one output alone.
    two_time : bool
        Whether two-time kernels will be asked for.
    normals : Normals, optional
        Where the random numbers come from, in place of the seed.
    """

    def __init__(
        self,
        network: Network,
        points: FloatArray,
        targets: FloatArray,
        training: GradientDescent,
        sampling: Sampling,
        *,
        fields: bool | None = None,
        two_time: bool = False,
        normals: Normals | None = None,
    ) -> None:
        self.network, self.sampling = network, sampling
        self._points, self._targets, self._training = points, targets, training
        self._loss = loss_function(training.loss)
        self._n_train, self._outputs = targets.shape
        self._fields = self._outputs == 1 if fields is None else fields
        if sampling.control_variates and network.block_layers == 2:
            raise ValueError("control_variates: blocks of two layers have none")
        if sampling.unit and {network.activation, network.readout_activation} != {"linear"}:
            raise ValueError("unit sources are for networks in which nothing is nonlinear")
        normals = CounterNormals(sampling.seed) if normals is None else normals
        self._sets, self._blocks = _built(network, sampling, normals)
        first, last = self._sets[0], self._sets[network.blocks if network.skip == 0 else 0]
        self._a = _Layer(first, points.shape[1], FIRST, training)
        self._w = _Layer(last, self._outputs, LAST, training)
        #: c: what momentum and decay have left of an initial weight, and its velocity.
        self._kept = np.array([1.0, 0.0])
        count, states = len(points), network.blocks + 1
        self._h = [first.empty(count) for _ in range(states)]
        #: What the readout sees, psi(h^{B+1}).
        self._features = last.empty(count)
        self._initial = (self._a.columns.copy(), self._w.columns.copy())
        self._reference = (
            [first.empty(count) for _ in range(states)] if sampling.control_variates else None
        )
        self._g = first.empty(self._n_train * (self._outputs if self._fields else 1))
        self._step = -1
        self._has_gradients = False
        self._f: FloatArray = np.zeros((sampling.runs, count, self._outputs))
        self._f_initial = np.zeros_like(self._f)
        self._loss_limit = np.inf
        self.kernels = StoredKernels(two_time)

    # -- the march -------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        return self._step

    def advance(self, stops: IntArray) -> FloatArray:
        """Outputs (len(stops), runs, P + Q, K) at the given steps; fewer if a loss diverges."""
        rows: list[FloatArray] = []
        with np.errstate(over="ignore", invalid="ignore"):
            for stop in stops.tolist():
                while self._step < stop:
                    if not self._next_step():
                        return np.array(rows).reshape(-1, *self._f.shape)
                rows.append(self._f)
        return np.array(rows).reshape(-1, *self._f.shape)

    def store_kernels(self) -> None:
        """Keep the kernels of the current step, and what two-time kernels need."""
        self.kernels.append(self._measured())

    @property
    def interfaces(self) -> list[Interface]:
        """All of them, from below."""
        return [interface for block in self._blocks for interface in block.interfaces]

    def worth(self) -> dict[str, Any]:
        """What the answer is worth, for the diagnostics."""
        pairs = [interface.ranks for interface in self.interfaces]
        return {
            "tol": self.sampling.tol,
            "samples": self.sampling.size,
            "replicas": self.sampling.runs,
            "ranks": [[int(below.max()), int(above.max())] for below, above in pairs],
            "dropped": max((i.dropped for i in self.interfaces), default=0.0),
        }

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything `restore` needs to go on bit for bit."""
        parts: dict[str, npt.NDArray[Any]] = {
            "step": np.array(self._step),
            "has_gradients": np.array(self._has_gradients),
            "kept": self._kept.copy(),
            "f_initial": self._f_initial.copy(),
            "loss_limit": np.array(self._loss_limit),
            "initial.a": self._initial[0],
            "initial.w": self._initial[1],
        }
        for name, part in self._parts():
            parts |= {f"{name}.{key}": value for key, value in part.state().items()}
        return parts

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state, on a march of the same problem."""
        self._step = int(state["step"])
        self._kept = np.array(state["kept"])
        self._f_initial = np.array(state["f_initial"])
        self._loss_limit = float(state["loss_limit"])
        self._initial = (np.array(state["initial.a"]), np.array(state["initial.w"]))
        for name, part in self._parts():
            prefix = f"{name}."
            part.restore(
                {k.removeprefix(prefix): x for k, x in state.items() if k.startswith(prefix)}
            )
        # The fields follow from the weights, and visit nothing new.
        self._propagate()
        self._has_gradients = False
        if state["has_gradients"]:
            self._backpropagate()

    def _parts(self) -> list[tuple[str, Any]]:
        """All that has a state of its own, by name."""
        return [
            ("a", self._a),
            ("w", self._w),
            ("kernels", self.kernels),
            *((f"set.{i}", part) for i, part in enumerate(self._sets)),
            *((f"interface.{i}", part) for i, part in enumerate(self.interfaces)),
        ]

    def _next_step(self) -> bool:
        """Update, and move to the next step; False if a loss there has diverged."""
        if self._step >= 0:
            if not self._has_gradients:
                self._backpropagate()
            self._update(float(self._training.rates[self._step]))
        self._step += 1
        self._has_gradients = False
        self._propagate()
        if self._step == 0:
            self._f_initial = self._f.copy()
            self._f = np.zeros_like(self._f)
        loss = self._loss.mean(self._f[:, : self._n_train], self._targets)
        if self._step == 0:
            self._loss_limit = DIVERGENCE_FACTOR * max(float(loss.max()), 1e-300)
        return bool((loss <= self._loss_limit).all() and np.isfinite(self._f).all())

    def _propagate(self) -> None:
        """Hidden states and outputs of the present weights."""
        count, kept = len(self._points), float(self._kept[0])
        coordinates = self._for_all_runs(self._points.T)
        network, blocks = self.network, self._blocks
        # What the next block, or the readout, sees of a state.
        seen = [block.sees for block in blocks] + [network.readout_activation]
        values = [block.particles.empty(count) for block in blocks] + [self._features]
        blend(count, self._a.basis, coordinates, activation=seen[0], y=self._h[0], value=values[0])
        references: Any = [None] * len(seen)
        if self._reference is not None:
            references = [np.empty_like(x) for x in values]
            blend(
                count,
                self._a.basis_of(self._initial[0]),
                kept * coordinates,
                activation=seen[0],
                y=self._reference[0],
                value=references[0],
            )
        for level, block in enumerate(blocks):
            source = np.empty_like(self._h[level]) if self._reference is not None else None
            base = self._h[level] if network.skip else None
            block.forward(
                values[level],
                count,
                kept,
                reference=references[level],
                base=base,
                activation=seen[level + 1],
                u=source,
                y=self._h[level + 1],
                value=values[level + 1],
            )
            if self._reference is not None:
                one = np.tile(network.branch * np.eye(count), (self.sampling.runs, 1, 1))
                blend(
                    count,
                    (source, np.full(self.sampling.runs, count)),
                    one,
                    base=self._reference[level] if network.skip else None,
                    activation=seen[level + 1],
                    y=self._reference[level + 1],
                    value=references[level + 1],
                )
        f, _, _ = products(self._features, count, self._w.basis)
        if self._reference is not None:
            f -= kept * products(references[-1], count, self._w.basis_of(self._initial[1]))[0]
        self._f = f.swapaxes(1, 2) / network.gamma - self._f_initial

    def _errors(self) -> FloatArray:
        """Delta / P, (runs, P, K)."""
        train = self._f[:, : self._n_train]
        errors: FloatArray = self._loss.errors(train, self._targets) / self._n_train
        return errors

    def _backpropagate(self) -> None:
        """Gradients by the hidden states at the present step."""
        self._carry_back(self._fields)
        self._has_gradients = True

    def _carry_back(self, fields: bool) -> None:
        p, k, network = self._n_train, self._outputs, self.network
        kept = float(self._kept[0])
        if fields:
            combined = self._for_all_runs(np.tile(np.eye(k), (1, p)))
        else:
            combined = np.ascontiguousarray(self._errors().swapaxes(1, 2))
        n, repeat = combined.shape[2], k if fields else 1
        psi = network.readout_activation
        g = self._w.particles.empty(n)
        blend(
            n, self._w.basis, combined, field=self._h[-1], repeat=repeat, activation=psi, y=g
        )
        reference = None
        if self._reference is not None:
            reference = np.empty_like(g)
            initial = self._w.basis_of(self._initial[1])
            field = self._reference[-1]
            blend(
                n,
                initial,
                kept * combined,
                field=field,
                repeat=repeat,
                activation=psi,
                y=reference,
            )
        for level in range(len(self._blocks) - 1, -1, -1):
            block = self._blocks[level]
            below = block.particles.empty(n)
            source = np.empty_like(below) if reference is not None else None
            block.backward(
                g,
                n,
                kept,
                reference=reference,
                base=g if network.skip else None,
                field=self._h[level],
                repeat=repeat,
                u=source,
                y=below,
            )
            if reference is not None:
                assert self._reference is not None
                lower = np.empty_like(below)
                one = self._for_all_runs(np.eye(n))
                blend(
                    n,
                    (source, np.full(self.sampling.runs, n)),
                    one,
                    base=reference if network.skip else None,
                    scale=network.branch,
                    field=self._reference[level],
                    repeat=repeat,
                    activation=network.activation,
                    y=lower,
                )
                reference = lower
            g = below
        self._g = g

    def _update(self, rate: float) -> None:
        """One update of all weights."""
        p, k, gamma = self._n_train, self._outputs, self.network.gamma
        momentum, decay = self._training.momentum, self._training.weight_decay
        errors = self._errors()
        weights = errors.reshape(len(errors), 1, -1) if self._fields else None
        for block in self._blocks:
            block.update(gamma, weights, (p, k), rate, momentum, decay)
        columns = self._g.shape[1]
        inputs = np.repeat(self._points[:p], k, axis=0) if self._fields else self._points[:p]
        along = gamma * self._for_all_runs(inputs)
        if weights is not None:
            along *= weights.swapaxes(1, 2)
        self._a.update(self._g, columns, along, rate)
        self._w.update(self._features, p, gamma * errors, rate)
        velocity = momentum * self._kept[1] - decay * self._kept[0]
        self._kept = np.array([self._kept[0] + rate * velocity, velocity])

    def _for_all_runs(self, matrix: FloatArray) -> FloatArray:
        return np.tile(matrix, (self.sampling.runs, 1, 1))

    # -- kernels ---------------------------------------------------------------------------------

    def _measured(self) -> Measured:
        """What the kernels at the present step are made of."""
        network, blocks = self.network, self._blocks
        if not self._has_gradients and self._fields:
            self._backpropagate()
        marks = None
        if not self._fields:
            # The gradients of every output, on columns that are forgotten again.
            marks = [part.mark() for part in (*self._sets, *self.interfaces)]
            combined, visits = self._g, [block.backward_visits for block in blocks]
            self._carry_back(fields=True)
        count, g = len(self._points), self._g
        n = g.shape[1]
        _, _, psi = products(self._features, count, gram=True)
        _, _, first = products(g, n, gram=True)
        states = [products(h, count, gram=True)[2] for h in self._h]
        features = [block.features.gram for block in blocks] + [psi]
        gradients = [first] + [block.gradients.gram for block in blocks]
        train = slice(self._n_train)
        ntk = _with_outputs(psi[:, train, train], self._outputs)
        # In the coordinates of Kx: no test points there.
        inputs = self._points[train] @ self._points[train].T
        ntk = ntk + first * _repeated(inputs, self._outputs)
        for block in blocks:
            ntk += block.tangent(train, self._outputs)
        two_time: dict[str, list[Any]] = {}
        if self.kernels.two_time:
            two_time = {
                "H": [h.copy() for h in self._h],
                "Phi": [block.features.along for block in blocks],
                "psi": [self._features.copy()],
                "G": [block.gradients.along for block in blocks],
                "g": [g.copy()],
                "AG": [block.features.response for block in blocks],
                "BPhi": [block.gradients.response for block in blocks],
            }
        if marks is not None:
            for part, mark in zip((*self._sets, *self.interfaces), marks, strict=True):
                part.rewind(mark)
            self._g = combined
            for block, known in zip(blocks, visits, strict=True):
                block.backward_visits = known
        return Measured(states, features, gradients, ntk, two_time)


class _Layer:
    """An outer layer of weights: columns over particles, which learn."""

    def __init__(
        self, particles: Particles, count: int, stream: int, training: GradientDescent
    ) -> None:
        self.particles, self._training = particles, training
        self.columns = particles.empty(count)
        for run in range(particles.runs):
            self.columns[run] = particles.draw(run, count, stream, 0)
        self._velocity = np.zeros_like(self.columns) if training.momentum else None

    @property
    def basis(self) -> tuple[Any, Any]:
        """The columns, as the operations take them."""
        return self.basis_of(self.columns)

    def basis_of(self, columns: Any) -> tuple[Any, Any]:
        """Other columns like these."""
        return columns, np.full(len(columns), columns.shape[1])

    def update(self, fields: Any, n: int, along: FloatArray, rate: float) -> None:
        """Heavy ball along ``sum_j along_j fields_j`` of the first n fields; along (runs, n, m)."""
        basis = (fields, np.full(len(fields), n))
        factors = np.zeros((len(fields), fields.shape[1], along.shape[2]))
        factors[:, :n] = along
        count, decay = along.shape[2], self._training.weight_decay
        if self._velocity is None:
            blend(
                count,
                basis,
                factors,
                base=self.columns,
                skip=1 - rate * decay,
                scale=rate,
                y=self.columns,
            )
            return
        momentum = self._training.momentum
        blend(count, basis, factors, base=self._velocity, skip=momentum, y=self._velocity)
        if decay:
            self._velocity -= decay * self.columns
        self.columns += rate * self._velocity

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Weights and velocities."""
        parts = {"columns": self.columns.copy()}
        return parts if self._velocity is None else parts | {"velocity": self._velocity.copy()}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take what `state` has returned."""
        self.columns = np.array(state["columns"])
        self._velocity = np.array(state["velocity"]) if "velocity" in state else None


class _Block(Protocol):
    """What lies between a hidden state and the next one."""

    particles: Particles
    interfaces: Sequence[Interface]
    sees: str
    features: Visit
    gradients: Visit
    backward_visits: Any

    def forward(self, x: Any, n: int, kept: float, **rest: Any) -> None:
        """The next hidden state from what the block sees of this one; arguments of `blend`."""

    def backward(self, g: Any, n: int, kept: float, **rest: Any) -> None:
        """Gradients by this state from those by the next one; arguments of `blend`."""

    def update(
        self,
        gamma: float,
        weights: FloatArray | None,
        shape: tuple[int, int],
        rate: float,
        momentum: float,
        decay: float,
    ) -> None:
        """Learn from the latest passes; weights (runs, 1, P K) of gradients of every output."""

    def tangent(self, train: slice, outputs: int) -> FloatArray:
        """What the weights of the block add to the tangent kernel, (runs, P K, P K)."""


class _PlainBlock:
    """``s h + b W phi(h)``."""

    def __init__(self, network: Network, interface: Interface) -> None:
        self._network, self.interfaces = network, (interface,)
        self.particles = interface.below.particles
        self.sees = network.activation
        self.features: Any = None
        self.gradients: Any = None

    @property
    def backward_visits(self) -> Any:
        """What the latest backward pass has left here."""
        return self.gradients

    @backward_visits.setter
    def backward_visits(self, visits: Any) -> None:
        self.gradients = visits

    def forward(self, x: Any, n: int, kept: float, **rest: Any) -> None:
        scale = self._network.branch
        self.features = self.interfaces[0].forward(
            x, n, kept, skip=float(self._network.skip), scale=scale, **rest
        )

    def backward(self, g: Any, n: int, kept: float, **rest: Any) -> None:
        network = self._network
        self.gradients = self.interfaces[0].backward(
            g,
            n,
            kept,
            skip=float(network.skip),
            scale=network.branch,
            activation=network.activation,
            **rest,
        )

    def update(
        self,
        gamma: float,
        weights: FloatArray | None,
        shape: tuple[int, int],
        rate: float,
        momentum: float,
        decay: float,
    ) -> None:
        left = gamma * self._network.branch * _combined(self.gradients.along, weights, shape)
        right = self.features.along[:, :, : shape[0]]
        self.interfaces[0].update(left, right, rate, momentum, decay)

    def tangent(self, train: slice, outputs: int) -> FloatArray:
        features = _repeated(self.features.gram[:, train, train], outputs)
        kernel: FloatArray = self._network.branch**2 * self.gradients.gram * features
        return kernel


class _TwoLayerBlock:
    """``s h + b V phi(W h)``, with particles of their own for W h."""

    def __init__(self, network: Network, lower: Interface, upper: Interface) -> None:
        self._network, self.interfaces = network, (lower, upper)
        self.particles = lower.below.particles
        self.sees = "linear"
        self._hidden: Any = None
        self._enters: Any = None
        self.features: Any = None
        self.gradients: Any = None
        self._inner: Any = None

    @property
    def backward_visits(self) -> Any:
        """What the latest backward pass has left here."""
        return self.gradients, self._inner

    @backward_visits.setter
    def backward_visits(self, visits: Any) -> None:
        self.gradients, self._inner = visits

    def forward(self, x: Any, n: int, kept: float, **rest: Any) -> None:
        lower, upper = self.interfaces
        network, inside = self._network, lower.above.particles
        self._hidden, value = inside.empty(n), inside.empty(n)
        rest.pop("u"), rest.pop("reference")
        self._enters = lower.forward(
            x, n, kept, activation=network.activation, y=self._hidden, value=value
        )
        self.features = upper.forward(
            value, n, kept, skip=float(network.skip), scale=network.branch, **rest
        )

    def backward(self, g: Any, n: int, kept: float, **rest: Any) -> None:
        lower, upper = self.interfaces
        network, p = self._network, lower.above.particles.empty(n)
        rest.pop("field"), rest.pop("u"), rest.pop("reference")
        self.gradients = upper.backward(
            g,
            n,
            kept,
            scale=network.branch,
            field=self._hidden,
            repeat=rest.pop("repeat"),
            activation=network.activation,
            y=p,
        )
        self._inner = lower.backward(p, n, kept, skip=float(network.skip), **rest)

    def update(
        self,
        gamma: float,
        weights: FloatArray | None,
        shape: tuple[int, int],
        rate: float,
        momentum: float,
        decay: float,
    ) -> None:
        passes = (
            (self.interfaces[0], gamma, self._inner, self._enters),
            (self.interfaces[1], gamma * self._network.branch, self.gradients, self.features),
        )
        for interface, scale, above, below in passes:
            left = scale * _combined(above.along, weights, shape)
            interface.update(left, below.along[:, :, : shape[0]], rate, momentum, decay)

    def tangent(self, train: slice, outputs: int) -> FloatArray:
        b2 = self._network.branch**2
        upper = self.gradients.gram * _repeated(self.features.gram[:, train, train], outputs)
        lower = self._inner.gram * _repeated(self._enters.gram[:, train, train], outputs)
        kernel: FloatArray = b2 * upper + lower
        return kernel


def _built(
    network: Network, sampling: Sampling, normals: Normals
) -> tuple[list[Particles], list[Any]]:
    """Sets of particles and blocks: with skips all hidden states live on the same particles."""

    def particles(*, inner: bool = False) -> Particles:
        return Particles(
            sampling.runs,
            sampling.size,
            sampling.dtype,
            normals,
            match=sampling.match,
            unit=sampling.unit and not inner,
            pool=sampling.pool,
        )

    blocks: list[Any] = []
    sets = [particles()]
    for level in range(network.blocks):
        streams = INNER + 4 * level
        if network.block_layers == 2:
            stream, hidden = sets[0], particles(inner=True)
            sets.append(hidden)
            lower = Interface(stream, hidden, sampling.tol, (streams, streams + 1))
            upper = Interface(hidden, stream, sampling.tol, (streams + 2, streams + 3))
            blocks.append(_TwoLayerBlock(network, lower, upper))
            continue
        below = sets[-1]
        if not network.skip:
            sets.append(particles())
        interface = Interface(below, sets[-1], sampling.tol, (streams, streams + 1))
        blocks.append(_PlainBlock(network, interface))
    return sets, blocks


def _combined(
    along: FloatArray, weights: FloatArray | None, shape: tuple[int, int]
) -> FloatArray:
    """Coordinates of the gradients of the loss, (runs, k, P)."""
    if weights is None:
        return along
    summed: FloatArray = (along * weights).reshape(*along.shape[:2], *shape).sum(axis=-1)
    return summed


def _repeated(kernel: FloatArray, outputs: int) -> FloatArray:
    """A kernel of points (..., P, P) for every pair of outputs, (..., P K, P K)."""
    repeated: FloatArray = np.repeat(np.repeat(kernel, outputs, axis=-2), outputs, axis=-1)
    return repeated


def _with_outputs(kernel: FloatArray, outputs: int) -> FloatArray:
    """A kernel of points (..., P, P) for equal outputs, (..., P K, P K)."""
    return _repeated(kernel, outputs) * np.tile(np.eye(outputs), (kernel.shape[-1],) * 2)


@dataclass(frozen=True)
class Measured:
    """What the kernels at one step are made of.

    Attributes
    ----------
    states, features : lists of (runs, P + Q, P + Q) arrays
        H^1..H^{B+1}, and Phi^1..Phi^B and Psi.
    gradients : list of (runs, P K, P K) arrays
        G^1..G^{B+1}.
    ntk : (runs, P K, P K) array
    two_time : dict
        Fields, and coordinates along visited columns, by name and layer.
    """

    states: list[FloatArray]
    features: list[FloatArray]
    gradients: list[FloatArray]
    ntk: FloatArray
    two_time: dict[str, list[Any]]


class StoredKernels:
    """Kernels of an ensemble at the steps where they were stored.

    Parameters
    ----------
    two_time : bool
        Whether to keep what two-time kernels need.
    """

    def __init__(self, two_time: bool) -> None:
        self.two_time = two_time
        self._stored: list[Measured] = []

    def __len__(self) -> int:
        return len(self._stored)

    def append(self, measured: Measured) -> None:
        """Keep those of one more step."""
        self._stored.append(measured)

    def equal_time(self) -> dict[str, Layers]:
        """H, Phi, G by layer from 1 on, (runs, n, ., .)."""
        names = {"H": "states", "Phi": "features", "G": "gradients"}
        return {
            name: {
                layer: np.stack(kernels, axis=1)
                for layer, kernels in enumerate(
                    zip(*(getattr(m, group) for m in self._stored), strict=True), start=1
                )
            }
            for name, group in names.items()
        }

    def ntk(self) -> FloatArray:
        """Tangent kernels (runs, n, P K, P K)."""
        return np.stack([m.ntk for m in self._stored], axis=1)

    def between_times(self, name: str) -> Layers:
        """A two-time kernel by layer from 1 on, (runs, n, ., n, .).

        "H", "Phi", "G"; "AG" and "BPhi", responses times the correlations of what they answer to.
        """
        fields = {"H": "H", "Phi": "psi", "G": "g"}
        layers: list[FloatArray] = []
        if name in ("AG", "BPhi"):
            partner = "G" if name == "AG" else "Phi"
            layers = [
                _pairs(left, right)
                for left, right in zip(self._history(name), self._history(partner), strict=True)
            ]
        else:
            outer = [_mean_products(columns) for columns in self._history(fields[name])]
            inner = [] if name == "H" else [_pairs(x, x) for x in self._history(name)]
            # The readout sees the last state; the lowest gradient is that by the first one.
            layers = outer + inner if name == "G" else inner + outer
        return dict(enumerate(layers, start=1))

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """All that is stored."""
        parts: dict[str, npt.NDArray[Any]] = {"count": np.array(len(self._stored))}
        for i, m in enumerate(self._stored):
            parts[f"{i}.ntk"] = m.ntk
            groups = {"states": m.states, "features": m.features, "gradients": m.gradients}
            for name, arrays in (groups | m.two_time).items():
                parts |= {f"{i}.{name}.{j}": x for j, x in enumerate(arrays)}
        return parts

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take what `state` has returned."""

        def arrays(i: int, name: str) -> list[Any]:
            found: list[Any] = []
            while f"{i}.{name}.{len(found)}" in state:
                found.append(np.asarray(state[f"{i}.{name}.{len(found)}"]))
            return found

        names = ("H", "Phi", "psi", "G", "g", "AG", "BPhi") if self.two_time else ()
        self._stored = [
            Measured(
                arrays(i, "states"),
                arrays(i, "features"),
                arrays(i, "gradients"),
                np.asarray(state[f"{i}.ntk"]),
                {name: arrays(i, name) for name in names},
            )
            for i in range(int(state["count"]))
        ]

    def _history(self, name: str) -> list[list[Any]]:
        """By layer, what the stored steps have kept."""
        return [list(layer) for layer in zip(*(m.two_time[name] for m in self._stored), strict=True)]


def _pairs(left: list[FloatArray], right: list[FloatArray]) -> FloatArray:
    """``left_t^T right_s`` of coordinates that were padded differently, (runs, n, ., n, .)."""
    size = max(x.shape[1] for x in (*left, *right))

    def side(parts: list[FloatArray]) -> FloatArray:
        stacked = [np.pad(x, ((0, 0), (0, size - x.shape[1]), (0, 0))) for x in parts]
        return np.concatenate(stacked, axis=2)

    product = side(left).swapaxes(1, 2) @ side(right)
    shape = (len(left), left[0].shape[2], len(right), right[0].shape[2])
    return product.reshape(-1, *shape)


def _mean_products(fields: list[Any]) -> FloatArray:
    """Inner products of fields at all stored steps, (runs, n, ., n, .)."""
    columns = np.concatenate(fields, axis=1)
    _, _, gram = products(columns, columns.shape[1], gram=True)
    n, width = len(fields), fields[0].shape[1]
    kernel: FloatArray = gram.reshape(-1, n, width, n, width)
    return kernel
