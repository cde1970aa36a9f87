r"""The ensemble march of a residual transformer: heads on particles, and a stream that is linear.

Between the states of the stream, h^l of all tokens, lie random matrices that are sampled when they
are needed (`dmftcore.sampled.interfaces`); no kernel between two times is stored. With
``beta = branch``, for tokens s of one sequence and every head of N particles,

    k, q, v = W_K h, W_Q h, W_V h,   A = q k^T / N^alpha,   S = sigma(A),   h <- h + beta W_O S v,

    B = beta xi v^T / N,  xi = W_O^T g,   J = N^(1 - alpha) vjp(A, B),

    g <- g + W_K^T J^T q + W_Q^T J k + beta W_V^T S^T xi.

Nothing acts on the stream but matrices: it is a sum of Gaussian sources, whose coefficients are
marched exactly (unit sources, see `dmftcore.sampled.particles.Particles`). The heads are

* sampled, n of them with N components each: the limit of infinitely many heads;
* one head of unit sources, on which everything is linear, because attention does not fluctuate:
  the limit of infinitely many dimensions, without any sampling.

Source: Bordelon, Chaudhry & Pehlevan, "Infinite limits of multi-head transformer dynamics" (2024),
in discrete time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dmftcore import _arrays
from dmftcore._validate import FloatArray
from dmftcore.attention_maps import AttentionMap
from dmftcore.losses import loss_function
from dmftcore.march import largest_loss
from dmftcore.sampled.blocks import FIRST, INNER, LAST, Block, Sampling, TwoLayerBlock
from dmftcore.sampled.interfaces import Interface, Shore, Visit
from dmftcore.sampled.outer_layer import OuterLayer
from dmftcore.sampled.particles import CounterNormals, Normals, Particles, blend, products
from dmftcore.solution import IntArray
from dmftcore.training import GradientDescent

__all__ = ["AttentionBlock", "ResidualAttention", "SampledTransformer"]

#: Arrays of sources of a layer: two for each of its matrices.
STREAMS = 12


@dataclass(frozen=True)
class ResidualAttention:
    """What the march is told of a transformer.

    Attributes
    ----------
    depth : int
        L.
    positions : int
        Tokens S of a sequence.
    heads : int
        Heads among which the particles are divided.
    exponent : float
        alpha.
    branch : float
        beta.
    block_rate : float
        Ratio of the learning rates of blocks to those of the outer layers.
    gamma : float
    attention_map : AttentionMap
    activation : str, optional
        phi of MLP blocks, if there are any.
    """

    depth: int
    positions: int
    heads: int
    exponent: float
    branch: float
    block_rate: float
    gamma: float
    attention_map: AttentionMap
    activation: str | None = None


@dataclass(frozen=True)
class _Dense:
    """What `TwoLayerBlock` is told of an MLP block."""

    branch: float
    activation: str
    skip: int = 1


class AttentionBlock(Block):
    """Multi-head attention, ``h + beta W_O o``.

    Parameters
    ----------
    network : ResidualAttention
    interfaces : tuple of Interface
        W_K, W_Q, W_V and W_O.

    Attributes
    ----------
    logits, attention : (runs, heads, sequences, S, S) arrays
    states_k, states_q, states_v : Visit
        Of the stream, at each of the first three.
    pulled_k, pulled_q, pulled_v : Visit
        Of the gradients by keys, queries and values.
    """

    visits = (
        ("states_k", "states_q", "states_v", "features"),
        ("pulled_k", "pulled_q", "pulled_v", "gradients"),
    )
    states_k: Any = None
    states_q: Any = None
    states_v: Any = None
    pulled_k: Any = None
    pulled_q: Any = None
    pulled_v: Any = None

    def __init__(self, network: ResidualAttention, interfaces: tuple[Interface, ...]) -> None:
        self._attention_network = network
        self.interfaces = interfaces
        self.sees = "linear"
        self.particles = interfaces[0].below.particles
        self.features, self.gradients = None, None
        self.logits: Any = None
        self.attention: Any = None
        self._fields: dict[str, Any] = {}

    @property
    def _keys(self) -> int:
        """N."""
        return self.interfaces[0].above.particles.size // self._attention_network.heads

    def forward(self, x: Any, n: int, kept: float, **rest: Any) -> None:
        network, heads = self._attention_network, self.interfaces[0].above.particles
        for name, interface in zip("kqv", self.interfaces, strict=False):
            field = heads.empty(n)
            setattr(self, f"states_{name}", interface.forward(x, n, kept, y=field))
            self._fields[name] = self._by_head(field)
        k, q, v = (self._fields[name] for name in "kqv")
        self.logits = q @ k.swapaxes(3, 4) / self._keys**network.exponent
        self.attention = network.attention_map.value(self.logits)
        mixed = self._side_by_side(self.attention @ v)
        rest |= {"scale": network.branch}
        self.features = self.interfaces[3].forward(mixed, n, kept, **rest)

    def backward(self, g: Any, n: int, kept: float, **rest: Any) -> None:
        network, keys = self._attention_network, self._keys
        k, q, v = (self._fields[name] for name in "kqv")
        field = self.interfaces[3].below.particles.empty(n)
        self.gradients = self.interfaces[3].backward(g, n, kept, y=field)
        xi = self._by_head(field)
        by_attention = network.branch * (xi @ v.swapaxes(3, 4)) / keys
        j = network.attention_map.gradient(self.attention, by_attention)
        j *= keys ** (1 - network.exponent)
        pulled = {
            "k": j.swapaxes(3, 4) @ q,
            "q": j @ k,
            "v": network.branch * (self.attention.swapaxes(3, 4) @ xi),
        }
        base, target = rest["base"], rest["y"]
        for (name, p), interface in zip(pulled.items(), self.interfaces, strict=False):
            y = target if name == "v" else self.particles.empty(n)
            visit = interface.backward(self._side_by_side(p), n, kept, base=base, y=y)
            setattr(self, f"pulled_{name}", visit)
            base = y

    def _learning(self) -> list[tuple[Interface, float, Visit, Visit]]:
        network, (keys, queries, values, outputs) = self._attention_network, self.interfaces
        slow = float(self._keys) ** (2 * (network.exponent - 1))
        return [
            (keys, slow, self.pulled_k, self.states_k),
            (queries, slow, self.pulled_q, self.states_q),
            (values, 1.0, self.pulled_v, self.states_v),
            (outputs, network.branch, self.gradients, self.features),
        ]

    def _by_head(self, field: Any) -> Any:
        """(runs, M, particles) as (runs, heads, sequences, S, N)."""
        network = self._attention_network
        split = field.reshape(len(field), -1, network.positions, network.heads, self._keys)
        return split.transpose(0, 3, 1, 2, 4)

    def _side_by_side(self, split: Any) -> Any:
        """(runs, heads, sequences, S, N) as (runs, M, particles)."""
        runs, heads, sequences, positions, keys = split.shape
        joined = split.transpose(0, 2, 3, 1, 4).reshape(runs, sequences * positions, heads * keys)
        return self.particles.xp.ascontiguousarray(joined)


class SampledTransformer:
    """Runs of a transformer whose stream, at least, is infinitely wide; a `dmftcore.march.March`.

    Parameters
    ----------
    network : ResidualAttention
    points : (M, r) array
        Rows of all tokens, those of the sequences that train first, for which C is their product.
    targets : (P, K) array
    training : GradientDescent
    sampling : Sampling
        ``size`` is that of a set of heads, a multiple of their number. The stream has unit sources
        unless `match` is False: then it is sampled as well, by as many particles, and the law is
        that of networks of this width. With ``unit`` nothing is sampled, and sets grow on demand.
    normals : Normals, optional
        Where the random numbers come from, in place of the seed.
    xp : module
        Library of the particles, numpy or cupy; outputs and what is asked of a step are numpy.
    """

    def __init__(
        self,
        network: ResidualAttention,
        points: FloatArray,
        targets: FloatArray,
        training: GradientDescent,
        sampling: Sampling,
        *,
        normals: Normals | None = None,
        xp: Any = np,
    ) -> None:
        self.network, self.sampling, self._xp = network, sampling, xp
        self._points, self._targets, self._training = points, targets, training
        self._loss = loss_function(training.loss)
        normals = CounterNormals(sampling.seed) if normals is None else normals
        self.tokens, outputs = len(points), targets.shape[1]
        per_step = self.tokens * (4 if network.activation is None else 6) * network.depth
        exact = sampling.match or sampling.unit
        size = 2 * (points.shape[1] + outputs + per_step) if exact else sampling.size
        self._stream = self._particles(size, normals, unit=exact)
        self._sets = [self._stream]
        self._layers = [self._blocks(layer, normals) for layer in range(network.depth)]
        self._a = OuterLayer(self._stream, points.shape[1], FIRST, training)
        self._w = OuterLayer(self._stream, outputs, LAST, training)
        #: Sources that a step may need of a set.
        self._per_step = [per_step if p is self._stream else 4 * self.tokens for p in self._sets]
        #: c: what momentum and decay have left of an initial weight, and its velocity.
        self._kept = np.array([1.0, 0.0])
        #: h^L and g^0 (runs, M, S).
        self._last: Any = None
        self._lowest: Any = None
        self._step, self._has_gradients = -1, False
        sequences = self.tokens // network.positions
        self._f: FloatArray = np.zeros((sampling.runs, sequences, outputs))
        self._f_initial = np.zeros_like(self._f)
        self._loss_limit = np.inf

    def _particles(self, size: int, normals: Normals, *, unit: bool) -> Particles:
        sampling = self.sampling
        return Particles(
            sampling.runs,
            size,
            sampling.dtype,
            normals,
            match=sampling.match,
            unit=unit,
            pool=sampling.pool,
            xp=self._xp,
        )

    def _blocks(self, layer: int, normals: Normals) -> list[Block]:
        """The attention of a layer, and the MLP that follows it."""
        network, sampling, stream = self.network, self.sampling, self._stream
        first = INNER + STREAMS * layer
        size = 8 * self.tokens if sampling.unit else sampling.size
        heads = self._particles(size, normals, unit=sampling.unit)
        self._sets.append(heads)
        ends = [(stream, heads)] * 3 + [(heads, stream)]
        kind = network.activation
        if kind is not None:
            linear = sampling.unit and kind == "linear"
            hidden = self._particles(size, normals, unit=linear)
            self._sets.append(hidden)
            ends += [(stream, hidden), (hidden, stream)]
        interfaces = [
            Interface(below, above, sampling.tol, (first + 2 * i, first + 2 * i + 1))
            for i, (below, above) in enumerate(ends)
        ]
        blocks: list[Block] = [AttentionBlock(network, tuple(interfaces[:4]))]
        if kind is not None:
            dense: Any = _Dense(network.branch, kind)
            blocks.append(TwoLayerBlock(dense, tuple(interfaces[4:]), "linear"))
        return blocks

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
            for stop in stops.tolist():
                while self._step < stop:
                    if not self._next_step():
                        return np.array(rows).reshape(-1, *self._f.shape)
                rows.append(self._f)
        return np.array(rows).reshape(-1, *self._f.shape)

    def backpropagate(self) -> None:
        """Gradients at the present step: of the output, or of the signal of several outputs."""
        if self._has_gradients:
            return
        count, positions = self.tokens, self.network.positions
        k = self._targets.shape[1]
        combined = np.full((len(self._f), 1, count), 1 / positions)
        if k > 1:
            combined = np.ascontiguousarray(self._by_token().swapaxes(1, 2))
        g = self._stream.empty(count)
        blend(count, self._w.basis, combined, y=g)
        kept = float(self._kept[0])
        for block in reversed(self.blocks):
            below = self._stream.empty(count)
            block.backward(
                g, count, kept, reference=None, u=None, field=None, repeat=1, base=g, y=below
            )
            g = below
        self._lowest, self._has_gradients = g, True

    @property
    def attentions(self) -> list[AttentionBlock]:
        """Of all layers."""
        return [block for block in self.blocks if isinstance(block, AttentionBlock)]

    @property
    def blocks(self) -> list[Block]:
        """All of them, from below."""
        return [block for blocks in self._layers for block in blocks]

    @property
    def interfaces(self) -> list[Interface]:
        """All of them, from below."""
        return [interface for block in self.blocks for interface in block.interfaces]

    def coordinates(self) -> dict[str, list[FloatArray]]:
        """Fields of the present step, whose products are the kernels.

        By name and layer, (runs, ., M) coordinates along orthonormal columns, to which later steps
        add others: "H", "G" of layers 0..L, "O", "P_k", "P_q", "P_v" of layers 0..L - 1.
        """
        self.backpropagate()
        attentions = self.attentions
        outer = [
            (x / np.sqrt(x.shape[2])).swapaxes(1, 2).astype(np.float64)
            for x in map(_arrays.to_host, (self._last, self._lowest))
        ]
        found: dict[str, list[Any]] = {
            "H": [*(block.states_k.along for block in attentions), outer[0]],
            "G": [outer[1], *(blocks[-1].gradients.along for blocks in self._layers)],
            "O": [block.features.along for block in attentions],
        }
        for name in "kqv":
            found[f"P_{name}"] = [getattr(block, f"pulled_{name}").along for block in attentions]
        return _on_host(found)

    def grams(self) -> dict[str, list[FloatArray]]:
        """Kernels of the present step, (runs, M, M) by name and layer, as `coordinates`."""
        self.backpropagate()
        attentions, count = self.attentions, self.tokens
        last, lowest = (products(x, count, gram=True)[2] for x in (self._last, self._lowest))
        found = {
            "H": [*(block.states_k.gram for block in attentions), last],
            "G": [lowest, *(blocks[-1].gradients.gram for blocks in self._layers)],
            "O": [block.features.gram for block in attentions],
        }
        for name in "kqv":
            found[f"P_{name}"] = [getattr(block, f"pulled_{name}").gram for block in attentions]
        return _on_host(found)

    def diagnostics(self) -> dict[str, Any]:
        """What the answer is worth."""
        pairs = [interface.ranks for interface in self.interfaces]
        return {
            "tol": self.sampling.tol,
            "ranks": [[int(below.max()), int(above.max())] for below, above in pairs],
            "dropped": max(interface.dropped for interface in self.interfaces),
            "particles": [particles.size for particles in self._sets],
        }

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything `restore` needs to go on bit for bit."""
        # The passes are kept, and not made again: they would differ by rounding.
        self.backpropagate()
        parts: dict[str, npt.NDArray[Any]] = {
            "step": np.array(self._step),
            "kept": self._kept.copy(),
            "f": self._f.copy(),
            "f_initial": self._f_initial.copy(),
            "last": _arrays.host_copy(self._last),
            "lowest": _arrays.host_copy(self._lowest),
            "loss_limit": np.array(self._loss_limit),
            "sizes": np.array([particles.size for particles in self._sets]),
        }
        for name, part in self._parts():
            parts |= {f"{name}.{key}": value for key, value in part.state().items()}
        return parts

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state, on a march of the same problem."""
        self._step, self._loss_limit = int(state["step"]), float(state["loss_limit"])
        for name in ("kept", "f", "f_initial"):
            setattr(self, f"_{name}", np.array(state[name]))
        for name in ("last", "lowest"):
            setattr(self, f"_{name}", self._xp.array(state[name]))
        for particles, size in zip(self._sets, state["sizes"].tolist(), strict=True):
            self._enlarge(particles, size)
        for name, part in self._parts():
            prefix = f"{name}."
            part.restore(
                {k.removeprefix(prefix): x for k, x in state.items() if k.startswith(prefix)}
            )
        self._has_gradients = True

    def _parts(self) -> list[tuple[str, Any]]:
        """All that has a state of its own, by name."""
        return [
            ("a", self._a),
            ("w", self._w),
            *((f"set.{i}", part) for i, part in enumerate(self._sets)),
            *((f"interface.{i}", part) for i, part in enumerate(self.interfaces)),
            *((f"block.{i}", part) for i, part in enumerate(self.blocks)),
        ]

    def _next_step(self) -> bool:
        """Update, and move to the next step; False if a loss there has diverged."""
        if self._step >= 0:
            self.backpropagate()
            self._update(float(self._training.rates[self._step]))
        self._step += 1
        self._has_gradients = False
        for particles, needed in zip(self._sets, self._per_step, strict=True):
            if particles.unit and particles.sources.max() + needed > particles.size:
                self._enlarge(particles, 2 * particles.size)
        self._propagate()
        if self._step == 0:
            self._f_initial = self._f.copy()
            self._f = np.zeros_like(self._f)
        loss = self._loss.mean(self._f[:, : len(self._targets)], self._targets)
        if self._step == 0:
            self._loss_limit = largest_loss(float(loss.max()))
        return bool((loss <= self._loss_limit).all() and np.isfinite(self._f).all())

    def _enlarge(self, particles: Particles, size: int) -> None:
        """Make room for more unit sources on a set; what lives on it is as before."""
        if size == particles.size:
            return
        particles.size = size
        for layer in (self._a, self._w):
            if layer.particles is particles:
                layer.enlarge(size)
        shores: list[Shore] = [
            shore for interface in self.interfaces for shore in (interface.below, interface.above)
        ]
        for shore in shores:
            if shore.particles is particles:
                shore.visited.enlarge(size)
                shore.sources.enlarge(size)

    def _propagate(self) -> None:
        """States of the stream and outputs of the present weights."""
        count, kept = self.tokens, float(self._kept[0])
        h = self._stream.empty(count)
        coordinates = np.tile(self._points.T, (self.sampling.runs, 1, 1))
        blend(count, self._a.basis, coordinates, y=h)
        for block in self.blocks:
            above = self._stream.empty(count)
            block.forward(h, count, kept, reference=None, u=None, base=h, y=above)
            h = above
        self._last = h
        by_token = _arrays.to_host(products(h, count, self._w.basis)[0])
        split = by_token.reshape(*by_token.shape[:2], -1, self.network.positions)
        f = split.mean(axis=3).swapaxes(1, 2)
        self._f = f / self.network.gamma - self._f_initial

    def _by_token(self) -> FloatArray:
        """Errors over the number S of positions of every token, (runs, M, K); 0 for those of tests.

        With these as weights, sums over tokens stand for those over sequences of their means.
        """
        positions, trained = self.network.positions, len(self._targets)
        errors = np.zeros_like(self._f)
        errors[:, :trained] = self._loss.errors(self._f[:, :trained], self._targets)
        by_token: FloatArray = np.repeat(errors, positions, axis=1) / positions
        return by_token

    def _update(self, rate: float) -> None:
        """One update of all weights."""
        network, count = self.network, self.tokens
        gamma = network.gamma / len(self._targets)
        errors = self._by_token()
        # Gradients have the 1/S already, and those of several outputs the errors.
        weights = errors.swapaxes(1, 2) * network.positions if errors.shape[2] == 1 else None
        for block in self.blocks:
            block.update(gamma * network.block_rate, weights, count, rate, self._training)
        along = gamma * np.tile(self._points, (len(errors), 1, 1))
        if weights is None:
            trained = len(self._targets) * network.positions
            along[:, trained:] = 0
        else:
            along *= weights.swapaxes(1, 2)
        self._a.update(self._lowest, count, along, rate)
        self._w.update(self._last, count, gamma * errors, rate)
        momentum, decay = self._training.momentum, self._training.weight_decay
        velocity = momentum * self._kept[1] - decay * self._kept[0]
        self._kept = np.array([self._kept[0] + rate * velocity, velocity])


def _on_host(fields: dict[str, list[Any]]) -> dict[str, list[FloatArray]]:
    return {name: [_arrays.to_host(x) for x in layers] for name, layers in fields.items()}
