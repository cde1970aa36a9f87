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

from dmftcore import _arrays
from dmftcore._validate import INFINITE, FloatArray, integer, non_negative, one_of, positive
from dmftcore.chain import ContinuumChain, HiddenChain, ResidualChain
from dmftcore.chain.collocation import Collocation
from dmftcore.chain.continuum import NODES
from dmftcore.data import Dataset
from dmftcore.errors import DivergenceError, StabilityWarning
from dmftcore.interfaces import GrowingNetwork
from dmftcore.limits.linear_marches import ChainMarch, LazyMarch, LinearMarch
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
from dmftcore.observables import curves, sharpness, square_loss, tangent_kernel
from dmftcore.solution import Layers, Solution
from dmftcore.training import GradientDescent

__all__ = ["DeepLinear", "solve_deep_linear"]

#: Truncation of the growing network; the relative error of the loss is of its order.
DEFAULT_TOL = 1e-8

#: Up to this many rows (steps x outputs) every direction is kept, down to rounding: a layer then
#: has at most twice as many neurons as there are rows.
SHORT_RUN = 256
ROUNDING_TOL = 1e-13

KERNELS = ("H", "G")
RESPONSES = ("A", "B")
#: Responses times the correlation of the noise they answer to.
PRODUCTS = ("AG", "BPhi")


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
    xp: Any = np
    if options.device == "cuda" and engine == "chain":
        xp = _arrays.device_library()
        check_memory(plan.of(_ON_DEVICE), _REMEDIES, _arrays.device_memory(xp))
        check_memory(plan.of(plan.parts.keys() - {"chain"}), _REMEDIES)
    else:
        check_memory(plan, _REMEDIES)
        if options.device == "cuda":
            reason += "; it runs on the CPU, whose caches hold its state"
    bound = stability_bound(limit, data)
    if np.any(training.rates > bound):
        warnings.warn(
            f"lr = {training.rates.max():g} exceeds 2 / sharpness = {bound:.6g} at step 0",
            StabilityWarning,
            stacklevel=3,
        )
    system = _system(engine, limit, data, training, options, xp)
    targets = data.targets.reshape(data.n_train, -1)

    def loss(outputs: FloatArray) -> float:
        return float(square_loss(outputs[: data.n_train], targets))

    def solution(schedule: Schedule, outputs: FloatArray) -> Solution:
        diagnostics = {
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
            errors=data.targets - fields["outputs"],
            **_kernel_fields(system, limit, data, schedule, options.save),
            diagnostics=diagnostics,
            config=config,
        )
        diagnostics.update(_worth(system))
        diagnostics["wall_seconds"] = watch.seconds()
        return result

    try:
        outputs = march(system, options.schedule, loss, options.progress)
    except Diverged as stop:
        settled = not isinstance(system, ChainMarch) or system.chain.settled
        what = "the training loss" if settled else "the flow in depth"
        raise DivergenceError(
            f"{what} diverged at step {stop.step}: lr = {training.rates.max():g}, where "
            f"2 / sharpness at step 0 is {bound:.6g} and falls as features are learned; "
            "lower lr",
            step=stop.step,
            partial=solution(stop.schedule, stop.outputs),
        ) from None
    result = solution(options.schedule, outputs)
    _warn_unstable(result, training)
    return result


def _check_growing(limit: DeepLinear, training: GradientDescent) -> None:
    if limit.branch_scale is not None:
        raise ValueError("branch_scale: residual blocks need method='chain'")
    if not training.is_plain or np.ndim(training.lr):
        raise ValueError("training: momentum, weight_decay and schedules need method='chain'")


def _check_chain(limit: DeepLinear, training: GradientDescent) -> None:
    _check_readout(limit, training)
    if limit.depth == INFINITE and limit.readout == "ntk":
        raise ValueError("readout='ntk' needs a finite depth: use readout='gd'")


def _check_readout(limit: DeepLinear, training: GradientDescent) -> None:
    if limit.readout == "ntk" and not training.is_plain:
        raise ValueError(
            "readout='ntk' moves the outputs by the tangent kernel and knows neither momentum nor "
            "weight_decay: use readout='gd'"
        )


_CHECKS = {"growing": _check_growing, "chain": _check_chain, "lazy": _check_growing}


def stability_bound(limit: DeepLinear, data: Dataset) -> float:
    """Learning rate above which the lazy network diverges, 2 / sharpness(0).

    With the initial tangent kernel ``limit.initial_tangent_scale Kx``. Feature learning raises the
    sharpness, so that a smaller rate may still become unstable later.

    Raises
    ------
    ValueError
        If the training points are all zero.
    """
    if data.largest_eigenvalue <= 0:
        raise ValueError("the training points have a zero Gram matrix: nothing can be learned")
    return float(2 * data.n_train / (limit.initial_tangent_scale * data.largest_eigenvalue))


