"""Deep linear networks on a fixed data set, at infinite width.

Source of the theory: Bordelon & Pehlevan, "Self-consistent dynamical field theory of kernel
evolution in wide neural networks" (2022), linear case, in discrete time.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from dmftcore._validate import INFINITE, FloatArray, integer, non_negative, one_of, positive
from dmftcore.chain import HiddenChain
from dmftcore.data import Dataset
from dmftcore.errors import DivergenceError, StabilityWarning
from dmftcore.interfaces import GrowingNetwork
from dmftcore.limits.lazy import LazyMarch
from dmftcore.limits.linear_marches import ChainMarch, LinearKernels, LinearMarch
from dmftcore.march import (
    DIVERGENCE_FACTOR,
    Diverged,
    Plan,
    Schedule,
    SolveOptions,
    Stopwatch,
    check_memory,
    march,
)
from dmftcore.modes import LinearProblem
from dmftcore.observables import curves, sharpness, tangent_kernel, training_loss
from dmftcore.solution import Layers, Solution
from dmftcore.training import GradientDescent

__all__ = ["DeepLinear", "solve_deep_linear"]

#: Truncation of the growing network; the relative error of the loss is of its order.
DEFAULT_TOL = 1e-8

#: Up to this many rows (steps x outputs) every direction is kept, down to rounding: a layer then
#: has at most twice as many neurons as there are rows. Residual blocks share their neurons, and the
#: rows of all of them count.
SHORT_RUN = 256
ROUNDING_TOL = 1e-13

KERNELS = ("H", "G")
RESPONSES = ("A", "B")
#: What `save` and `method` of `dmftcore.solve` may name.
FIELDS = (*KERNELS, *RESPONSES)
METHODS = ("growing", "chain")


@dataclass(frozen=True)
class DeepLinear:
    """Deep linear network of infinite width in the mean-field scaling.

    ``h^1 = W^0 x / sqrt(D)``, ``h^{l+1} = W^l h^l / sqrt(N)``, ``f_k = w_k . h^L / (gamma N)``,
    all weights iid N(0, init_scale^2) at the start. With `branch_scale` the hidden layers are
    residual blocks, ``h^{l+1} = h^l + b W^l h^l / sqrt(N)``.

    Parameters
    ----------
    depth : int or INFINITE
        Number L of hidden layers; INFINITE, of residual blocks only, is the limit in which the
        depth becomes a continuous variable.
    gamma : float
        Feature-learning strength gamma_0 >= 0; 0 is the exact lazy (tangent-kernel) limit.
    init_scale : float
        Standard deviation sigma of the initial weights.
    branch_scale : float, optional
        Scale beta_0 > 0 of the L - 1 residual blocks; None for a network without skips.
    branch : {"sqrt", "none"}
        Branch factor b of a block: "sqrt" is beta_0 / sqrt(L - 1), "none" is beta_0.
    readout : {"gd", "ntk"}
        "gd" is exact gradient descent at any learning rate. "ntk" moves the outputs by the
        tangent kernel, ``f(t+1) = f(t) + (lr/P) K(t) (y - f(t))``, first order in the learning
        rate; it exists for comparison with solvers that do so.
    """

    depth: int
    gamma: float = 1.0
    init_scale: float = 1.0
    branch_scale: float | None = None
    branch: str = "sqrt"
    readout: str = "gd"

    def __post_init__(self) -> None:
        object.__setattr__(self, "branch", one_of("branch", self.branch, ("sqrt", "none")))
        object.__setattr__(self, "gamma", non_negative("gamma", self.gamma))
        object.__setattr__(self, "init_scale", positive("init_scale", self.init_scale))
        object.__setattr__(self, "readout", one_of("readout", self.readout, ("gd", "ntk")))
        if self.branch_scale is not None:
            scale = positive("branch_scale", self.branch_scale)
            object.__setattr__(self, "branch_scale", scale)
        if self.depth == INFINITE:
            if self.branch_scale is None or self.branch != "sqrt":
                raise ValueError(
                    "depth = INFINITE needs residual blocks whose scale falls with depth: pass "
                    'branch_scale, and branch="sqrt"'
                )
        else:
            at_least = 1 if self.branch_scale is None else 2
            object.__setattr__(self, "depth", integer("depth", self.depth, at_least=at_least))

    @property
    def branch_factor(self) -> float | None:
        """Factor b of a residual block at finite depth; None for a network without skips."""
        if self.branch_scale is None or self.depth == INFINITE:
            return None
        blocks = self.depth - 1 if self.branch == "sqrt" else 1
        return self.branch_scale / math.sqrt(blocks)

    @property
    def initial_tangent_scale(self) -> float:
        """The tangent kernel at step 0 in units of Kx.

        ``(L + 1) s^L`` with s = init_scale^2; with residual blocks ``H^l = s (1 + b^2 s)^{l-1}``
        and ``G^l = s (1 + b^2 s)^{L-l}`` add up to
        ``H^L + G^1 + b^2 sum_l H^l G^{l+1}``.
        """
        s = self.init_scale**2
        if self.branch_scale is None:
            return float((self.depth + 1) * s**self.depth)
        if self.depth == INFINITE:
            beta2 = self.branch_scale**2
            return s * math.exp(beta2 * s) * (2 + beta2 * s)
        assert self.branch_factor is not None
        b2, blocks = self.branch_factor**2, self.depth - 1
        growth = 1 + b2 * s
        return float(s * growth ** (blocks - 1) * (2 * growth + blocks * b2 * s))


def solve_deep_linear(
    limit: DeepLinear,
    data: Dataset,
    training: GradientDescent,
    options: SolveOptions,
    config: dict[str, Any],
) -> Solution:
    """March the theory of `limit`; see `dmftcore.solve`."""
    watch = Stopwatch()
    engine, reason = _engine(limit, training, options)
    _CHECKS[engine](limit, training)
    plan = memory_plan(limit, data, training, options, engine)
    check_memory(plan, _REMEDIES)
    bound = stability_bound(limit, data, training)
    if np.any(training.rates > bound):
        warnings.warn(
            f"lr = {training.rates.max():g} exceeds {_BOUND} = {bound:.6g} at step 0",
            StabilityWarning,
            stacklevel=3,
        )
    system = _system(engine, limit, data, training, options)
    loss = training_loss(data)

    def solution(schedule: Schedule, outputs: FloatArray) -> Solution:
        diagnostics = {
            "engine": engine,
            "reason": reason,
            "memory": plan.total,
            "stability_bound": bound,
        }
        fields = curves(data, outputs.reshape(-1, data.n_train + data.n_test, data.n_outputs))
        result = Solution(
            schedule.times,
            schedule.kernel_times,
            **fields,
            errors=data.targets - fields["outputs"],
            **kernel_fields(system, limit, data, len(schedule.kernel_times), options.save),
            diagnostics=diagnostics,
            config=config,
        )
        diagnostics.update(_worth(system))
        diagnostics["wall_seconds"] = watch.seconds()
        return result

    try:
        outputs = march(system, options.schedule, loss, options.progress)
    except Diverged as stop:
        raise DivergenceError(
            f"the training loss diverged at step {stop.step}: lr = {training.rates.max():g}, where "
            f"{_BOUND} at step 0 is {bound:.6g} and falls as features are learned; lower lr",
            step=stop.step,
            partial=solution(stop.schedule, stop.outputs),
        ) from None
    result = solution(options.schedule, outputs)
    _warn_unstable(result, training)
    return result


def _check_chain(limit: DeepLinear, training: GradientDescent) -> None:
    if limit.branch_scale is not None:
        raise ValueError("branch_scale: the chain cannot solve residual blocks yet")
    if not training.is_plain or np.ndim(training.lr):
        raise ValueError("training: the chain knows no momentum, weight_decay or schedule yet")


def _check_readout(limit: DeepLinear, training: GradientDescent) -> None:
    if limit.readout == "ntk" and not training.is_plain:
        raise ValueError(
            "readout='ntk' moves the outputs by the tangent kernel and knows neither momentum nor "
            "weight_decay: use readout='gd'"
        )


_CHECKS = {"growing": _check_readout, "chain": _check_chain, "lazy": _check_readout}

#: The largest stable learning rate, in the words of warnings.
_BOUND = "2 (1 + momentum) / (sharpness + weight_decay)"


def stability_bound(limit: DeepLinear, data: Dataset, training: GradientDescent) -> float:
    """Learning rate above which the lazy network diverges.

    Along a direction of curvature k the heavy ball ``v <- m v - (k + lambda) x``,
    ``x <- x + lr v`` is stable for ``lr < 2 (1 + m) / (k + lambda)``; the largest k at step 0 is
    the sharpness, ``limit.initial_tangent_scale lambda_max(Kx) / P``. Feature learning raises it,
    so that a smaller rate may still become unstable later.

    Raises
    ------
    ValueError
        If the training points are all zero.
    """
    if data.largest_eigenvalue <= 0:
        raise ValueError("the training points have a zero Gram matrix: nothing can be learned")
    curvature = limit.initial_tangent_scale * data.largest_eigenvalue / data.n_train
    return float(2 * (1 + training.momentum) / (curvature + training.weight_decay))


def _engine(limit: DeepLinear, training: GradientDescent, options: SolveOptions) -> tuple[str, str]:
    """The engine of a run, and why."""
    responses = [name for name in RESPONSES if name in options.save]
    if options.method == "growing" and responses:
        raise ValueError(
            f"method='growing' has no responses (save={responses[0]!r}): use method='chain'"
        )
    if options.method == "growing" and limit.depth == INFINITE:
        raise ValueError("method='growing' has no infinite depth: use method='chain'")
    if options.method == "chain":
        return "chain", "asked for"
    if responses:
        return "chain", f"the response {responses[0]} was asked for"
    if limit.depth == INFINITE and options.save:
        return "chain", f"the kernel {options.save[0]} of an infinite depth was asked for"
    if limit.gamma == 0:
        return "lazy", "gamma = 0 has a closed form"
    if options.method == "growing":
        return "growing", "asked for"
    if limit.depth == INFINITE:
        return "chain", "the growing network has no infinite depth"
    return (
        "growing",
        f"no responses were asked for, and its cost is linear in the {training.steps} steps",
    )


def truncation(
    limit: DeepLinear, data: Dataset, training: GradientDescent, options: SolveOptions
) -> float:
    """Tolerance of the growing network."""
    if options.tol is not None:
        return options.tol
    matrices = 1 if limit.branch_scale is None else limit.depth - 1
    rows = (training.steps + 1) * data.n_outputs * matrices
    return ROUNDING_TOL if rows <= SHORT_RUN else DEFAULT_TOL


def _system(
    engine: str,
    limit: DeepLinear,
    data: Dataset,
    training: GradientDescent,
    options: SolveOptions,
) -> LinearMarch:
    problem = linear_problem(limit, data, training)
    if engine == "lazy":
        return LazyMarch(problem, limit.branch_scale)
    if engine == "growing":
        tol = truncation(limit, data, training, options)
        return GrowingNetwork(problem, tol, two_time=bool(options.save))
    return ChainMarch(problem, training.steps)


def linear_problem(limit: DeepLinear, data: Dataset, training: GradientDescent) -> LinearProblem:
    """What the marches of `limit` are told."""
    return LinearProblem(
        data,
        depth=limit.depth,
        gamma=limit.gamma,
        init_scale=limit.init_scale,
        branch=limit.branch_factor,
        training=training,
        follow_ntk=limit.readout == "ntk",
        loss_limit=DIVERGENCE_FACTOR * max(float(np.sum(data.targets**2)), 1e-300),
    )


def memory_plan(
    limit: DeepLinear,
    data: Dataset,
    training: GradientDescent,
    options: SolveOptions,
    engine: str,
) -> Plan:
    """Memory of a run, by part."""
    points, outputs = data.n_train + data.n_test, data.n_outputs
    # The lazy limit has no layers at infinite depth.
    depth = 0 if engine == "lazy" and limit.depth == INFINITE else limit.depth
    slots = len(options.schedule.kernel_times)
    rows = (training.steps + 1) * outputs
    rank = data.n_train if data.inputs is None else min(data.n_train, data.inputs.shape[1])
    visited = min(rows, rank + outputs)
    # Kx itself is formed for kernels, or where its eigenvectors are cheaper than those of X.
    with_gram = slots > 0 or 2 * rank >= data.n_train
    saved = {"H": points * points, "G": outputs**2, "A": points * outputs, "B": points * outputs}
    counts = {
        "chain": HiddenChain.count(depth, training.steps, outputs)
        + visited * (rows + data.n_train + points)
        if engine == "chain"
        else 0,
        # The steps, and their concatenation.
        "curves": 2 * len(options.schedule.times) * points * outputs,
        "kernels": slots * (depth + 1) * points**2 + 2 * slots * (data.n_train * outputs) ** 2,
        "two-time kernels": 2 * slots**2 * depth * sum(saved[name] for name in options.save),
        "data": 4 * points**2 if with_gram else 2 * points * rank,
    }
    return Plan({part: 8 * count for part, count in counts.items()})


#: What to change when a part of the plan is the largest.
_REMEDIES = {
    "chain": "use method='growing', or fewer steps",
    "curves": "pass fewer times",
    "kernels": "pass fewer kernel_times (kernel_times=[] stores none)",
    "two-time kernels": "pass fewer kernel_times, or save fewer two-time kernels",
    "data": "take fewer points",
}


def kernel_fields(
    system: LinearKernels, limit: DeepLinear, data: Dataset, slots: int, save: tuple[str, ...]
) -> dict[str, Any]:
    """Kernel fields of a `Solution`, from a system that stored them `slots` times."""
    if slots == 0:
        return {}
    features, gradients = system.kernels()
    if isinstance(system, LazyMarch):
        ntk = system.tangent_kernels()
    else:
        train = slice(data.n_train)
        eye = np.tile(np.eye(data.n_outputs), (slots, 1, 1))
        ntk = tangent_kernel(
            [h[:, train, train] for h in features], [*gradients, eye], limit.branch_factor
        )
    fields: dict[str, Any] = {
        "ntk": ntk.reshape(-1, *data.targets.shape, *data.targets.shape),
        "sharpness": np.array([sharpness(kernel) for kernel in ntk]),
        "equal_time": {"H": _layers(features[1:]), "G": _layers(gradients)} if features else {},
        "two_time": {},
        "responses": {},
    }
    if "H" in save:
        fields["two_time"]["H"] = _layers(system.two_time_features())
    if "G" in save:
        fields["two_time"]["G"] = _layers(system.two_time_gradients())
    if isinstance(system, ChainMarch):
        if "A" in save:
            fields["responses"]["A"] = system.feature_responses()
        if "B" in save:
            targets = data.targets.reshape(data.n_train, -1)
            fields["responses"]["B"] = system.gradient_responses(targets)
    return fields


def _layers(kernels: list[FloatArray]) -> Layers:
    return dict(enumerate(kernels, start=1))


def _worth(system: LinearMarch) -> dict[str, Any]:
    """What the answer of a march is worth."""
    if isinstance(system, ChainMarch):
        return {"residual": system.residual()}
    if isinstance(system, GrowingNetwork):
        return {
            "tol": system.tol,
            "neurons": system.neurons,
            "multiply_adds": system.multiply_adds,
        }
    return {}


def _warn_unstable(result: Solution, training: GradientDescent) -> None:
    if result.sharpness is None or training.steps == 0:
        return
    # The rate of the update that follows; after the last step, that of the one before.
    rates = training.rates[np.minimum(result.kernel_times, training.steps - 1)]
    bounds = 2 * (1 + training.momentum) / (result.sharpness + training.weight_decay)
    unstable = np.flatnonzero(rates > bounds)
    if unstable.size:
        first = unstable[0]
        warnings.warn(
            f"lr = {rates[first]:.4g} exceeds {_BOUND} = {bounds[first]:.4g} at step "
            f"{result.kernel_times[first]}: at the edge of stability gradient descent amplifies "
            "rounding and truncation, whatever tol; lower lr for reproducible digits",
            StabilityWarning,
            stacklevel=4,
        )
