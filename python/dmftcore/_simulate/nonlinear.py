"""Perceptrons and residual networks of finite width, trained on a fixed data set."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from dmftcore._simulate.descent import Outer
from dmftcore._simulate.linear import factor
from dmftcore._simulate.networks import TrainedNetworks, Weights, random_weights
from dmftcore._simulate.options import Options
from dmftcore._simulate.records import Records, Sides, products
from dmftcore._simulate.run import Measured, check_trainable, run
from dmftcore._validate import FloatArray
from dmftcore.activations import activation
from dmftcore.data import Dataset
from dmftcore.limits.architecture import Architecture
from dmftcore.limits.mlp import MLP
from dmftcore.limits.residual import Residual
from dmftcore.losses import loss_function
from dmftcore.march import Stopwatch, resumed
from dmftcore.memory import Plan, check_memory
from dmftcore.observables import summed_products
from dmftcore.solution import Solution
from dmftcore.training import GradientDescent

__all__ = ["KERNELS", "NonlinearNetworks", "sides", "train"]

#: Two-time kernels that a simulation can store.
KERNELS = ("H", "Phi", "G")


class NonlinearNetworks(TrainedNetworks):
    """Networks of an `Architecture` on a fixed data set.

    Gradients are ``g^l_{mu k} = gamma N df_{mu k} / dh^l``. Every weight matrix moves along the sum
    over training patterns of an outer product, whose backward side is the sum over the outputs k
    of ``Delta_{mu k} g_{mu k}``: one backward pass of P rows makes an update.

    Parameters
    ----------
    net : Architecture
    data, training
        As in `simulate`.
    weights : Weights
        Initial weights, overwritten by the training; with two layers in a block W^1, V^1, W^2, ...
    points : (P + Q, r) array
        Rows of the data, as given by `factor`.
    records : Records
        Receives the kernels.
    """

    def __init__(
        self,
        net: Architecture,
        data: Dataset,
        training: GradientDescent,
        weights: Weights,
        points: FloatArray,
        records: Records,
    ) -> None:
        super().__init__(training, weights.all, records)
        self.weights = weights
        self._net, self._records = net, records
        self._phi, self._psi = activation(net.activation), activation(net.readout_activation)
        self._loss = loss_function(training.loss)
        self._blocks = [
            weights.hidden[first : first + net.block_layers]
            for first in range(0, len(weights.hidden), net.block_layers)
        ]
        self._points = self._xp.asarray(points)
        self._targets = self._xp.asarray(data.targets.reshape(data.n_train, -1))
        self._inputs_gram = data.kernel[None, : data.n_train, : data.n_train]
        self._train = slice(data.n_train)
        self._initial_outputs = 0.0
        self._refresh()
        self._initial_outputs = self._outputs
        self._start()

    @property
    def measured(self) -> Any:
        """Outputs f - f(0), (S, P + Q, K)."""
        return self._outputs

    def store_kernels(self) -> None:
        """Keep the kernels of the current step."""
        top = self._readout_slopes[:, :, None] * self.weights.readout[:, None]
        gradients, inside = self._backward(top)
        seeds, patterns, outputs, width = top.shape
        vectors = {
            "H": dict(enumerate(self._states, start=1)),
            "Phi": dict(enumerate([*self._features, self._readout_features], start=1)),
            "G": {
                layer: g.reshape(seeds, patterns * outputs, width)
                for layer, g in enumerate(gradients, start=1)
            },
        }
        kernels = products(vectors)
        rows = {layer: p.reshape(seeds, -1, width) for layer, p in enumerate(inside, start=1)}
        within = products({"inside": rows})["inside"]
        shape = seeds, patterns, outputs, patterns, outputs
        h, phi = (self._patterns_of(kernels[name]) for name in ("H", "Phi"))
        g = {layer: kernel.reshape(shape) for layer, kernel in kernels["G"].items()}
        eye = np.eye(outputs)[None, None, :, None]
        depth, branch2 = self._net.depth, self._net.branch**2
        tangent = summed_products(
            [
                (1.0, phi[depth], eye),
                *((branch2, phi[layer], g[layer + 1]) for layer in range(1, depth)),
                *((1.0, h[layer], p.reshape(shape)) for layer, p in within.items()),
                (1.0, self._inputs_gram, g[1]),
            ]
        )
        self._records.store(vectors, kernels, tangent)

    def _patterns_of(self, kernels: dict[int, FloatArray]) -> dict[int, FloatArray]:
        return {layer: k[:, self._train, self._train] for layer, k in kernels.items()}

    def _refresh(self) -> None:
        """Forward pass of all points."""
        h = self._points @ self.weights.first.swapaxes(1, 2)
        #: h^1, ..., h^{B+1}; what phi acts on in every block, and what it makes of it.
        self._states, self._arguments, self._features = [h], [], []
        for block in self._blocks:
            argument = h if len(block) == 1 else self._through(h, block[0].swapaxes(1, 2))
            feature = self._phi.value(argument)
            branch = self._net.branch * self._through(feature, block[-1].swapaxes(1, 2))
            h = h + branch if self._net.skip else branch
            self._states.append(h)
            self._arguments.append(argument)
            self._features.append(feature)
        self._readout_features = self._psi.value(h)
        self._readout_slopes = self._psi.slope(h[:, self._train])
        scale = self._net.gamma * self.width
        on_points = self._readout_features @ self.weights.readout.swapaxes(1, 2)
        self._outputs = on_points / scale - self._initial_outputs

    def _backward(self, top: Any) -> tuple[list[Any], list[Any]]:
        """Backward pass of rows g^{B+1} (S, P, m, N), m for every training pattern.

        Returns
        -------
        gradients : list of B + 1 arrays
            g^1, ..., g^{B+1}.
        inside : list of arrays
            In blocks of two layers, the gradients at the argument of phi.
        """
        gradients: list[Any] = [top]
        inside: list[Any] = []
        for block, argument in zip(reversed(self._blocks), reversed(self._arguments), strict=True):
            slopes = self._net.branch * self._phi.slope(argument[:, self._train])
            g = slopes[:, :, None] * self._through(gradients[0], block[-1])
            if len(block) == 2:
                inside.insert(0, g)
                g = self._through(g, block[0])
            gradients.insert(0, gradients[0] + g if self._net.skip else g)
        return gradients, inside

    def _through(self, rows: Any, matrix: Any) -> Any:
        """Rows (S, ..., N) times a matrix (S, N, N), over sqrt(N)."""
        flat = rows.reshape(len(rows), -1, self.width)
        return (flat @ matrix).reshape(rows.shape) / math.sqrt(self.width)

    def _losses(self) -> Any:
        return self._loss.mean(self._outputs[:, self._train], self._targets)

    def _update(self) -> None:
        outputs = self._outputs[:, self._train]
        errors = self._loss.errors(outputs, self._targets) / len(self._targets)
        top = self._readout_slopes * (errors @ self.weights.readout)
        gradients, inside = self._backward(top[:, :, None])
        g = [rows[:, :, 0] for rows in gradients]
        gamma = self._net.gamma
        points = self._xp.broadcast_to(
            self._points[self._train], (len(errors), *self._points[self._train].shape)
        )
        directions: list[Outer] = [(gamma, g[0], points)]
        scale = gamma / math.sqrt(self.width)
        for layer in range(self._net.blocks):
            if inside:
                argument = self._states[layer][:, self._train]
                directions.append((scale, inside[layer][:, :, 0], argument))
            feature = self._features[layer][:, self._train]
            directions.append((scale * self._net.branch, g[layer + 1], feature))
        directions.append((gamma, errors, self._readout_features[:, self._train]))
        self._descent.update(self.step, directions)
        self.step += 1
        self._refresh()


def sides(net: Architecture, data: Dataset) -> Sides:
    """What the kernels of the networks are between: points, and outputs for training patterns."""
    layers = range(1, net.depth + 1)
    points = (len(data.kernel),)
    shapes = {"H": points, "Phi": points, "G": data.targets.shape}
    return {name: dict.fromkeys(layers, shapes[name]) for name in KERNELS}


def train(
    limit: MLP | Residual,
    data: Dataset,
    training: GradientDescent,
    options: Options,
    config: dict[str, Any],
) -> Solution:
    """Train `options.seeds` networks; see `dmftcore.simulate`."""
    check_trainable(depth=limit.depth, gamma=limit.gamma)
    watch = Stopwatch()
    net = limit.architecture
    schedule = resumed(options.schedule, options.checkpoint, config, training.lr)
    options = replace(options, schedule=schedule)
    points = factor(data)
    plan = memory_plan(net, data, training, options, rank=points.shape[1])
    check_memory(plan, _REMEDIES)
    weights = random_weights(
        net.blocks * net.block_layers,
        width=options.width,
        rank=points.shape[1],
        outputs=data.n_outputs,
        seeds=options.seeds,
        seed=options.seed,
        device=options.device,
    )
    records = Records(sides(net, data), data, options)
    networks = NonlinearNetworks(net, data, training, weights, points, records)
    measured = Measured.on_data(data, training.loss, networks.shape)
    return run(
        networks, records, measured, training, options, config,
        plan=plan, watch=watch, width=options.width,
    )  # fmt: skip


def memory_plan(
    net: Architecture, data: Dataset, training: GradientDescent, options: Options, *, rank: int
) -> Plan:
    """Memory of a run, by part."""
    seeds, width = options.seeds, options.width
    points, outputs = len(data.kernel), data.n_outputs
    patterns = data.n_train * outputs
    slots = len(options.schedule.kernel_times)
    rows = {"H": points, "Phi": points, "G": patterns}
    weights = width * (rank + outputs) + net.blocks * net.block_layers * width**2
    # The velocities, if there are any.
    weights *= seeds * (2 if training.momentum else 1)
    kernels = net.depth * sum(count**2 for count in rows.values())
    counts = {
        "weights": weights,
        "checkpoint": 0 if options.checkpoint is None else weights,
        # Outputs of every network, twice while they are put together, and the temporaries of the
        # losses; mean outputs, errors and standard errors.
        "curves": 3 * (seeds + 1) * len(options.schedule.times) * points * outputs,
        "kernels": 2 * slots * (kernels + patterns**2),
        # States, arguments and features of all layers, and their gradients; kernels of all
        # networks, and their tangent kernel with a summand.
        "work": seeds
        * (
            width * net.depth * (3 * points + net.block_layers * patterns)
            + (kernels + 2 * patterns**2 if slots else 0)
        ),
        "two-time kernels": sum(
            # The products of one network beside their mean and sum of squares.
            net.depth * seeds * slots * width * rows[name]
            + (2 * net.depth + 3) * (slots * rows[name]) ** 2
            for name in options.save
        ),
    }
    return Plan({part: 8 * count for part, count in counts.items()})


#: What to change when a part of the plan is the largest.
_REMEDIES = {
    "weights": "lower width or seeds",
    "checkpoint": "lower width or seeds, or pass no checkpoint",
    "curves": "pass fewer times or lower seeds",
    "kernels": "pass fewer kernel_times",
    "work": "lower width or seeds, or take fewer points",
    "two-time kernels": "pass fewer kernel_times, or save fewer two-time kernels",
}
