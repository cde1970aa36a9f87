"""Networks of one hidden layer without samples: their neurons integrated over initial weights.

A neuron is its row a of the first weights, in the r coordinates of the data, and its readout w:

    h_mu = x_mu . a,   f_mu = <w phi(h_mu)> / gamma,   g_mu = w phi'(h_mu),
    da = gamma sum_mu g_mu Delta_mu x_mu / P,          dw = gamma sum_mu phi(h_mu) Delta_mu / P,

and neurons meet in the averages alone. An average over the initial a and w, r + K independent
normal variables, is a sum over a lattice of them (the trapezoidal rule, whose error falls
exponentially with the number of nodes where phi is analytic), so few variables are integrated to
many digits. Each node is trained as the neuron that it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dmftcore._validate import FloatArray
from dmftcore.activations import activation
from dmftcore.data import Dataset
from dmftcore.limits.assembly import solved
from dmftcore.limits.mlp import MLP
from dmftcore.limits.residual import Residual
from dmftcore.losses import loss_function
from dmftcore.march import SolveOptions, Stopwatch, largest_loss, resumed
from dmftcore.memory import Plan, check_memory
from dmftcore.observables import sharpness, summed_products
from dmftcore.solution import IntArray, Layers, Solution
from dmftcore.training import GradientDescent
from dmftcore.worth import truncation_error

__all__ = ["Quadrature", "solve_quadrature"]

#: Nodes of every variable, by the number of variables.
NODES = {2: 96, 3: 64}
#: With fewer, two nodes are further apart than the normal density is wide.
FEWEST_NODES = 8
#: The normal density is 1e-15 of its largest value beyond.
RANGE = 8.3
#: Nodes of the run that a run is compared with.
COARSER = 0.75


class Quadrature:
    """A network of one hidden layer; a `dmftcore.march.March`.

    Parameters
    ----------
    limit : MLP
        Of depth 1.
    data : Dataset
    points : (P + Q, r) array
        Coordinates x of all points.
    training : GradientDescent
    nodes : int
        Nodes of every variable.
    save : sequence of str
        Two-time kernels that will be asked for.
    """

    def __init__(
        self,
        limit: MLP,
        data: Dataset,
        points: FloatArray,
        training: GradientDescent,
        nodes: int,
        save: tuple[str, ...],
    ) -> None:
        self.step = 0
        self._gamma, self._phi = limit.gamma, activation(limit.activation)
        self._training, self._loss = training, loss_function(training.loss)
        self._data, self._points = data, points
        self._targets = data.targets.reshape(data.n_train, -1)
        self._rank = points.shape[1]
        lattice, self._weights = _lattice(nodes, self._rank + self._targets.shape[1])
        self._nodes = nodes
        #: a and w side by side, and their velocity.
        self._neurons, self._velocity = lattice, np.zeros_like(lattice)
        initial = self._loss.mean(np.zeros_like(self._targets), self._targets)
        self._loss_limit = largest_loss(float(initial))
        self._equal: list[dict[str, FloatArray]] = []
        #: Neurons at the stored steps, for two-time kernels.
        self._keeps_neurons = bool(save)
        self._stored: list[FloatArray] = []

    @property
    def shape(self) -> tuple[int, int]:
        """Of the outputs of a step: P + Q points, K outputs."""
        return len(self._points), self._targets.shape[1]

    def advance(self, stops: IntArray) -> FloatArray:
        """Outputs (len(stops), P + Q, K); fewer if the loss diverges."""
        rows: list[FloatArray] = []
        with np.errstate(over="ignore", invalid="ignore"):
            for stop in stops.tolist():
                while self.step < stop and self._is_finite(self._outputs()):
                    self._update()
                outputs = self._outputs()
                if not self._is_finite(outputs):
                    break
                rows.append(outputs)
        return np.array(rows).reshape(-1, *self.shape)

    def store_kernels(self) -> None:
        """Keep the equal-time kernels, and the neurons if two-time kernels are wanted."""
        self._equal.append(
            {name: self._average(rows, rows) for name, rows in self._rows(self._neurons).items()}
        )
        if self._keeps_neurons:
            self._stored.append(self._neurons.copy())

    def fields(self, save: tuple[str, ...]) -> dict[str, Any]:
        """Kernel fields of a `Solution`, at the stored steps."""
        if not self._equal:
            return {}
        p, k = self._targets.shape
        kernels = {name: np.array([one[name] for one in self._equal]) for name in self._equal[0]}
        gram, eye = self._points[:p] @ self._points[:p].T, np.eye(k)[None, None, :, None]
        gradients = kernels["G"].reshape(-1, p, k, p, k)
        ntk = summed_products([(1.0, kernels["Phi"][:, :p, :p], eye), (1.0, gram[None], gradients)])
        return {
            "ntk": ntk.reshape(-1, *self._data.targets.shape, *self._data.targets.shape),
            "sharpness": np.array([sharpness(kernel) for kernel in ntk]),
            "equal_time": {
                name: {1: kernel.reshape(-1, *2 * self._side(name))}
                for name, kernel in kernels.items()
            },
            "two_time": self._two_time(save),
        }

    def diagnostics(self) -> dict[str, Any]:
        """How fine the lattice is."""
        return {"nodes": self._nodes, "samples": len(self._weights)}

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything `restore` needs to go on bit for bit."""
        return {
            "step": np.array(self.step),
            "neurons": self._neurons.copy(),
            "velocity": self._velocity.copy(),
            "stored": np.array(self._stored),
            **{f"kernel_{name}": np.array([one[name] for one in self._equal]) for name in _KERNELS},
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state, on a march of the same problem."""
        self.step = int(state["step"])
        self._neurons = np.array(state["neurons"])
        self._velocity = np.array(state["velocity"])
        self._stored = list(state["stored"])
        by_name = [state[f"kernel_{name}"] for name in _KERNELS]
        self._equal = [dict(zip(_KERNELS, one, strict=True)) for one in zip(*by_name, strict=True)]

    def _outputs(self) -> FloatArray:
        """f, (P + Q, K)."""
        features = self._phi.value(self._neurons[:, : self._rank] @ self._points.T)
        return self._average(features, self._neurons[:, self._rank :]) / self._gamma

    def _is_finite(self, outputs: FloatArray) -> bool:
        loss = self._loss.mean(outputs[: len(self._targets)], self._targets)
        return bool(loss <= self._loss_limit)

    def _update(self) -> None:
        points, p = self._points[: len(self._targets)], len(self._targets)
        first, readout = self._neurons[:, : self._rank], self._neurons[:, self._rank :]
        h = first @ points.T
        features = self._phi.value(h)
        outputs = self._average(features, readout) / self._gamma
        errors = self._gamma * self._loss.errors(outputs, self._targets) / p
        self._velocity *= self._training.momentum
        self._velocity -= self._training.weight_decay * self._neurons
        self._velocity[:, : self._rank] += (readout @ errors.T * self._phi.slope(h)) @ points
        self._velocity[:, self._rank :] += features @ errors
        self._neurons += self._training.rates[self.step] * self._velocity
        self.step += 1

    def _average(self, left: FloatArray, right: FloatArray) -> FloatArray:
        """Mean products over neurons of rows (n, .) and (n, .)."""
        average: FloatArray = left.T @ (self._weights[:, None] * right)
        return average

    def _rows(self, neurons: FloatArray) -> dict[str, FloatArray]:
        """What the kernels are mean products of, (n, .) each."""
        h = neurons[:, : self._rank] @ self._points.T
        slopes = self._phi.slope(h[:, : len(self._targets)])
        g = slopes[:, :, None] * neurons[:, None, self._rank :]
        return {"H": h, "Phi": self._phi.value(h), "G": g.reshape(len(g), -1)}

    def _side(self, name: str) -> tuple[int, ...]:
        return self._data.targets.shape if name == "G" else (len(self._points),)

    def _two_time(self, save: tuple[str, ...]) -> dict[str, Layers]:
        names = [name for name in _KERNELS if name in save]
        blocks: dict[str, list[FloatArray]] = {name: [] for name in names}
        for neurons in self._stored:
            rows = self._rows(neurons)
            for other in self._stored:
                others = self._rows(other)
                for name in names:
                    blocks[name].append(self._average(rows[name], others[name]))
        n = len(self._stored)
        two_time: dict[str, Layers] = {}
        for name, values in blocks.items():
            size = values[0].shape[0]
            kernel = np.array(values).reshape(n, n, size, size).swapaxes(1, 2)
            side = self._side(name)
            two_time[name] = {1: kernel.reshape(n, *side, n, *side)}
        return two_time


_KERNELS = ("H", "Phi", "G")


def _lattice(nodes: int, variables: int) -> tuple[FloatArray, FloatArray]:
    """Nodes (n, variables) and weights (n,) of an average over normal variables."""
    z = np.linspace(-RANGE, RANGE, nodes)
    density = np.exp(-(z**2) / 2)
    density /= density.sum()
    axes = np.meshgrid(*[z] * variables, indexing="ij")
    weights = math.prod(np.meshgrid(*[density] * variables, indexing="ij"))
    return np.stack([axis.ravel() for axis in axes], axis=1), np.ravel(weights)


# -- the solve -------------------------------------------------------------------------------------


def solve_quadrature(
    limit: MLP | Residual,
    data: Dataset,
    training: GradientDescent,
    options: SolveOptions,
    config: dict[str, Any],
) -> Solution:
    """Solve a network of one hidden layer with few variables; see `dmftcore.solve`.

    Raises
    ------
    ValueError
        For a network or data that are not integrated, for gamma = 0, and for too few nodes.
    """
    watch = Stopwatch()
    points = data.coordinates
    variables = points.shape[1] + data.n_outputs
    _check(limit, points.shape[1], data.n_outputs, options)
    assert isinstance(limit, MLP)
    nodes = NODES[variables]
    if options.samples is not None:
        nodes = round(options.samples ** (1 / variables))
    if nodes < FEWEST_NODES and not options.nested:
        raise ValueError(
            f"samples = {options.samples} are {nodes} nodes for each of {variables} variables, "
            f"which cannot resolve them: pass at least {FEWEST_NODES**variables}"
        )
    schedule = resumed(
        options.schedule,
        options.checkpoint,
        config,
        training.lr,
        engine="quadrature",
        samples=nodes**variables,
    )
    options = replace(options, schedule=schedule)
    plan = memory_plan(data, options, nodes**variables, variables)
    check_memory(plan, _REMEDIES, nested=options.nested)
    report = {
        "engine": "quadrature",
        "reason": "asked for",
        "device": "cpu",
        "memory": plan.total,
    }
    system = Quadrature(limit, data, points, training, nodes, options.save)
    result = solved(
        system,
        data,
        training,
        options,
        config,
        report=report,
        watch=watch,
        activations=(limit.activation,),
    )
    if options.estimate_error:
        other = replace(
            options,
            schedule=replace(schedule, kernel_times=np.empty(0, dtype=np.int64)),
            save=(),
            samples=round(COARSER * nodes) ** variables,
            estimate_error=False,
            nested=True,
            progress=None,
            checkpoint=None,
        )
        reference = solve_quadrature(limit, data, training, other, config)
        result.diagnostics["error_estimate"] = {
            "reference_nodes": reference.diagnostics["nodes"],
            **truncation_error(result, reference),
        }
    return result


def _check(limit: MLP | Residual, rank: int, outputs: int, options: SolveOptions) -> None:
    instead = "use method='ensemble'"
    if not isinstance(limit, MLP) or limit.depth > 1:
        raise ValueError(f"method='quadrature' is for MLP(depth=1, ...), not {limit!r}: {instead}")
    if not activation(limit.activation).smooth:
        raise ValueError(
            f"method='quadrature' needs a smooth activation, not {limit.activation!r}: {instead}"
        )
    if limit.gamma == 0:
        raise ValueError("method='quadrature' needs gamma > 0: leave method out")
    if rank + outputs not in NODES:
        raise ValueError(
            f"method='quadrature' integrates over the rank {rank} of the Gram matrix plus the "
            f"{outputs} outputs, at most {max(NODES)} variables: {instead}"
        )
    if options.replicas is not None:
        raise ValueError("replicas: a quadrature has none; leave replicas out")
    if options.seed != 0:
        raise ValueError("seed: a quadrature draws no random numbers; leave seed out")
    if options.dtype != "float64":
        raise ValueError(
            f"dtype={options.dtype!r}: a quadrature is solved in float64; leave dtype out"
        )
    if options.tol is not None:
        raise ValueError(
            "tol: a quadrature is as exact as its nodes are many; pass samples, their number, and "
            "estimate_error=True"
        )


def memory_plan(data: Dataset, options: SolveOptions, neurons: int, variables: int) -> Plan:
    """Memory of a run, by part."""
    points, outputs = len(data.kernel), data.n_outputs
    patterns = data.n_train * outputs
    slots = len(options.schedule.kernel_times)
    rows = 2 * points + 2 * patterns
    held = 0 if options.checkpoint is None else 1
    counts = {
        "neurons": neurons * ((4 + 2 * held) * variables + 2 * rows + 1),
        "curves": 2 * len(options.schedule.times) * points * outputs,
        "kernels": 2 * slots * (2 * points**2 + 2 * patterns**2),
        "two-time kernels": (1 + held) * slots * neurons * variables + 6 * (slots * points) ** 2
        if options.save
        else 0,
    }
    return Plan({part: 8 * count for part, count in counts.items()})


#: What to change when a part of the plan is the largest.
_REMEDIES = {
    "neurons": "lower samples",
    "curves": "pass fewer times",
    "kernels": "pass fewer kernel_times (kernel_times=[] stores none)",
    "two-time kernels": "pass fewer kernel_times, or lower samples",
}
