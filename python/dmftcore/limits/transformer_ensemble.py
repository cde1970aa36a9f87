"""A residual transformer on particles: sizes, memory, sampling errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dmftcore import _arrays
from dmftcore._validate import INFINITE, FloatArray
from dmftcore.data import Dataset
from dmftcore.heads import token_rows
from dmftcore.limits.assembly import solved
from dmftcore.limits.ensemble_solve import (
    DEFAULT_REPLICAS,
    DEFAULT_SAMPLES,
    report_scatter,
    tolerance,
)
from dmftcore.limits.transformer import HEADS, KERNELS, RESPONSES, Transformer, transformer_ntk
from dmftcore.limits.transformer_solve import warn_of_still_attention
from dmftcore.march import SolveOptions, Stopwatch, resumed
from dmftcore.memory import Plan, library_with_room
from dmftcore.observables import (
    collapse,
    curves,
    curves_of_runs,
    sharpness,
    standard_error,
)
from dmftcore.sampled.blocks import Sampling
from dmftcore.sampled.kernels import pairs
from dmftcore.sampled.transformer import ResidualAttention, SampledTransformer
from dmftcore.solution import IntArray, Layers, Solution
from dmftcore.training import GradientDescent

__all__ = ["TransformerEnsemble", "memory_plan", "residual_attention", "solve_on_particles"]

#: Truncation of the bases where nothing is sampled: outputs are then wrong by some 1e-11, three
#: thousand times the root of the mean square that is dropped (1e-12 makes it 1e-8; 1e-20, at twice
#: the cost, 1e-13).
EXACT_TOL = 1e-16

ORDER_PARAMETERS = ("S_mean", "S_var", "A_mean", "A_var")


def solve_on_particles(
    limit: Transformer,
    data: Dataset,
    training: GradientDescent,
    options: SolveOptions,
    config: dict[str, Any],
    *,
    reason: str,
) -> Solution:
    """March `limit` by ``options.method``, "ensemble" or "growing"; see `dmftcore.solve`."""
    watch = Stopwatch()
    exact = options.method == "growing"
    options = options.known((*KERNELS, *HEADS))
    check_problem(limit, data, options)
    sampling, samples = _sampling(limit, options)
    schedule = resumed(
        options.schedule,
        options.checkpoint,
        config,
        training.lr,
        engine=options.method,
        tol=sampling.tol,
        samples=samples,
        replicas=sampling.runs,
    )
    options = replace(options, schedule=schedule)
    plan = memory_plan(limit, data, training, options, sampling)
    xp = library_with_room(
        options.device, plan, _REMEDIES, on_device=_ON_DEVICE, nested=options.nested
    )
    report = {
        "engine": options.method,
        "reason": reason,
        "device": options.device,
        "memory": plan.total,
    }
    if not exact:
        report |= {"samples": samples, "replicas": sampling.runs}
    heads = 1 if limit.key_dim == INFINITE else samples
    system = TransformerEnsemble(
        limit, data, training, sampling, heads, save=options.save, exact=exact, xp=xp
    )
    result = solved(
        system,
        data,
        training,
        options,
        config,
        report=report,
        watch=watch,
        curves=curves if exact else curves_of_runs,
    )
    result.diagnostics |= collapse(result.order_parameters)
    report_scatter(result, sampling)
    if options.estimate_error:
        text = "a sampled theory carries standard errors, see stderr(name)"
        if exact:
            text = "lower tol to see what the truncation of the bases does"
        result.diagnostics["error_estimate"] = {"reason": text}
    return result


def check_problem(limit: Transformer, data: Dataset, options: SolveOptions) -> None:
    """Refuse what particles cannot answer.

    Raises
    ------
    ValueError
        Naming the argument.
    """
    if limit.heads != INFINITE and limit.key_dim != INFINITE:
        raise ValueError(
            f"heads = {limit.heads}: with finitely many heads of finite key_dim nothing is "
            "infinite; pass heads=INFINITE, or simulate networks"
        )
    if limit.responses != "all":
        raise ValueError(
            f"responses = {limit.responses!r}: method={options.method!r} has no single responses "
            "to leave out; method='chain' does"
        )
    responses = [name for name in options.save if name in RESPONSES]
    if responses:
        raise ValueError(
            f"save={responses[0]!r}: method={options.method!r} does not know single responses, but "
            f"{', '.join(KERNELS)} (key_dim=INFINITE without MLP blocks has method='chain', which "
            "does)"
        )
    if not data.kernel.any():
        raise ValueError("the tokens have a zero Gram matrix: nothing can be learned")
    if limit.key_dim == INFINITE:
        warn_of_still_attention(limit)


def _sampling(limit: Transformer, options: SolveOptions) -> tuple[Sampling, int]:
    """How to sample, and how many heads, or neurons of MLP blocks between heads that are exact.

    By default as the run that is gone on with.
    """
    if options.method == "growing":
        for name in ("samples", "replicas"):
            if getattr(options, name) is not None:
                raise ValueError(f"{name}: method='growing' samples nothing; leave {name} out")
        if options.dtype != "float64":
            raise ValueError(
                f"dtype={options.dtype!r}: method='growing' is solved in float64; leave dtype out"
            )
        return Sampling(0, tol=tolerance(options, EXACT_TOL), unit=True), 1
    exact = limit.key_dim == INFINITE
    keys = 1 if exact else int(limit.key_dim)
    samples = int(options.held("samples", max(2, -(-DEFAULT_SAMPLES // keys))))
    sampling = Sampling(
        size=samples * keys,
        runs=int(options.held("replicas", DEFAULT_REPLICAS)),
        tol=tolerance(options),
        seed=options.seed,
        dtype=options.dtype,
        unit=exact,
    )
    return sampling, samples


def residual_attention(limit: Transformer, data: Dataset, heads: int) -> ResidualAttention:
    """What the march is told of `limit`."""
    return ResidualAttention(
        depth=int(limit.depth),
        positions=data.sequence_length,
        heads=heads,
        exponent=limit.attention_exponent,
        branch=limit.branch_factor,
        block_rate=limit.block_rate,
        gamma=limit.gamma,
        attention_map=limit.attention_map,
        activation=limit.mlp_activation,
    )


class TransformerEnsemble:
    """The march of a transformer on a data set; a `dmftcore.limits.assembly.NetworkMarch`.

    Parameters
    ----------
    limit, data, training
        As in `dmftcore.solve`.
    sampling : Sampling
    heads : int
    save : tuple of str
        Two-time kernels that will be asked for.
    exact : bool
        Whether nothing is sampled.
    xp : module
        Array library of the march.
    """

    def __init__(
        self,
        limit: Transformer,
        data: Dataset,
        training: GradientDescent,
        sampling: Sampling,
        heads: int,
        *,
        save: tuple[str, ...] = (),
        exact: bool = False,
        xp: Any = np,
    ) -> None:
        self._limit, self._data, self._exact = limit, data, exact
        self._save = tuple(name for name in save if name in KERNELS)
        #: By name, for every stored step: numbers of every head (depth, runs, H, P + Q, S, S).
        self._heads: dict[str, list[FloatArray]] = {name: [] for name in HEADS if name in save}
        targets = data.targets.reshape(data.n_train, -1)
        network = residual_attention(limit, data, heads)
        self.march = SampledTransformer(
            network, token_rows(data), targets, training, sampling, xp=xp
        )
        #: By name, for every stored step: mean and standard error over the runs.
        self._stored: dict[str, list[tuple[FloatArray, FloatArray]]] = {}
        #: By name and layer: coordinates of every stored step.
        self._histories: dict[str, list[list[FloatArray]]] = {}

    @property
    def step(self) -> int:
        return self.march.step

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the outputs of a step, (P + Q, K), of sampled heads (runs, P + Q, K)."""
        shape = self.march.shape
        return shape[1:] if self._exact else shape

    def advance(self, stops: IntArray) -> FloatArray:
        """Outputs (len(stops), *shape) at the given steps; fewer if a loss diverges."""
        rows = self.march.advance(stops)
        return rows.reshape(len(rows), *self.shape)

    def store_kernels(self) -> None:
        """Keep kernels and moments over heads of the present step."""
        grams = self.march.grams()
        found = {name: np.stack(layers, axis=1) for name, layers in grams.items()}
        for name in ("S", "A"):
            # (runs, depth, heads, sequences, S, S)
            by_head = np.stack(
                [
                    _arrays.to_host(block.attention if name == "S" else block.logits)
                    for block in self.march.attentions
                ],
                axis=1,
            ).astype(np.float64)
            heads = by_head.shape[2]
            found[f"{name}_mean"] = by_head.mean(axis=2)
            # Among all the heads of the limit, of which these are a sample.
            found[f"{name}_var"] = by_head.var(axis=2, ddof=1 if heads > 1 else 0)
            if f"{name}_heads" in self._heads:
                self._heads[f"{name}_heads"].append(by_head.swapaxes(0, 1))
        if self.march.shape[2] == 1 and self._limit.mlp_activation is None:
            keys = 1.0 if self._limit.key_dim == INFINITE else float(self._limit.key_dim)
            slow = keys ** (2 * (self._limit.attention_exponent - 1))
            kernels = {name: dict(enumerate(layers)) for name, layers in grams.items()}
            ntk = transformer_ntk(self._limit, self._data, kernels, score_rate=slow)
            found["ntk"] = ntk
            found["sharpness"] = np.array([sharpness(k[:, None, :, None]) for k in ntk])
        for name, values in found.items():
            error = standard_error(values) if len(values) > 1 else np.zeros_like(values[0])
            self._stored.setdefault(name, []).append((values.mean(axis=0), error))
        if self._save:
            coordinates = self.march.coordinates()
            for name in self._save:
                layers = coordinates[name]
                histories = self._histories.setdefault(name, [[] for _ in layers])
                for history, x in zip(histories, layers, strict=True):
                    history.append(np.array(x))

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything `restore` needs to go on bit for bit."""
        parts = {f"march.{name}": array for name, array in self.march.state().items()}
        for name, slots in self._stored.items():
            parts[f"stored.{name}"] = np.array(slots)
        parts |= {f"heads.{name}": np.array(slots) for name, slots in self._heads.items() if slots}
        for name, layers in self._histories.items():
            for layer, history in enumerate(layers):
                parts |= {f"history.{name}.{layer}.{i}": x for i, x in enumerate(history)}
        return parts

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state, on a march of the same problem."""
        self._stored, self._histories = {}, {}
        prefix = "march."
        self.march.restore(
            {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
        )
        for key, array in state.items():
            kind, name, *rest = key.split(".")
            if kind == "stored":
                self._stored[name] = [(slot[0], slot[1]) for slot in array]
            elif kind == "heads":
                self._heads[name] = list(array)
            elif kind == "history":
                layers = self._histories.setdefault(name, [])
                # In the order in which `state` wrote them.
                while len(layers) <= int(rest[0]):
                    layers.append([])
                layers[int(rest[0])].append(array)

    def fields(self, save: tuple[str, ...]) -> dict[str, Any]:
        """Kernel fields of a `Solution`, with their standard errors."""
        means, errors = (
            {name: np.stack([slot[i] for slot in slots]) for name, slots in self._stored.items()}
            for i in range(2)
        )
        patterns = self._data.targets.shape
        heads = {name: np.stack(slots) for name, slots in self._heads.items() if slots}
        for of in (means, errors):
            if "ntk" in of:
                of["ntk"] = of["ntk"].reshape(-1, *patterns, *patterns)
            # Layers first.
            of |= {name: of[name].swapaxes(0, 1) for name in KERNELS if name in of}
        return {
            "ntk": means.get("ntk"),
            "sharpness": means.get("sharpness"),
            "equal_time": {name: dict(enumerate(means[name])) for name in KERNELS if name in means},
            "two_time": {name: self._between_times(name) for name in self._histories},
            "order_parameters": {name: means[name] for name in ORDER_PARAMETERS if name in means}
            | heads,
            "standard_errors": errors if self.march.sampling.runs > 1 else {},
        }

    def diagnostics(self) -> dict[str, Any]:
        """What the answer is worth."""
        return self.march.diagnostics()

    def _between_times(self, name: str) -> Layers:
        return {
            layer: pairs(history, history).mean(axis=0)
            for layer, history in enumerate(self._histories[name])
        }


def memory_plan(
    limit: Transformer,
    data: Dataset,
    training: GradientDescent,
    options: SolveOptions,
    sampling: Sampling,
) -> Plan:
    """Memory of a run, by part; that of the bases is an estimate from above."""
    depth, tokens, steps = int(limit.depth), len(data.kernel), training.steps
    sequences, positions = tokens // data.sequence_length, data.sequence_length
    matrices = 4 if limit.mlp_activation is None else 6
    runs, word = sampling.runs, np.dtype(sampling.dtype).itemsize
    # A field of rank at most that of all steps; of smooth heads it is far lower.
    rank = min((steps + 1) * tokens, RANK_OF_A_TOKEN * tokens + 100)
    stream = matrices * depth * rank
    size = sampling.size or 4 * rank
    if sampling.size:
        rank = min(rank, size)
    bases = depth * matrices * 2 * rank * (stream + size)
    fields = tokens * (depth * 8 * size + 2 * (2 * depth + 1) * stream)
    heads = 1 if limit.key_dim == INFINITE else sampling.size // int(limit.key_dim)
    attention = depth * heads * sequences * positions**2
    slots = len(options.schedule.kernel_times)
    two_time = sum(name in KERNELS for name in options.save)
    kernels = (6 * depth + 2) * tokens**2 + 4 * depth * sequences * positions**2
    counts = {
        "bases": runs * bases * word,
        "fields": runs * (fields + 4 * attention) * word,
        "matrices": 8 * runs * depth * matrices * rank**2 * (2 if training.momentum else 1),
        "checkpoint": 0 if options.checkpoint is None else runs * (bases + fields) * word,
        "curves": 32 * (runs + 1) * len(options.schedule.times) * sequences * data.n_outputs,
        "kernels": 8 * (4 * slots + 2 * runs) * kernels,
        "two-time kernels": 8
        * two_time
        * (depth + 1)
        * (slots * runs * tokens * max(rank, stream) + (runs + 2) * (slots * tokens) ** 2),
        "single heads": 16 * (len(options.save) - two_time) * slots * runs * attention,
    }
    return Plan(counts)


#: The parts of the plan that are on the device, if there is one.
_ON_DEVICE = {"bases", "fields", "matrices"}

#: Directions that the fields of a token take in all in a long run, about.
RANK_OF_A_TOKEN = 20

#: What to change when a part of the plan is the largest.
_REMEDIES = {
    "bases": "lower samples or replicas, raise tol, or take fewer tokens",
    "fields": "lower samples or replicas, or take fewer tokens",
    "matrices": "raise tol, or lower replicas",
    "checkpoint": "lower samples or replicas, or pass no checkpoint",
    "curves": "pass fewer times",
    "kernels": "pass fewer kernel_times (kernel_times=[] stores none)",
    "two-time kernels": "pass fewer kernel_times, or save fewer two-time kernels",
    "single heads": "pass fewer kernel_times, lower samples or replicas, or save less",
}
