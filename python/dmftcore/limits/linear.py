"""Deep linear networks on a fixed data set, at infinite width.

Source of the theory: Bordelon & Pehlevan, "Self-consistent dynamical field theory of kernel
evolution in wide neural networks" (2022), linear case, in discrete time.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dmftcore import _arrays
from dmftcore._validate import INFINITE, FloatArray, integer, non_negative, one_of, positive
from dmftcore.chain import ContinuumChain, HiddenChain, ResidualChain
from dmftcore.chain.collocation import Collocation
from dmftcore.chain.continuum import NODES
from dmftcore.data import Dataset
from dmftcore.errors import DivergenceError, StabilityWarning
from dmftcore.growing.interfaces import GrowingNetwork
from dmftcore.limits.lazy import LazyMarch
from dmftcore.limits.linear_marches import ChainMarch, LinearKernels, LinearMarch
from dmftcore.march import Diverged, SolveOptions, Stopwatch, largest_loss, march, resumed
from dmftcore.memory import Plan, check_memory
from dmftcore.modes import LinearProblem
from dmftcore.observables import curves, sharpness, tangent_kernel, training_loss
from dmftcore.schedule import Schedule
from dmftcore.solution import Layers, Solution
from dmftcore.training import GradientDescent
from dmftcore.worth import stability, truncation_error, unstable

__all__ = ["DeepLinear", "solve_deep_linear"]

#: Truncation of the growing network; the relative error of the loss is of its order.
DEFAULT_TOL = 1e-8

#: Up to this many rows (steps x outputs) every direction is kept, down to rounding: a layer then
#: has at most twice as many neurons as there are rows. Residual blocks share their neurons, and the
#: rows of all of them count.
SHORT_RUN = 256
ROUNDING_TOL = 1e-13

#: The tolerance of a run, in units of that of the run it is compared with.
TOL_RATIO = 100

KERNELS = ("H", "G")
RESPONSES = ("A", "B")
#: Responses times the correlation of the noise they answer to.
PRODUCTS = ("AG", "BPhi")
#: What `save` and `method` of `dmftcore.solve` may name.
FIELDS = (*KERNELS, *RESPONSES, *PRODUCTS)
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
        depth becomes a continuous variable tau from 0 to 1. It is solved at a few nodes
        (``diagnostics["depth_nodes"]``), which number the layers 0, 1, ... of its kernels;
        ``diagnostics["depth_error"]`` estimates the relative error that more nodes would remove.
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

    Raises
    ------
    TypeError, ValueError
        For values out of range, and for a depth without limit.

    Notes
    -----
    Source of the theory: Bordelon & Pehlevan, "Self-consistent dynamical field theory of kernel
    evolution in wide neural networks" (2022), in discrete time.
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
    _check_readout(engine, limit, training)
    tol = truncation(limit, data, training, options) if engine == "growing" else None
    schedule = resumed(
        options.schedule, options.checkpoint, config, training.lr, engine=engine, tol=tol
    )
    options = replace(options, schedule=schedule, tol=tol)
    plan = memory_plan(limit, data, training, options, engine)
    nested = options.nested
    xp: Any = np
    if options.device == "cuda" and engine == "chain":
        xp = _arrays.device_library()
        available = _arrays.device_memory(xp)
        check_memory(plan.of(_ON_DEVICE), _REMEDIES, available, nested=nested)
        check_memory(plan.of(plan.parts.keys() - {"chain"}), _REMEDIES, nested=nested)
    else:
        check_memory(plan, _REMEDIES, nested=nested)
        if options.device == "cuda":
            reason += "; it runs on the CPU, whose caches hold its state"
    bound = stability_bound(limit, data, training)
    if np.any(training.rates > bound):
        warnings.warn(
            f"lr = {training.rates.max():g} exceeds {_BOUND} = {bound:.6g} at step 0",
            StabilityWarning,
            stacklevel=3,
        )
    system = _system(engine, limit, data, training, options, xp)
    loss = training_loss(data)

    def solution(schedule: Schedule, outputs: FloatArray) -> Solution:
        diagnostics: dict[str, Any] = {
            "engine": engine,
            "reason": reason,
            "device": "cpu" if xp is np else "cuda",
            "memory": plan.total,
            "stability_bound": bound,
        }
        fields = curves(data, outputs.reshape(-1, data.n_train + data.n_test, data.n_outputs))
        result = Solution(
            schedule.times,
            schedule.kernel_times,
            **fields,
            **kernel_fields(system, limit, data, len(schedule.kernel_times), options.save),
            diagnostics=diagnostics,
            config=config,
        )
        diagnostics.update(_worth(system))
        if result.sharpness is not None and training.steps > 0:
            diagnostics["stability"] = stability(training, schedule.kernel_times, result.sharpness)
        diagnostics["wall_seconds"] = watch.seconds()
        if options.checkpoint is not None:
            diagnostics.update(options.checkpoint.diagnostics())
        return result

    try:
        outputs = march(system, schedule, loss, options.progress, options.checkpoint)
    except Diverged as stop:
        settled = not isinstance(system, ChainMarch) or system.chain.settled
        what = "the training loss" if settled else "the flow in depth"
        raise DivergenceError(
            f"{what} diverged at step {stop.step}: lr = {training.rates.max():g}, where "
            f"{_BOUND} at step 0 is {bound:.6g} and falls as features are learned; lower lr",
            step=stop.step,
            partial=solution(stop.schedule, stop.outputs),
        ) from None
    result = solution(schedule, outputs)
    if "stability" in result.diagnostics:
        warning = unstable(result.diagnostics["stability"], training)
        if warning is not None:
            warnings.warn(warning, StabilityWarning, stacklevel=3)
    if options.estimate_error:
        with warnings.catch_warnings():
            # The other run is as unstable as this one.
            warnings.simplefilter("ignore", StabilityWarning)
            error = _truncation_error(limit, data, training, options, config, result)
        result.diagnostics["error_estimate"] = error
    return result


def _check_readout(engine: str, limit: DeepLinear, training: GradientDescent) -> None:
    if engine == "chain" and limit.depth == INFINITE and limit.readout == "ntk":
        raise ValueError("readout='ntk' needs a finite depth: use readout='gd'")
    if limit.readout == "ntk" and not training.is_plain:
        raise ValueError(
            "readout='ntk' moves the outputs by the tangent kernel and knows neither momentum nor "
            "weight_decay: use readout='gd'"
        )


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
    responses = [name for name in (*RESPONSES, *PRODUCTS) if name in options.save]
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
    """Tolerance of the growing network; by default that of the run it goes on with."""
    if options.tol is not None:
        return options.tol
    if options.checkpoint is not None:
        held = options.checkpoint.held("tol")
        if held is not None:
            return float(held)
    matrices = 1 if limit.branch_scale is None else limit.depth - 1
    rows = (training.steps + 1) * data.n_outputs * matrices
    return ROUNDING_TOL if rows <= SHORT_RUN else DEFAULT_TOL


def _system(
    engine: str,
    limit: DeepLinear,
    data: Dataset,
    training: GradientDescent,
    options: SolveOptions,
    xp: Any,
) -> LinearMarch:
    problem = linear_problem(limit, data, training)
    if engine == "lazy":
        return LazyMarch(problem, limit.branch_scale)
    if engine == "growing":
        tol = truncation(limit, data, training, options)
        return GrowingNetwork(problem, tol, two_time=bool(options.save))
    return ChainMarch(problem, training.steps, xp=xp)


def linear_problem(limit: DeepLinear, data: Dataset, training: GradientDescent) -> LinearProblem:
    """What the marches of `limit` are told."""
    return LinearProblem(
        data,
        depth=limit.depth,
        gamma=limit.gamma,
        init_scale=limit.init_scale,
        branch=limit.branch_scale if limit.depth == INFINITE else limit.branch_factor,
        training=training,
        follow_ntk=limit.readout == "ntk",
        loss_limit=largest_loss(float(np.sum(data.targets**2))),
    )


def _truncation_error(
    limit: DeepLinear,
    data: Dataset,
    training: GradientDescent,
    options: SolveOptions,
    config: dict[str, Any],
    result: Solution,
) -> dict[str, Any]:
    """How far `result` is from what the growing network answers at another tolerance."""
    engine = result.diagnostics["engine"]
    if engine != "growing":
        return {"reason": f"the engine {engine!r} truncates nothing"}
    if len(result.times) == 0:
        return {"reason": "no times are stored"}
    assert options.tol is not None
    # Where a finer one would drown in rounding, a coarser one is off by more than the run.
    finer = options.tol / TOL_RATIO
    tol = finer if finer >= ROUNDING_TOL else options.tol * TOL_RATIO
    other = replace(
        options,
        schedule=replace(options.schedule, kernel_times=np.empty(0, dtype=np.int64)),
        save=(),
        tol=tol,
        method=engine,
        estimate_error=False,
        nested=True,
        checkpoint=None if options.checkpoint is None else options.checkpoint.beside("reference"),
    )
    report: dict[str, Any] = {"reference_tol": tol}
    try:
        reference = solve_deep_linear(limit, data, training, other, config)
    except (DivergenceError, MemoryError) as error:
        return {**report, "reason": f"the run at tol = {tol:g} failed: {error}"}
    seconds = reference.diagnostics["wall_seconds"]
    return {**report, **truncation_error(result, reference), "wall_seconds": seconds}


def memory_plan(
    limit: DeepLinear,
    data: Dataset,
    training: GradientDescent,
    options: SolveOptions,
    engine: str,
) -> Plan:
    """Memory of a run, by part."""
    points, outputs = data.n_train + data.n_test, data.n_outputs
    depth = limit.depth
    if depth == INFINITE:
        # The lazy limit has no layers there, the chain has those of its collocation.
        depth = 0 if engine == "lazy" else NODES
    slots = len(options.schedule.kernel_times)
    rows = (training.steps + 1) * outputs
    rank = data.n_train if data.inputs is None else min(data.n_train, data.inputs.shape[1])
    visited = min(rows, rank + outputs)
    # Kx itself is formed for kernels, or where its eigenvectors are cheaper than those of X.
    with_gram = slots > 0 or 2 * rank >= data.n_train
    # `LiftedRows` of a step; for what relates points at two steps, those of all, concatenated.
    lifted = (6 if limit.branch_scale is None else 10) * depth * points * rows
    lifted *= 2 * slots if {"H", "A", *PRODUCTS} & set(options.save) else min(slots, 1)
    saved = dict.fromkeys((*RESPONSES, *PRODUCTS), points * outputs)
    saved |= {"H": points * points, "G": outputs**2}
    history = _chain_count(limit, training.steps, outputs) if engine == "chain" else 0
    counts = {
        "chain": history + visited * (rows + data.n_train + points) if engine == "chain" else 0,
        "rows of all points": lifted if engine == "chain" else 0,
        # Lower triangles of the histories.
        "checkpoint": 0 if options.checkpoint is None else history // 2,
        # The steps, and their concatenation.
        "curves": (3 if options.estimate_error else 2)
        * len(options.schedule.times)
        * points
        * outputs,
        "kernels": slots * (depth + 1) * points**2 + 2 * slots * (data.n_train * outputs) ** 2,
        "two-time kernels": 2 * slots**2 * depth * sum(saved[name] for name in options.save),
        "data": 4 * points**2 if with_gram else 2 * points * rank,
    }
    return Plan({part: 8 * count for part, count in counts.items()})


def _chain_count(limit: DeepLinear, steps: int, outputs: int) -> int:
    """Numbers in the histories of the chain."""
    if limit.depth == INFINITE:
        return ContinuumChain.count(steps, outputs)
    chain = HiddenChain if limit.branch_scale is None else ResidualChain
    return chain.count(limit.depth, steps, outputs)


#: The parts of the plan that are on the device if the chain is; only the chain is not on the host.
_ON_DEVICE = ("chain", "rows of all points", "data", "two-time kernels")

#: What to change when a part of the plan is the largest.
_REMEDIES = {
    "chain": "use method='growing', or fewer steps",
    "rows of all points": "pass fewer kernel_times (kernel_times=[] stores none)",
    "checkpoint": "use method='growing', fewer steps, or pass no checkpoint",
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
    train = slice(data.n_train)
    eye = np.tile(np.eye(data.n_outputs), (slots, 1, 1))
    if isinstance(system, LazyMarch):
        ntk = system.tangent_kernels()
    elif limit.depth == INFINITE:
        # Kx G(0) + beta_0^2 int H G dtau + H(1)
        assert limit.branch_scale is not None
        first, *middle = (h[:, train, train] for h in features)
        weights = limit.branch_scale**2 * Collocation.of(len(gradients)).weights
        at_depth = [w * h for w, h in zip(weights, middle, strict=True)]
        ntk = tangent_kernel([first, *at_depth, middle[-1]], [gradients[0], *gradients, eye])
    else:
        ntk = tangent_kernel(
            [h[:, train, train] for h in features], [*gradients, eye], limit.branch_factor
        )
    bottom = 0 if limit.depth == INFINITE else 1
    equal_time = {"H": _layers(features[1:], bottom), "G": _layers(gradients, bottom)}
    fields: dict[str, Any] = {
        "ntk": ntk.reshape(-1, *data.targets.shape, *data.targets.shape),
        "sharpness": np.array([sharpness(kernel) for kernel in ntk]),
        "equal_time": equal_time if features else {},
        "two_time": {},
        "responses": {},
    }
    if "H" in save:
        fields["two_time"]["H"] = _layers(system.two_time_features(), bottom)
    if "G" in save:
        fields["two_time"]["G"] = _layers(system.two_time_gradients(), bottom)
    if isinstance(system, ChainMarch):
        if "A" in save:
            fields["responses"]["A"] = system.feature_responses()
        if "B" in save:
            targets = data.targets.reshape(data.n_train, -1)
            fields["responses"]["B"] = system.gradient_responses(targets)
        if "AG" in save:
            fields["two_time"]["AG"] = system.feature_noise_products()
        if "BPhi" in save:
            fields["two_time"]["BPhi"] = system.gradient_noise_products()
    return fields


def _layers(kernels: list[FloatArray], bottom: int) -> Layers:
    return dict(enumerate(kernels, start=bottom))


def _worth(system: LinearMarch) -> dict[str, Any]:
    """What the answer of a march is worth."""
    if isinstance(system, ChainMarch):
        return {"residual": system.residual(), **system.chain.diagnostics}
    if isinstance(system, GrowingNetwork):
        return {
            "tol": system.tol,
            "neurons": system.neurons,
            "multiply_adds": system.multiply_adds,
        }
    return {}
