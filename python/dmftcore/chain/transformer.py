"""The chain of a residual transformer with infinitely many dimensions per head.

Everything is linear in Gaussian sources, because attention is the same in every head and does not
fluctuate. Rows and columns count (step, token), time slowest; a kernel times the factors
``rate(s) Delta_b(s)`` of its columns, for s < t alone, is written learned K. At every layer l, and
twice in every block, two sides meet (`dmftcore.chain.meeting`):

    stream   h^l = hhat^l + Z^l g^l        g^l = ghat^l + Y^l h^l
    heads    k = u^k + X q                 q = u^q + W k
    values   v = u^v + X' xi               xi = r + Y' v

With the features H^l of the stream and its response A^l = dh^l/dz^l, the attention S(t), the
gradient J(t) of its logits and beta = branch_scale / depth^depth_exponent:

    K^l = A^l + learned H^l                X = K^l J^T      W = K^l J       X' = beta K^l S^T
    N^l = beta B^{l+1} + beta learned G^{l+1}               Y' = N^l S
    k, q, v have the covariance H^l in their sources, r has G^{l+1}

A block adds to the stream, upward and downward, the kernels and responses of its output o = S v and
of the gradients p^q = J k, p^k = J^T q, p^v = beta S^T xi of its inputs:

    C^{l+1} = beta ( do/dr + beta learned <o o> )
    D^l     = dp^k/du^k + dp^q/du^q + dp^v/du^v + learned P^l,    P^l = <p^k p^k> + ... + <p^v p^v>
    Z^{l+1} = C^{l+1} + V^{l+1},   V^{l+1} = (1 - Z^l D^l)^{-1} Z^l
    Y^l     = D^l + U^l,           U^l = (1 - Y^{l+1} C^{l+1})^{-1} Y^{l+1}
    Hhat^{l+1} = beta^2 <o o> + ( Hhat^l reflected at D^l with covariance P^l )
    Ghat^l     = P^l + ( Ghat^{l+1} reflected at C^{l+1} with covariance beta^2 <o o> )

from Z^0 = learned C, Hhat^0 = C (inputs) to Y^L = learned 1 / S^2, Ghat^L = 1 / S^2 (readout of the
mean over S positions). Logits and outputs are correlations of the two sides at equal times. Sources
are never expanded layer by layer, so that a step costs a fixed number of passes over the triangles
of each layer: O(depth (steps tokens)^3) in all.

Source: the two-time equations of multi-head attention at infinite key dimension (Bordelon,
Chaudhry, Pehlevan 2024), with one layer's sources eliminated against the next.
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
from dmftcore.chain.meeting import Link, Meeting

__all__ = ["TransformerChain"]

#: Kernels and responses of single sources, of which a march keeps histories only on demand.
ON_DEMAND = ("P_k", "P_q", "P_v", "Rh", "Ro", "Rp_k", "Rp_q", "Rp_v")


@dataclass
class _Block:
    """Histories of one block, between the layers l and l + 1 of the stream.

    Attributes
    ----------
    keys, values : Meeting
        Of keys with queries, and of values with what comes back from the output.
    upward, downward : Link
        The stream below the block seen from above it, and the other way round.
    """

    keys: Meeting
    values: Meeting
    upward: Link
    downward: Link

    @property
    def added_upward(self) -> tuple[FloatArray, FloatArray]:
        """Histories of C^{l+1} and beta^2 <o o>."""
        return self.downward.z, self.downward.m

    @property
    def added_downward(self) -> tuple[FloatArray, FloatArray]:
        """Histories of D^l and P^l."""
        return self.upward.z, self.upward.m


class TransformerChain:
    """Histories of the kernels of all layers, marched one step at a time.

    A step consists of `forward` and, with the errors of its outputs, of `backward`. Rows and
    columns are numbered (t, token); n_t = (t + 1) M of them are known at step t.

    Parameters
    ----------
    gram : (M, M) array
        Inputs ``X X^T / D`` of all tokens, those of a sequence in a row.
    sequences : int
        Number of sequences; those that train come first.
    depth : int
        Number of blocks.
    branch : float
        Factor beta of a block.
    key_rate : float
        Ratio depth^(2 depth_exponent - 1) of the learning rates within blocks to the others.
    rates : (steps,) array
        Factors ``gamma lr / P`` of the errors at every step, P the number of training sequences.
    gamma : float
    attention : AttentionMap
    responses : {"all", "none", "head", "stream"}
        Which responses act back: an approximation, except for "all".
    keep : sequence of str
        Names out of `ON_DEMAND` of which histories are wanted.
    xp : module
        Array library of the histories.
    """

    def __init__(
        self,
        gram: FloatArray,
        sequences: int,
        *,
        depth: int,
        branch: float,
        key_rate: float,
        rates: FloatArray,
        gamma: float,
        attention: AttentionMap,
        responses: str = "all",
        keep: tuple[str, ...] = (),
        xp: Any = np,
    ) -> None:
        self.step = -1
        self.depth, self.gamma, self._branch, self._key_rate = depth, gamma, branch, key_rate
        self._head = 1.0 if responses in ("all", "head") else 0.0
        self._stream = 1.0 if responses in ("all", "stream") else 0.0
        self._xp, self._gram, self._attention = xp, xp.asarray(gram), attention
        self._tokens, self._sequences = len(gram), sequences
        self._positions = self._tokens // sequences
        self._rates = rates
        self._size = (len(rates) + 1) * self._tokens
        #: rate(s) Delta_b(s) of every column (s, b); zero where not trained, or not known yet.
        self._learned = xp.zeros(self._size)
        blocks = (len(rates) + 1, depth, sequences, self._positions, self._positions)
        #: Logits, attention S and the gradient J of the logits, (steps + 1, depth, P, S, S).
        self.logits, self.attention = xp.zeros(blocks), xp.zeros(blocks)
        self._gradients = xp.zeros(blocks)
        #: Lower triangles over (t, token), by name and layer.
        self.histories: dict[tuple[str, int], FloatArray] = {}
        layers = range(depth + 1)
        self._h = [self._new("H", layer) for layer in layers]
        self._layers = [
            Meeting(*(self._new(name, layer) for name in ("Hhat", "Ghat", "Z", "B", "G")))
            for layer in layers
        ]
        self._blocks = [self._block(layer) for layer in range(depth)]
        self._on_demand = {
            (name, layer): self._new(name, layer) for name in keep for layer in range(depth)
        }

    @staticmethod
    def count(depth: int, steps: int, tokens: int, keep: int = 0) -> int:
        """Numbers that the histories of such a chain hold, `keep` on demand included."""
        return (6 * (depth + 1) + (12 + keep) * depth) * ((steps + 1) * tokens) ** 2

    def forward(self) -> FloatArray:
        """Go to the next step and append its rows upward; outputs (sequences,)."""
        self.step += 1
        now, n = self._now, self._known
        learned = self._learned[:n]
        self._keys_of_step: list[tuple[FloatArray, FloatArray]] = []
        hhat = self._xp.tile(self._gram, (1, self.step + 1))
        z = hhat * learned
        for layer, meeting in enumerate(self._layers):
            meeting.hhat[now, :n] = hhat
            h, a = meeting.lower(now, z, hhat)
            self._h[layer][now, :n] = h
            if layer < self.depth:
                self._record("Rh", layer, a)
                memory = self._stream * a + self._key_rate * h * learned
                c, o = self._attend(layer, h, memory)
                v, carried = self._blocks[layer].upward.rows(now, z, hhat)
                for history, row in zip(self._blocks[layer].added_upward, (c, o), strict=True):
                    history[now, :n] = row
                z, hhat = c + v, o + carried
        top = self._layers[-1]
        ghat = self._xp.full((self._tokens, n), 1 / self._positions**2)
        top.ghat[now, :n] = ghat
        top.upper(now, self._top_response(n), ghat)
        across = top.across(now, n)[0].reshape(self._sequences, self._positions)
        outputs: FloatArray = across.sum(axis=1) / self.gamma
        return outputs

    def backward(self, errors: FloatArray) -> None:
        """Append the rows downward at the present step, given errors (training sequences,)."""
        now, n = self._now, self._known
        y = self._top_response(n)
        for layer in reversed(range(self.depth)):
            above, below = self._layers[layer + 1], self._layers[layer]
            ghat = self._xp.ascontiguousarray(above.ghat[now, :n])
            d, p = self._attend_back(layer, above)
            u, carried = self._blocks[layer].downward.rows(now, y, ghat)
            for history, row in zip(self._blocks[layer].added_downward, (d, p), strict=True):
                history[now, :n] = row
            y, ghat = d + u, p + carried
            below.ghat[now, :n] = ghat
            below.upper(now, y, ghat)
        if self.step < len(self._rates):
            by_token = self._xp.zeros((self._sequences, self._positions))
            by_token[: len(errors)] = self._rates[self.step] * errors[:, None]
            self._learned[now] = by_token.ravel()

    def _attend(
        self, layer: int, h: FloatArray, memory: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Rows of C^{l+1} and beta^2 <o o>, given those of H^l and K^l."""
        block, now, t = self._blocks[layer], self._now, self.step
        j = self._gradients[:t, layer]
        keys = block.keys.lower(now, self._times(memory, j.swapaxes(-1, -2)), h)
        block.keys.upper(now, self._times(memory, j), h)
        self._keys_of_step.append(keys)
        logits = self._within_sequences(block.keys.across(now, self._known))
        s = self._attention.value(logits)
        self.logits[t, layer], self.attention[t, layer] = logits, s
        until = self.attention[: t + 1, layer].swapaxes(-1, -2)
        vv, rv = block.values.lower(now, self._branch * self._times(memory, until[:t]), h)
        oo, ro = self._map(s, self._times(vv, until)), self._map(s, rv)
        self._record("Ro", layer, ro)
        learned = self._branch * self._key_rate * oo * self._learned[: self._known]
        return self._branch * (self._head * ro + learned), self._branch**2 * oo

    def _attend_back(self, layer: int, above: Meeting) -> tuple[FloatArray, FloatArray]:
        """Rows of D^l and P^l, given the gradients above the block."""
        block, now, n, t = self._blocks[layer], self._now, self._known, self.step
        learned = self._key_rate * self._learned[:n]
        g = self._xp.ascontiguousarray(above.g[now, :n])
        memory = self._branch * (self._stream * above.b[now, :n] + learned * g)
        s, j = self.attention[: t + 1, layer], self._gradients[: t + 1, layer]
        xx, rx = block.values.upper(now, self._times(memory, s[:t]), g)
        weights = self._branch * self._within_sequences(block.values.across(now, n))
        j[t] = self._attention.gradient(self.logits[t, layer], weights)
        kk, rk = self._keys_of_step[layer]
        qq, rq = block.keys.g[now, :n], block.keys.b[now, :n]
        back = {
            "k": (j[t].swapaxes(-1, -2), self._times(qq, j), rq),
            "q": (j[t], self._times(kk, j.swapaxes(-1, -2)), rk),
            "v": (
                self._branch * s[t].swapaxes(-1, -2),
                self._branch * self._times(xx, s),
                rx,
            ),
        }
        d, p = self._xp.zeros_like(memory), self._xp.zeros_like(memory)
        for name, (left, noise, answer) in back.items():
            pp, rp = self._map(left, noise), self._map(left, answer)
            self._record(f"P_{name}", layer, pp)
            self._record(f"Rp_{name}", layer, rp)
            d += self._head * rp
            p += pp
        return d + learned * p, p

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything `restore` needs to go on bit for bit, between two steps."""
        n, t = self._known, self.step + 1
        packed: dict[str, npt.NDArray[Any]] = {
            "step": np.array(self.step),
            "learned": _arrays.to_host(self._learned[:n]),
            "logits": _arrays.to_host(self.logits[:t]),
            "attention": _arrays.to_host(self.attention[:t]),
            "gradients": _arrays.to_host(self._gradients[:t]),
        }
        for (name, layer), history in self.histories.items():
            packed[f"{name}{layer}"] = _arrays.to_host(history[:n, :n])
        return packed

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state, on a march of the same problem."""
        self.step = int(state["step"])
        n, t, xp = self._known, self.step + 1, self._xp
        self._learned[:n] = xp.asarray(state["learned"])
        for name, blocks in (
            ("logits", self.logits),
            ("attention", self.attention),
            ("gradients", self._gradients),
        ):
            blocks[:t] = xp.asarray(state[name])
        for (name, layer), history in self.histories.items():
            history[:n, :n] = xp.asarray(state[f"{name}{layer}"])

    @property
    def _known(self) -> int:
        return (self.step + 1) * self._tokens

    @property
    def _now(self) -> slice:
        return slice(self.step * self._tokens, self._known)

    def _new(self, name: str, layer: int) -> FloatArray:
        history: FloatArray = self._xp.zeros((self._size, self._size))
        self.histories[name, layer] = history
        return history

    def _block(self, layer: int) -> _Block:
        h, below, above = self._h[layer], self._layers[layer], self._layers[layer + 1]
        c, o, d, p = (self._new(name, layer) for name in ("C", "O", "D", "P"))
        keys, values = (
            Meeting(h, ghat, *(self._new(f"{kind}_{name}", layer) for name in ("Z", "B", "G")))
            for kind, ghat in (("keys", h), ("values", above.g))
        )
        upward = Link(below.hhat, d, p, self._new("V", layer))
        return _Block(keys, values, upward, Link(above.ghat, c, o, self._new("U", layer)))

    def _record(self, name: str, layer: int, rows: FloatArray) -> None:
        if (name, layer) in self._on_demand:
            self._on_demand[name, layer][self._now, : rows.shape[1]] = rows

    def _top_response(self, n: int) -> FloatArray:
        """Rows of Y^L: the readout averages over positions, and learns from their average."""
        row = self._learned[:n] / self._positions**2
        rows: FloatArray = self._xp.tile(row, (self._tokens, 1))
        return rows

    def _within_sequences(self, matrix: FloatArray) -> FloatArray:
        """The blocks (P, S, S) of a (M, M) matrix that belong to a single sequence."""
        p, s = self._sequences, self._positions
        each = self._xp.arange(p)
        blocks: FloatArray = matrix.reshape(p, s, p, s)[each, :, each]
        return blocks

    def _times(self, rows: FloatArray, blocks: FloatArray) -> FloatArray:
        """Rows (m, n) times a block diagonal matrix over (step, sequence), zero beyond it."""
        steps, p, s = blocks.shape[:3]
        within = steps * p * s
        product: FloatArray = self._xp.zeros_like(rows)
        by_block = rows[:, :within].reshape(len(rows), steps * p, s).swapaxes(0, 1)
        product[:, :within] = (
            (by_block @ blocks.reshape(-1, s, s)).swapaxes(0, 1).reshape(len(rows), within)
        )
        return product

    def _map(self, blocks: FloatArray, rows: FloatArray) -> FloatArray:
        """A block diagonal matrix over sequences times rows (M, n)."""
        p, s = self._sequences, self._positions
        mapped: FloatArray = (blocks @ rows.reshape(p, s, -1)).reshape(rows.shape)
        return mapped
