"""The chain of a residual transformer with infinitely many dimensions per head.

Everything is linear in Gaussian sources, because attention is the same in every head and does not
fluctuate. Rows and columns count (step, token), time slowest. A weight matrix couples the rows of
two times by factors of kernels (`dmftcore.chain.couplings`): kept K belongs to what is left of its
initial value, and learned K to what it has learned; the latter includes gamma / P and the error
Delta_b(s) of the column (s, b). At every layer l, and twice in every block, two sides meet
(`dmftcore.chain.meeting`):

    stream   h^l = hhat^l + Z^l g^l        g^l = ghat^l + Y^l h^l
    heads    k = u^k + X q                 q = u^q + W k
    values   v = u^v + X' xi               xi = r + Y' v

With the features H^l of the stream and its responses A^l = dh^l/dghat^l and B^l = dg^l/dhhat^l, the
attention S(t), the gradient J(t) of its logits, beta = branch_scale / depth^depth_exponent and the
ratio kappa = depth^(2 depth_exponent - 1) of the learning rates within blocks to the others:

    K^l = kept A^l + kappa learned H^l     X = K^l J^T      W = K^l J       X' = beta K^l S^T
    N^l = beta ( kept B^{l+1} + kappa learned G^{l+1} )     Y' = N^l S
    k, q, v have the covariance kept H^l in their sources, r has kept G^{l+1}

A block adds to the stream, upward and downward, the kernels and responses of its output o = S v and
of the gradients p^q = J k, p^k = J^T q, p^v = beta S^T xi of its inputs:

    C^{l+1} = beta ( kept do/dr + beta kappa learned <o o> )
    D^l     = kept ( dp^k/du^k + dp^q/du^q + dp^v/du^v ) + kappa learned P^l
    P^l     = <p^k p^k> + <p^q p^q> + <p^v p^v>
    Z^{l+1} = C^{l+1} + V^{l+1},   V^{l+1} = (1 - Z^l D^l)^{-1} Z^l
    Y^l     = D^l + U^l,           U^l = (1 - Y^{l+1} C^{l+1})^{-1} Y^{l+1}
    Hhat^{l+1} = beta^2 kept <o o> + ( Hhat^l reflected at D^l with covariance kept P^l )
    Ghat^l = kept P^l + ( Ghat^{l+1} reflected at C^{l+1} with covariance beta^2 kept <o o> )

from Z^0 = learned C, Hhat^0 = kept C (inputs) to Y^L = learned 1 / S^2, Ghat^L = kept 1 / S^2
(readout of the mean over S positions). Logits and outputs are correlations of the two sides at
equal times. Sources are never expanded layer by layer, so that a step costs a fixed number of
passes over the triangles of each layer: O(depth (steps tokens)^3) in all.

With K outputs g is the gradient of the signal, the sum of all outputs with the errors Delta_bk as
weights: then learned has no errors, and 1 / S^2 becomes sum_k Delta_ak(t) Delta_bk(s) / S^2.

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
from dmftcore.chain.couplings import Couplings
from dmftcore.chain.meeting import Link, Meeting
from dmftcore.chain.packing import packed, unpack

__all__ = ["TransformerChain"]


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
        """Histories of C^{l+1} and beta^2 kept <o o>."""
        return self.downward.z, self.downward.m

    @property
    def added_downward(self) -> tuple[FloatArray, FloatArray]:
        """Histories of D^l and kept P^l."""
        return self.upward.z, self.upward.m


class TransformerChain:
    """Histories of the kernels of all layers, marched one step at a time.

    A step consists of `forward` and, with the errors of its outputs, of `backward`. Rows and
    columns are numbered (t, token); n_t = (t + 1) M of them are known at step t.

    Parameters
    ----------
    couplings : Couplings
        Of steps of M rows, for ``points = P / gamma``.
    gram : (M, M) array
        Inputs ``X X^T / D`` of all tokens, those of a sequence in a row.
    steps : int
        Steps t = 0..steps will be marched.
    sequences : int
        Number of sequences; those that train come first.
    outputs : int
        Number K of outputs.
    depth : int
        Number of blocks.
    branch : float
        Factor beta of a block.
    block_rate : float
        Ratio kappa of the learning rates within blocks to the others.
    gamma : float
    attention_map : AttentionMap
    responses : {"all", "none", "head", "stream"}
        Which responses act back: an approximation, except for "all".
    xp : module
        Array library of the histories.

    Attributes
    ----------
    step : int
        The last step begun.
    rows : dict of (M, n_t) arrays
        Rows of the present step by name and layer: of the kernels "H", "G" (layers 0..depth), "O",
        "P_k", "P_q", "P_v" and the responses "Rh", "Ro", "Rg", "Rp_k", "Rp_q", "Rp_v" (layers
        0..depth - 1).
    logits : list of (sequences, S, S) arrays
        Of the present step, by layer.
    attention : (steps + 1, depth, sequences, S, S) array
    histories : dict of arrays
        Lower triangles over (t, token), by name and layer.
    """

    def __init__(
        self,
        couplings: Couplings,
        gram: FloatArray,
        *,
        steps: int,
        sequences: int,
        outputs: int = 1,
        depth: int,
        branch: float,
        block_rate: float,
        gamma: float,
        attention_map: AttentionMap,
        responses: str = "all",
        xp: Any = np,
    ) -> None:
        self.step = -1
        self.depth, self.gamma, self.branch, self.block_rate = depth, gamma, branch, block_rate
        self.head = 1.0 if responses in ("all", "head") else 0.0
        self.stream = 1.0 if responses in ("all", "stream") else 0.0
        self.couplings, self.attention_map = couplings, attention_map
        self.gram = xp.asarray(gram)
        self.sequences, self.tokens = sequences, len(gram)
        self.positions = self.tokens // sequences
        self._xp, self._steps = xp, steps
        self._size = (steps + 1) * self.tokens
        self._by_signal = outputs > 1
        #: What each output counts for in the gradients of a token; with several their errors.
        self.readout = (xp.zeros if self._by_signal else xp.ones)((self._size, outputs))
        #: Factors Delta of the columns of learned kernels, zero where not known yet.
        self.errors = (xp.ones if self._by_signal else xp.zeros)(self._size)
        blocks = (steps + 1, depth, sequences, self.positions, self.positions)
        self.attention, self.gradients = xp.zeros(blocks), xp.zeros(blocks)
        self.logits: list[FloatArray] = []
        self.rows: dict[tuple[str, int], FloatArray] = {}
        #: <k k>, dk/du^q, <q q> and dq/du^k of the present step, by layer.
        self._keys_of_step: list[tuple[FloatArray, ...]] = []
        self.histories: dict[tuple[str, int], FloatArray] = {}
        self._h = [self._new("H", layer) for layer in range(depth + 1)]
        self._layers = [
            Meeting(*(self._new(name, layer) for name in ("Hhat", "Ghat", "Z", "B", "G")))
            for layer in range(depth + 1)
        ]
        self._blocks = [self._block(layer) for layer in range(depth)]

    @staticmethod
    def count(depth: int, steps: int, tokens: int, *, decays: bool = False) -> int:
        """Numbers that the histories of such a chain hold."""
        return (6 * (depth + 1) + (14 if decays else 12) * depth) * ((steps + 1) * tokens) ** 2

    def forward(self) -> FloatArray:
        """Go to the next step and append its rows upward; outputs (sequences, K)."""
        self.step += 1
        self.rows, self.logits, self._keys_of_step = {}, [], []
        now, n = self._now, self._known
        gram = self._xp.tile(self.gram, (1, self.step + 1))
        z, hhat = self._learned(gram), self._kept(gram)
        for layer, meeting in enumerate(self._layers):
            meeting.hhat[now, :n] = hhat
            h, a = meeting.lower(now, z, hhat)
            self._h[layer][now, :n] = h
            self.rows["H", layer] = h
            if layer < self.depth:
                self.rows["Rh", layer] = a
                c, o = self._attend(layer, h, a)
                v, carried = self._blocks[layer].upward.rows(now, z, hhat)
                self._append(self._blocks[layer].added_upward, (c, o))
                z, hhat = c + v, o + carried
        weights = self._xp.ascontiguousarray(self.readout[:n].T) / self.positions
        features = self._layers[-1].read(now, self._learned(weights), self._kept(weights))
        by_sequence = features.reshape(-1, self.sequences, self.positions).mean(axis=2)
        outputs: FloatArray = by_sequence.T / self.gamma
        return outputs

    def backward(self, errors: FloatArray) -> None:
        """Append the rows downward at the present step, given errors (training sequences, K)."""
        now, n = self._now, self._known
        by_token = self._xp.zeros((self.tokens, errors.shape[1]))
        by_token[: len(errors) * self.positions] = self._xp.repeat(errors, self.positions, axis=0)
        if self._by_signal:
            self.readout[now] = by_token
        top = self.readout[now] @ self.readout[:n].T / self.positions**2
        y, ghat = self._learned(top), self._kept(top)
        for layer in range(self.depth, -1, -1):
            if layer < self.depth:
                above = ghat
                d, p = self._attend_back(layer)
                u, carried = self._blocks[layer].downward.rows(now, y, above)
                self._append(self._blocks[layer].added_downward, (d, p))
                y, ghat = d + u, p + carried
            meeting = self._layers[layer]
            meeting.ghat[now, :n] = ghat
            self.rows["G", layer], b = meeting.upper(now, y, ghat)
            if layer > 0:
                self.rows["Rg", layer - 1] = self.branch * b
        if not self._by_signal:
            self.errors[now] = by_token[:, 0]

    def _attend(self, layer: int, h: FloatArray, a: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Rows of C^{l+1} and beta^2 kept <o o>, given those of H^l and A^l."""
        block, now, t = self._blocks[layer], self._now, self.step
        memory = self.stream * self._kept(a) + self.block_rate * self._learned(h)
        sources = self._kept(h)
        if block.keys.hhat is not self._h[layer]:
            block.keys.hhat[now, : self._known] = sources
        j = self.gradients[:t, layer]
        kk, rk = block.keys.lower(now, self._times(memory, j.swapaxes(-1, -2)), sources)
        qq, rq = block.keys.upper(now, self._times(memory, j), sources)
        self._keys_of_step.append((kk, rk, qq, rq))
        logits = self._within_sequences(block.keys.across(now, self._known))
        s = self.attention_map.value(logits)
        self.logits.append(logits)
        self.attention[t, layer] = s
        until = self.attention[: t + 1, layer].swapaxes(-1, -2)
        through = self.branch * self._times(memory, until[:t])
        vv, rv = block.values.lower(now, through, sources)
        oo, ro = self._map(s, self._times(vv, until)), self._map(s, rv)
        self.rows["O", layer], self.rows["Ro", layer] = oo, ro
        learned = self.branch * self.block_rate * self._learned(oo)
        added = self.branch * (self.head * self._kept(ro) + learned)
        return added, self.branch**2 * self._kept(oo)

    def _attend_back(self, layer: int) -> tuple[FloatArray, FloatArray]:
        """Rows of D^l and kept P^l, given those of the gradients above the block."""
        block, now, n, t = self._blocks[layer], self._now, self._known, self.step
        g, answer = self.rows["G", layer + 1], self.rows["Rg", layer]
        memory = self.stream * self._kept(answer) + (
            self.branch * self.block_rate * self._learned(g)
        )
        sources = self._kept(g)
        if block.values.ghat is not self._layers[layer + 1].g:
            block.values.ghat[now, :n] = sources
        s, j = self.attention[: t + 1, layer], self.gradients[: t + 1, layer]
        xx, rx = block.values.upper(now, self._times(memory, s[:t]), sources)
        weights = self.branch * self._within_sequences(block.values.across(now, n))
        j[t] = self.attention_map.gradient(s[t], weights)
        kk, rk, qq, rq = self._keys_of_step[layer]
        back = {
            "k": (j[t].swapaxes(-1, -2), self._times(qq, j), rq),
            "q": (j[t], self._times(kk, j.swapaxes(-1, -2)), rk),
            "v": (
                self.branch * s[t].swapaxes(-1, -2),
                self.branch * self._times(xx, s),
                rx,
            ),
        }
        d, p = self._xp.zeros_like(memory), self._xp.zeros_like(memory)
        for name, (left, noise, response) in back.items():
            pp, rp = self._map(left, noise), self._map(left, response)
            self.rows[f"P_{name}", layer], self.rows[f"Rp_{name}", layer] = pp, rp
            d += self.head * rp
            p += pp
        return self._kept(d) + self.block_rate * self._learned(p), self._kept(p)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything `restore` needs to go on bit for bit, between two steps."""
        n, t = self._known, self.step + 1
        state: dict[str, npt.NDArray[Any]] = {
            "step": np.array(self.step),
            "readout": _arrays.to_host(self.readout[:n]),
            "errors": _arrays.to_host(self.errors[:n]),
            "attention": _arrays.to_host(self.attention[:t]),
            "gradients": _arrays.to_host(self.gradients[:t]),
        }
        for (name, layer), history in self.histories.items():
            state[f"{name}{layer}"] = packed(history, t, self.tokens)
        return state

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state, on a march of the same problem that may be longer."""
        self.step = int(state["step"])
        n, t, xp = self._known, self.step + 1, self._xp
        self.readout[:n], self.errors[:n] = (
            xp.asarray(state["readout"]),
            xp.asarray(state["errors"]),
        )
        self.attention[:t] = xp.asarray(state["attention"])
        self.gradients[:t] = xp.asarray(state["gradients"])
        for (name, layer), history in self.histories.items():
            unpack(history, state[f"{name}{layer}"], t, self.tokens)

    @property
    def _known(self) -> int:
        return (self.step + 1) * self.tokens

    @property
    def _now(self) -> slice:
        return slice(self.step * self.tokens, self._known)

    def _new(self, name: str, layer: int) -> FloatArray:
        history: FloatArray = self._xp.zeros((self._size, self._size))
        self.histories[name, layer] = history
        return history

    def _block(self, layer: int) -> _Block:
        h, below, above = self._h[layer], self._layers[layer], self._layers[layer + 1]
        c, o, d, p = (self._new(name, layer) for name in ("C", "O", "D", "P"))
        g = above.g
        if not self.couplings.is_constant:
            h, g = self._new("kept H", layer), self._new("kept G", layer)
        keys, values = (
            Meeting(h, ghat, *(self._new(f"{kind} {name}", layer) for name in ("Z", "B", "G")))
            for kind, ghat in (("keys", h), ("values", g))
        )
        upward = Link(below.hhat, d, p, self._new("V", layer))
        return _Block(keys, values, upward, Link(above.ghat, c, o, self._new("U", layer)))

    def _append(
        self, histories: tuple[FloatArray, FloatArray], rows: tuple[FloatArray, FloatArray]
    ) -> None:
        for history, row in zip(histories, rows, strict=True):
            history[self._now, : self._known] = row

    def _kept(self, rows: FloatArray) -> FloatArray:
        return self.couplings.kept(rows, self.step)

    def _learned(self, rows: FloatArray) -> FloatArray:
        return self.couplings.learned(rows * self.errors[: self._known], self.step)

    def _within_sequences(self, matrix: FloatArray) -> FloatArray:
        """The blocks (sequences, S, S) of a matrix (M, M) that belong to a single sequence."""
        p, s = self.sequences, self.positions
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
        p, s = self.sequences, self.positions
        mapped: FloatArray = (blocks @ rows.reshape(p, s, -1)).reshape(rows.shape)
        return mapped
