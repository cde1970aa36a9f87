r"""The ensemble march: nonlinear networks of infinite width, on particles that stand for neurons.

Every hidden state h^l_mu is a field over particles, and the random matrices between them are
sampled interfaces (`dmftcore.sampled.interfaces`), so that no two-time kernel is stored. With
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

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg

from dmftcore import _arrays
from dmftcore._validate import FloatArray
from dmftcore.losses import loss_function
from dmftcore.march import largest_loss
from dmftcore.sampled.blocks import FIRST, LAST, Network, Sampling, build, repeated
from dmftcore.sampled.interfaces import Interface
from dmftcore.sampled.kernels import StoredKernels
from dmftcore.sampled.outer_layer import OuterLayer
from dmftcore.sampled.particles import (
    CounterNormals,
    Normals,
    Particles,
    blend,
    products,
    two_layer_march,
)
from dmftcore.solution import IntArray
from dmftcore.training import GradientDescent

__all__ = ["Ensemble"]

#: Largest number of outputs of the steps that one operation makes.
AT_ONCE = 1 << 18


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
        gradients at two times. By default the former for one output, and for two-time kernels.
    two_time : bool
        Whether two-time kernels will be asked for.
    normals : Normals, optional
        Where the random numbers come from, in place of the seed.
    xp : module
        Library of the particles, numpy or cupy; outputs, errors and stored kernels are numpy.
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
        xp: Any = np,
    ) -> None:
        self.network, self.sampling, self._xp = network, sampling, xp
        self._points, self._targets = map(np.ascontiguousarray, (points, targets))
        self._training = training
        self._loss = loss_function(training.loss)
        self._n_train, self._outputs = targets.shape
        self._fields = two_time or self._outputs == 1 if fields is None else fields
        if sampling.control_variates and network.block_layers == 2:
            raise ValueError("control_variates: blocks of two layers have none")
        if sampling.unit and {network.activation, network.readout_activation} != {"linear"}:
            raise ValueError("unit sources are for networks in which nothing is nonlinear")
        normals = CounterNormals(sampling.seed) if normals is None else normals
        self._sets, self._blocks = build(network, sampling, normals, xp)
        first, last = self._sets[0], self._sets[network.blocks if network.skip == 0 else 0]
        self._a = OuterLayer(first, points.shape[1], FIRST, training)
        self._w = OuterLayer(last, self._outputs, LAST, training)
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
        #: Whether steps are one operation, which keeps no hidden states.
        self._at_once = xp is np and not (self._blocks or sampling.control_variates)
        self._g = first.empty(self._n_train * (self._outputs if self._fields else 1))
        #: Passes that have grown no basis the last time they were made.
        self._quiet: set[Callable[[], None]] = set()
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

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the outputs of a step, (runs, P + Q, K)."""
        return self._f.shape

    def advance(self, stops: IntArray) -> FloatArray:
        """Outputs (len(stops), runs, P + Q, K) at the given steps; fewer if a loss diverges."""
        rows: list[FloatArray] = []
        with np.errstate(over="ignore", invalid="ignore"):
            if self._at_once:
                return self._advance_at_once(stops)
            for stop in stops.tolist():
                while self._step < stop:
                    if not self._next_step():
                        return np.array(rows).reshape(-1, *self.shape)
                rows.append(self._f)
        return np.array(rows).reshape(-1, *self.shape)

    def store_kernels(self) -> None:
        """Keep the kernels of the current step, and what two-time kernels need."""
        if self._fields:
            if not self._has_gradients:
                self._backpropagate()
            self._measure()
            return
        # The gradients of every output, along columns that are forgotten again.
        parts: list[Particles | Interface] = [*self._sets, *self.interfaces]
        marks = [part.mark() for part in parts]
        known = self._g, [block.backward_visits for block in self._blocks]
        self._carry_back(fields=True)
        self._measure()
        self._g, visits = known
        for block, visit in zip(self._blocks, visits, strict=True):
            block.backward_visits = visit
        for part, mark in zip(parts, marks, strict=True):
            part.rewind(mark)

    @property
    def interfaces(self) -> list[Interface]:
        """All of them, from below."""
        return [interface for block in self._blocks for interface in block.interfaces]

    def diagnostics(self) -> dict[str, Any]:
        """What the answer is worth."""
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
        # The passes are kept, and not made again: they would differ by rounding.
        if not self._has_gradients:
            self._backpropagate()
        parts: dict[str, npt.NDArray[Any]] = {
            "step": np.array(self._step),
            "kept": self._kept.copy(),
            "f": self._f.copy(),
            "f_initial": self._f_initial.copy(),
            "features": _arrays.host_copy(self._features),
            "g": _arrays.host_copy(self._g),
            **{f"h.{level}": _arrays.host_copy(h) for level, h in enumerate(self._h)},
            "loss_limit": np.array(self._loss_limit),
            "initial.a": _arrays.to_host(self._initial[0]),
            "initial.w": _arrays.to_host(self._initial[1]),
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
        xp = self._xp
        self._initial = (xp.array(state["initial.a"]), xp.array(state["initial.w"]))
        for name, part in self._parts():
            prefix = f"{name}."
            part.restore(
                {k.removeprefix(prefix): x for k, x in state.items() if k.startswith(prefix)}
            )
        self._f, self._g = np.array(state["f"]), xp.array(state["g"])
        self._features[...] = xp.asarray(state["features"])
        for level, h in enumerate(self._h):
            h[...] = xp.asarray(state[f"h.{level}"])
        self._has_gradients = True

    def _parts(self) -> list[tuple[str, Any]]:
        """All that has a state of its own, by name."""
        return [
            ("a", self._a),
            ("w", self._w),
            ("kernels", self.kernels),
            *((f"set.{i}", part) for i, part in enumerate(self._sets)),
            *((f"interface.{i}", part) for i, part in enumerate(self.interfaces)),
            *((f"block.{i}", part) for i, part in enumerate(self._blocks)),
        ]

    def _next_step(self) -> bool:
        """Update, and move to the next step; False if a loss there has diverged."""
        if self._step >= 0:
            if not self._has_gradients:
                self._backpropagate()
            self._update(float(self._training.rates[self._step]))
        self._through_interfaces(self._propagate)
        self._step += 1
        self._has_gradients = False
        if self._step == 0:
            self._start()
        return bool(self._sound(self._f[None])[0])

    def _start(self) -> None:
        """At step 0, with outputs from which nothing was subtracted."""
        self._f_initial = self._f.copy()
        self._f = np.zeros_like(self._f)
        loss = self._loss.mean(self._f[:, : self._n_train], self._targets)
        self._loss_limit = largest_loss(float(loss.max()))

    def _sound(self, f: FloatArray) -> Any:
        """Whether no loss has diverged, for outputs (n, runs, P + Q, K) of n steps."""
        losses = self._loss.mean(f[:, :, : self._n_train], self._targets)
        return (losses <= self._loss_limit).all(axis=1) & np.isfinite(f).all(axis=(1, 2, 3))

    def _advance_at_once(self, stops: IntArray) -> FloatArray:
        """`advance`, of a network without interfaces."""
        if self._step < 0:
            self._step = 0
            self._f = self._march_at_once(0)[0]
            self._start()
        rows = [self._f[None][: int((stops == self._step).sum())]]
        most = max(1, AT_ONCE // self._f.size)
        while self._step < stops[-1]:
            first, last = self._step, min(int(stops[-1]), self._step + most)
            f = self._march_at_once(last)
            sound = self._sound(f)
            reached = first + (len(f) - 1 if sound.all() else int(sound.argmin()))
            for rate in self._training.rates[first:reached]:
                self._forget(float(rate))
            self._step, self._f, self._has_gradients = reached, f[reached - first], False
            passed = stops[(stops > first) & (stops <= last)]
            if not sound.all():
                rows.append(f[passed[passed < reached] - first])
                break
            rows.append(f[passed - first])
        return np.concatenate(rows)

    def _march_at_once(self, last: int) -> FloatArray:
        """Outputs of the present step and of all up to the `last`, to which the weights move."""
        training, network = self._training, self.network
        rates = np.ascontiguousarray(training.rates[self._step : last], dtype=np.float64)
        return two_layer_march(
            (self._a.columns, self._w.columns),
            (self._a.velocity, self._w.velocity),
            self._points,
            self._targets,
            self._f_initial,
            rates,
            activation=network.readout_activation,
            loss=training.loss,
            gamma=network.gamma,
            momentum=training.momentum,
            decay=training.weight_decay,
        )

    def _through_interfaces(self, carry: Callable[[], None]) -> None:
        """Carry fields through all interfaces.

        At each of them a basis may grow, which the host has to know before it goes on. It does not
        wait for a device that often while bases rarely grow: it takes it that none does, looks once
        at the end, and makes the pass again if one should have.
        """
        interfaces = self.interfaces
        if self._xp is not np and interfaces and carry in self._quiet:
            for interface in interfaces:
                interface.postponed = True
            carry()
            for interface in interfaces:
                interface.postponed = False
            levels = _arrays.to_host(self._xp.stack([i.levels for i in interfaces]))
            visited = list(zip(interfaces, levels, strict=True))
            if not any(interface.leaves_span(level).any() for interface, level in visited):
                for interface, level in visited:
                    interface.drop(*level)
                return
        ranks = [np.concatenate(interface.ranks) for interface in interfaces]
        carry()
        grown = any(
            (before != np.concatenate(interface.ranks)).any()
            for before, interface in zip(ranks, interfaces, strict=True)
        )
        (self._quiet.discard if grown else self._quiet.add)(carry)

    def _propagate(self) -> None:
        """Hidden states and outputs of the present weights."""
        reference = self._carry_forward()
        count = len(self._points)
        f, _, _ = products(self._features, count, self._w.basis)
        if reference is not None:
            initial = self._w.basis_of(self._initial[1])
            f -= float(self._kept[0]) * products(reference, count, initial)[0]
        self._f = _arrays.to_host(f).swapaxes(1, 2) / self.network.gamma - self._f_initial

    def _carry_forward(self) -> Any:
        """Hidden states of the present weights; the features of no response, if those are kept."""
        count, kept = len(self._points), float(self._kept[0])
        coordinates = self._for_all_runs(self._points.T)
        network, blocks = self.network, self._blocks
        # What the next block, or the readout, sees of a state.
        seen = [block.sees for block in blocks] + [network.readout_activation]
        values = [block.particles.empty(count) for block in blocks] + [self._features]
        blend(count, self._a.basis, coordinates, activation=seen[0], y=self._h[0], value=values[0])
        references: Any = [None] * len(seen)
        if self._reference is not None:
            references = [self._xp.empty_like(x) for x in values]
            blend(
                count,
                self._a.basis_of(self._initial[0]),
                kept * coordinates,
                activation=seen[0],
                y=self._reference[0],
                value=references[0],
            )
        for level, block in enumerate(blocks):
            source = None if self._reference is None else self._xp.empty_like(self._h[level])
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
                    (source, None),
                    one,
                    base=self._reference[level] if network.skip else None,
                    activation=seen[level + 1],
                    y=self._reference[level + 1],
                    value=references[level + 1],
                )
        return references[-1]

    def _errors(self) -> FloatArray:
        """Delta / P, (runs, P, K)."""
        train = self._f[:, : self._n_train]
        errors: FloatArray = self._loss.errors(train, self._targets) / self._n_train
        return errors

    def _backpropagate(self) -> None:
        """Gradients by the hidden states at the present step."""
        self._through_interfaces(self._carry_back)
        self._has_gradients = True

    def _carry_back(self, fields: bool | None = None) -> None:
        """Gradients of every output, or those that the errors combine; by default as chosen."""
        fields = self._fields if fields is None else fields
        if self._at_once:
            self._carry_forward()
        p, k, network = self._n_train, self._outputs, self.network
        kept = float(self._kept[0])
        if fields:
            combined = self._for_all_runs(np.tile(np.eye(k), (1, p)))
        else:
            combined = np.ascontiguousarray(self._errors().swapaxes(1, 2))
        n, repeat = combined.shape[2], k if fields else 1
        psi = network.readout_activation
        g = self._w.particles.empty(n)
        blend(n, self._w.basis, combined, field=self._h[-1], repeat=repeat, activation=psi, y=g)
        reference = None
        if self._reference is not None:
            reference = self._xp.empty_like(g)
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
            source = None if reference is None else self._xp.empty_like(below)
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
                lower = self._xp.empty_like(below)
                one = self._for_all_runs(np.eye(n))
                blend(
                    n,
                    (source, None),
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
        errors = self._errors()
        weights = errors.reshape(len(errors), 1, -1) if self._fields else None
        for block in self._blocks:
            block.update(gamma, weights, p, rate, self._training)
        columns = self._g.shape[1]
        inputs = np.repeat(self._points[:p], k, axis=0) if self._fields else self._points[:p]
        along = gamma * self._for_all_runs(inputs)
        if weights is not None:
            along *= weights.swapaxes(1, 2)
        self._a.update(self._g, columns, along, rate)
        self._w.update(self._features, p, gamma * errors, rate)
        self._forget(rate)

    def _forget(self, rate: float) -> None:
        """What momentum and decay leave of the initial weights after one update."""
        momentum, decay = self._training.momentum, self._training.weight_decay
        velocity = momentum * self._kept[1] - decay * self._kept[0]
        self._kept = np.array([self._kept[0] + rate * velocity, velocity])

    def _for_all_runs(self, matrix: FloatArray) -> FloatArray:
        return np.repeat(matrix[None], self.sampling.runs, axis=0)

    # -- kernels ---------------------------------------------------------------------------------

    def _measure(self) -> None:
        """Store the kernels, and what two-time kernels need, of the latest passes."""
        blocks, train, k = self._blocks, slice(self._n_train), self._outputs
        psi, lowest, *states = (
            _arrays.to_host(products(x, x.shape[1], gram=True)[2])
            for x in (self._features, self._g, *self._h)
        )
        inputs = self._points[train] @ self._points[train].T
        ntk = repeated(psi[:, train, train], k) * np.tile(np.eye(k), (self._n_train,) * 2)
        ntk += lowest * repeated(inputs, k)
        for block in blocks:
            ntk += block.tangent(train, k)
        # Along the top eigenvector of the mean: the mean of these is the sharpness of the mean, and
        # their scatter is its error to first order.
        top = len(ntk[0]) - 1
        _, vector = scipy.linalg.eigh(ntk.mean(axis=0), subset_by_index=[top, top])
        sharpness = (ntk @ vector)[:, :, 0] @ vector[:, 0] / self._n_train
        self.kernels.append(
            {
                "H": states,
                "Phi": [*(_arrays.to_host(block.features.gram) for block in blocks), psi],
                "G": [lowest, *(_arrays.to_host(block.gradients.gram) for block in blocks)],
                "ntk": [ntk],
                "sharpness": [sharpness],
            }
        )
        if self.kernels.two_time:
            self.kernels.keep(
                {
                    "h": self._h,
                    "Phi": [block.features.along for block in blocks],
                    "psi": [self._features],
                    "G": [block.gradients.along for block in blocks],
                    "g": [self._g],
                    "AG": [block.features.response for block in blocks],
                    "BPhi": [block.gradients.response for block in blocks],
                }
            )