def _engine(limit: DeepLinear, training: GradientDescent, options: SolveOptions) -> tuple[str, str]:
    """The engine of a run, and why."""
    responses = [name for name in (*RESPONSES, *PRODUCTS) if name in options.save]
    if options.method == "growing" and responses:
        raise ValueError(
            f"method='growing' has no responses (save={responses[0]!r}): use method='chain'"
        )
    if options.method == "chain":
        return "chain", "asked for"
    if limit.depth == INFINITE:
        if options.method == "growing":
            raise ValueError("method='growing' has no infinite depth: use method='chain'")
        return "chain", "the growing network has no infinite depth"
    if responses:
        return "chain", f"the response {responses[0]} was asked for"
    if limit.gamma == 0:
        return "lazy", "gamma = 0 has a closed form"
    if options.method == "growing":
        return "growing", "asked for"
    return (
        "growing",
        f"no responses were asked for, and its cost is linear in the {training.steps} steps",
    )


def truncation(data: Dataset, training: GradientDescent, options: SolveOptions) -> float:
    """Tolerance of the growing network."""
    if options.tol is not None:
        return options.tol
    rows = (training.steps + 1) * data.n_outputs
    return ROUNDING_TOL if rows <= SHORT_RUN else DEFAULT_TOL


def _system(
    engine: str,
    limit: DeepLinear,
    data: Dataset,
    training: GradientDescent,
    options: SolveOptions,
    xp: Any,
) -> LinearMarch:
    problem = LinearProblem(
        data,
        depth=limit.depth,
        gamma=limit.gamma,
        init_scale=limit.init_scale,
        branch=limit.branch_scale if limit.depth == INFINITE else limit.branch_factor,
        training=training,
        follow_ntk=limit.readout == "ntk",
        loss_limit=DIVERGENCE_FACTOR * max(float(np.sum(data.targets**2)), 1e-300),
    )
    if engine == "lazy":
        return LazyMarch(problem)
    if engine == "growing":
        return GrowingNetwork(problem, truncation(data, training, options))
    return ChainMarch(problem, training.steps, xp=xp)


def memory_plan(
    limit: DeepLinear,
    data: Dataset,
    training: GradientDescent,
    options: SolveOptions,
    engine: str,
) -> Plan:
    """Memory of a run, by part."""
    points, outputs = data.n_train + data.n_test, data.n_outputs
    depth = NODES if limit.depth == INFINITE else limit.depth
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
    counts = {
        "chain": _chain_count(limit, training.steps, outputs)
        + visited * (rows + data.n_train + points)
        if engine == "chain"
        else 0,
        "rows of all points": lifted if engine == "chain" else 0,
        # The steps, and their concatenation.
        "curves": 2 * len(options.schedule.times) * points * outputs,
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
_ON_DEVICE = ("chain", "data", "two-time kernels")

#: What to change when a part of the plan is the largest.
_REMEDIES = {
    "chain": "use method='growing', or fewer steps",
    "rows of all points": "pass fewer kernel_times (kernel_times=[] stores none)",
    "curves": "pass fewer times",
    "kernels": "pass fewer kernel_times (kernel_times=[] stores none)",
    "two-time kernels": "pass fewer kernel_times, or save fewer two-time kernels",
    "data": "take fewer points",
}


def _kernel_fields(
    system: LinearMarch,
    limit: DeepLinear,
    data: Dataset,
    schedule: Schedule,
    save: tuple[str, ...],
) -> dict[str, Any]:
    """Kernel fields of a `Solution`."""
    if len(schedule.kernel_times) == 0:
        return {}
    features, gradients = system.kernels()
    train = slice(data.n_train)
    eye = np.tile(np.eye(data.n_outputs), (len(schedule.kernel_times), 1, 1))
    first, *middle, last = (h[:, train, train] for h in features)
    if limit.depth == INFINITE:
        # Kx G(0) + beta_0^2 int H G dtau + H(1)
        assert limit.branch_scale is not None
        weights = limit.branch_scale**2 * Collocation.of(len(gradients)).weights
        at_depth = [w * h for w, h in zip(weights, [*middle, last], strict=True)]
        ntk = tangent_kernel([first, *at_depth, last], [gradients[0], *gradients, eye])
    else:
        # A block h^l + b W^l h^l contributes b^2 H^l G^{l+1}.
        inner = 1.0 if limit.branch_factor is None else limit.branch_factor**2
        ntk = tangent_kernel([first, *(inner * h for h in middle), last], [*gradients, eye])
    bottom = 0 if limit.depth == INFINITE else 1
    fields: dict[str, Any] = {
        "ntk": ntk.reshape(-1, *data.targets.shape, *data.targets.shape),
        "sharpness": np.array([sharpness(kernel) for kernel in ntk]),
        "equal_time": {"H": _layers(features[1:], bottom), "G": _layers(gradients, bottom)},
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


def _warn_unstable(result: Solution, training: GradientDescent) -> None:
    if result.sharpness is None or training.steps == 0:
        return
    # The rate of the update that follows; after the last step, that of the one before.
    rates = training.rates[np.minimum(result.kernel_times, training.steps - 1)]
    unstable = np.flatnonzero(rates * result.sharpness > 2)
    if unstable.size:
        first = unstable[0]
        warnings.warn(
            f"lr * sharpness = {rates[first] * result.sharpness[first]:.4g} exceeds 2 at step "
            f"{result.kernel_times[first]}: at the edge of stability gradient descent amplifies "
            "rounding and truncation, whatever tol; lower lr for reproducible digits",
            StabilityWarning,
            stacklevel=4,
        )
