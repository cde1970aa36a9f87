"""A residual transformer with trainable queries, keys, values and outputs.

Source: Bordelon, Chaudhry & Pehlevan, "Infinite limits of multi-head transformer dynamics" (2024),
in discrete time. With infinitely many dimensions of a head all heads are the same, attention does
not fluctuate, and the kernels of all layers close (`dmftcore.chain.transformer`). Infinitely many
heads of finitely many dimensions are sampled (`dmftcore.sampled.transformer`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dmftcore import _arrays
from dmftcore._validate import INFINITE, FloatArray, integer, non_negative, one_of, positive
from dmftcore.attention_maps import ATTENTION_MAPS, AttentionMap
from dmftcore.chain.couplings import Couplings
from dmftcore.chain.transformer import TransformerChain
from dmftcore.chain.transformer_equations import residual
from dmftcore.data import Dataset
from dmftcore.losses import loss_function
from dmftcore.march import largest_loss
from dmftcore.observables import sharpness
from dmftcore.solution import IntArray, Layers
from dmftcore.training import GradientDescent

__all__ = [
    "FIELDS",
    "HEADS",
    "KERNELS",
    "RESPONSES",
    "Transformer",
    "TransformerMarch",
    "transformer_ntk",
]

KERNELS = ("H", "G", "O", "P_k", "P_q", "P_v")
RESPONSES = ("Ro", "Rh", "Rg", "Rp_k", "Rp_q", "Rp_v")
#: Patterns and scores of every head.
HEADS = ("S_heads", "A_heads")
#: What `save` of `dmftcore.solve` may name.
FIELDS = (*KERNELS, *RESPONSES, *HEADS)


@dataclass(frozen=True)
class Transformer:
    """L residual blocks of H heads with N dimensions each, W = N H, in the mean-field scaling.

    For the tokens ``x_s`` of a sequence, weights with entries N(0, 1) and
    ``beta = branch_scale / L^depth_exponent``, ::

        h^0_s = W_in x_s / sqrt(D)
        k_s, q_s, v_s = (W_K, W_Q, W_V) h^l_s / sqrt(W)         of which every head has N components
        A_ss' = q_s . k_s' / N^alpha      S = sigma(A)          by head
        h^{l+1}_s = h^l_s + beta W_O o_s / sqrt(W)              o_s = sum_s' S_ss' v_s'
        f = w . (1/S) sum_s h^L_s / (gamma W)

    ``w`` and ``W_in`` have the learning rate ``lr gamma^2 W``, ``W_V`` and ``W_O`` that times
    ``L^(2 depth_exponent - 1)``, ``W_K`` and ``W_Q`` this times ``N^(2 (alpha - 1))``.

    Parameters
    ----------
    depth : int or INFINITE
        Number L of blocks. INFINITE, for ``depth_exponent = 1``, extrapolates from finite ones.
    key_dim, heads : int or INFINITE
        N and H. For infinitely many dimensions the number of heads does not matter.
    gamma : float
        Feature-learning strength gamma_0 > 0.
    branch_scale : float
        beta_0 >= 0.
    attention_exponent : float
        alpha, from 1/2 to 1; below 1 for finite `key_dim` only.
    depth_exponent : float
        From 1/2 to 1.
    attention : {"softmax", "linear", "exp", "relu"}
        sigma over the second index: ``exp(A) / sum exp(A)``, ``(1 + A) / S``, ``exp(A) / S`` or
        ``max(A, 0) / S``, with the length S of the sequence.
    mask : {"causal"}, optional
        Whether a position attends only to those up to its own.
    mlp_activation : {"linear", "relu", "tanh"}, optional
        phi of a block ``h + beta W_2 phi(W_1 h / sqrt(W)) / sqrt(W)`` with W neurons after each
        attention block, whose weights learn like W_V; L counts both as one.
    responses : {"all", "none", "head", "stream"}
        Which responses the theory keeps: those of the heads (Ro, Rp), of the stream (Rh, Rg), or
        both. Anything but "all" is an approximation, to see what they do.

    Raises
    ------
    TypeError, ValueError
        For values out of range, and for what has no limit.
    """

    depth: Any
    key_dim: Any = INFINITE
    heads: Any = INFINITE
    gamma: float = 1.0
    branch_scale: float = 1.0
    attention_exponent: float = 1.0
    depth_exponent: float = 1.0
    attention: str = "softmax"
    mask: str | None = None
    mlp_activation: str | None = None
    responses: str = "all"

    def __post_init__(self) -> None:
        for name in ("depth", "key_dim", "heads"):
            if getattr(self, name) != INFINITE:
                object.__setattr__(self, name, integer(name, getattr(self, name), at_least=1))
        object.__setattr__(self, "gamma", positive("gamma", self.gamma))
        object.__setattr__(self, "branch_scale", non_negative("branch_scale", self.branch_scale))
        for name in ("attention_exponent", "depth_exponent"):
            exponent = positive(name, getattr(self, name))
            if not 0.5 <= exponent <= 1:
                raise ValueError(f"{name} must lie in [1/2, 1], not {exponent!r}")
            object.__setattr__(self, name, exponent)
        one_of("attention", self.attention, ATTENTION_MAPS)
        one_of("responses", self.responses, ("all", "none", "head", "stream"))
        if self.mask is not None:
            one_of("mask", self.mask, ("causal",))
        if self.mlp_activation is not None:
            one_of("mlp_activation", self.mlp_activation, ("linear", "relu", "tanh"))
        if self.key_dim == INFINITE and self.attention_exponent < 1:
            raise ValueError(
                "attention_exponent must be 1 for key_dim=INFINITE: below it the gradients that "
                "queries and keys send down the stream grow like key_dim^(1 - attention_exponent) "
                "once values have learned, and there is no limit; pass a finite key_dim, or "
                "attention_exponent=1"
            )
        if self.depth == INFINITE and self.depth_exponent < 1:
            raise ValueError(
                "depth_exponent must be 1 for depth=INFINITE: the differences between finite "
                "depths, from which it is extrapolated, fall like 1/L there alone (at 1/2 they do "
                "not fall before L = 32); pass a finite depth, or depth_exponent=1"
            )

    @property
    def attention_map(self) -> AttentionMap:
        """sigma."""
        return AttentionMap(self.attention, causal=self.mask == "causal")

    @property
    def branch_factor(self) -> float:
        """beta."""
        return float(self.branch_scale / self.depth**self.depth_exponent)

    @property
    def block_rate(self) -> float:
        """Ratio of the learning rates within blocks to those of ``w`` and ``W_in``."""
        return float(self.depth ** (2 * self.depth_exponent - 1))


def transformer_ntk(
    limit: Transformer,
    data: Dataset,
    kernels: Mapping[str, Mapping[int, FloatArray]],
    score_rate: float = 1.0,
) -> FloatArray:
    """Tangent kernels (n, P, P) of one output, from equal-time kernels (n, M, M).

    ``K = (1/S^2) sum H^L + sum C G^0 + kappa sum_l [ beta^2 sum O^l G^{l+1} + sum P^l H^l ]``,
    products element by element, sums over the tokens of both sequences. It is no approximation: the
    gradient by a weight matrix is a sum of outer products of what meets at it.

    Parameters
    ----------
    limit : Transformer
        Without MLP blocks.
    data : Dataset
    kernels : mapping
        By name and layer.
    score_rate : float
        ``N^(2 (alpha - 1))``, the ratio of the learning rates of W_K and W_Q to that of W_V.
    """
    depth, positions = int(limit.depth), data.sequence_length
    h, g = kernels["H"], kernels["G"]
    total = h[depth] / positions**2 + data.kernel * g[0]
    for layer in range(depth):
        p_k, p_q, p_v = (kernels[name][layer] for name in ("P_k", "P_q", "P_v"))
        block = limit.branch_factor**2 * kernels["O"][layer] * g[layer + 1]
        block = block + (score_rate * (p_k + p_q) + p_v) * h[layer]
        total = total + limit.block_rate * block
    sequences = len(data.kernel) // positions
    by_sequence = total.reshape(-1, sequences, positions, sequences, positions).sum(axis=(2, 4))
    ntk: FloatArray = by_sequence[:, : data.n_train, : data.n_train]
    return ntk


class TransformerMarch:
    """The chain of a transformer, driven by its errors; a `dmftcore.march.March`.

    Parameters
    ----------
    limit : Transformer
        Of finite depth.
    data : Dataset
        On the host.
    training : GradientDescent
    save : sequence of str
        Names out of `FIELDS` that are wanted between different times.
    xp : module
        Array library of the march.
    """

    def __init__(
        self,
        limit: Transformer,
        data: Dataset,
        training: GradientDescent,
        *,
        save: tuple[str, ...] = (),
        xp: Any = np,
    ) -> None:
        self._limit, self._data = limit, data
        tokens = len(data.kernel)
        couplings = Couplings(
            training, points=data.n_train / limit.gamma, init_scale=1.0, outputs=tokens, xp=xp
        )
        self.chain = TransformerChain(
            couplings,
            data.kernel,
            steps=training.steps,
            sequences=tokens // data.sequence_length,
            outputs=data.n_outputs,
            depth=int(limit.depth),
            branch=limit.branch_factor,
            block_rate=limit.block_rate,
            gamma=limit.gamma,
            attention_map=limit.attention_map,
            responses=limit.responses,
            xp=xp,
        )
        self._targets = data.targets.reshape(data.n_train, -1)
        self._save, self._xp = save, xp
        self._loss = loss_function("square")
        at_zero = float(self._loss.mean(np.zeros_like(self._targets), self._targets))
        self._largest_loss = largest_loss(at_zero)
        self._diverged = False
        self._outputs = np.empty(0)
        self._stored: list[int] = []
        #: What is stored: rows of two-time fields on the columns of the stored steps so far, and
        #: of the other kernels those of their own step; logits and attention (depth, ., S, S).
        self._rows: dict[str, list[FloatArray]] = {}

    @property
    def step(self) -> int:
        return self.chain.step + self._diverged

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the outputs of a step, (P + Q, K)."""
        return self.chain.sequences, self._targets.shape[1]

    def advance(self, stops: IntArray) -> FloatArray:
        """Outputs (len(stops), P + Q, K); fewer if the loss diverges."""
        rows: list[FloatArray] = []
        with np.errstate(over="ignore", invalid="ignore"):
            for stop in stops.tolist():
                while self.step < stop:
                    self._outputs = _arrays.to_host(self.chain.forward())
                    trained = self._outputs[: len(self._targets)]
                    if not self._loss.mean(trained, self._targets) <= self._largest_loss:
                        # The kernels end before the step that could not be done.
                        self.chain.step -= 1
                        self._diverged = True
                        return self._as_outputs(rows)
                    self.chain.backward(self._xp.asarray(self._targets - trained))
                rows.append(self._outputs)
        return self._as_outputs(rows)

    def store_kernels(self) -> None:
        """Keep the kernels of the step, and what was asked for between it and earlier ones."""
        chain, tokens = self.chain, self.chain.tokens
        self._stored.append(chain.step)
        columns = self._xp.asarray(
            np.concatenate([np.arange(t * tokens, (t + 1) * tokens) for t in self._stored])
        )
        for (name, layer), rows in chain.rows.items():
            if name in self._save:
                self._keep(f"{name} {layer}", rows[:, columns])
            elif name in KERNELS:
                self._keep(f"{name} {layer}", rows[:, -tokens:])
        self._keep("A", self._xp.stack(chain.logits))
        self._keep("S", chain.attention[chain.step])

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything `restore` needs to go on bit for bit."""
        return {
            **{f"chain {name}": array for name, array in self.chain.state().items()},
            "outputs": self._outputs,
            "stored": np.array(self._stored, dtype=np.int64),
            **{
                f"rows {name}": np.concatenate([row.ravel() for row in rows])
                for name, rows in self._rows.items()
            },
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state, on a march of the same problem that may be longer."""

        def part(prefix: str) -> dict[str, npt.NDArray[Any]]:
            names = (name for name in state if name.startswith(prefix))
            return {name.removeprefix(prefix): state[name] for name in names}

        self.chain.restore(part("chain "))
        self._outputs = state["outputs"]
        self._stored = state["stored"].tolist()
        tokens, chain = self.chain.tokens, self.chain
        for name, saved in part("rows ").items():
            if name in ("A", "S"):
                blocks = saved.reshape(len(self._stored), *chain.attention.shape[1:])
                self._rows[name] = list(blocks)
            elif name.partition(" ")[0] in self._save:
                widths = tokens**2 * np.arange(1, len(self._stored))
                rows = np.split(saved, np.cumsum(widths))
                self._rows[name] = [row.reshape(tokens, -1) for row in rows]
            else:
                self._rows[name] = list(saved.reshape(-1, tokens, tokens))

    def fields(self, save: tuple[str, ...]) -> dict[str, Any]:
        """What is stored, as fields of a `Solution`."""
        tokens = self.chain.tokens
        equal = self._by_layer(KERNELS, lambda rows: np.stack([row[:, -tokens:] for row in rows]))
        fields: dict[str, Any] = {
            "equal_time": equal,
            "two_time": self._by_layer(
                tuple(name for name in KERNELS if name in save),
                lambda rows: self._square(rows, symmetric=True),
            ),
            "responses": self._by_layer(
                tuple(name for name in RESPONSES if name in save), self._square
            ),
            "order_parameters": self._order_parameters(save),
        }
        # Of several outputs only the gradients of their signal are known.
        if self._data.n_outputs == 1 and equal:
            ntk = transformer_ntk(self._limit, self._data, equal)
            patterns = self._data.targets.shape
            fields["ntk"] = ntk.reshape(len(ntk), *patterns, *patterns)
            fields["sharpness"] = np.array([sharpness(kernel[:, None, :, None]) for kernel in ntk])
        return fields

    def diagnostics(self) -> dict[str, Any]:
        """Relative violation of the equations; see `dmftcore.chain.transformer_equations`."""
        return {"residual": residual(self.chain)}

    def _order_parameters(self, save: tuple[str, ...]) -> dict[str, FloatArray]:
        """Attention S and logits A of the heads, which are all the same."""
        found: dict[str, FloatArray] = {}
        for name in ("S", "A"):
            if self._rows:
                of_head = np.stack(self._rows[name])
                found |= {f"{name}_mean": of_head, f"{name}_var": np.zeros_like(of_head)}
                if f"{name}_heads" in save:
                    found[f"{name}_heads"] = of_head[:, :, None, None]
        return found

    def _keep(self, name: str, rows: FloatArray) -> None:
        self._rows.setdefault(name, []).append(_arrays.to_host(rows).copy())

    def _by_layer(self, names: tuple[str, ...], made: Any) -> dict[str, Layers]:
        found: dict[str, Layers] = {}
        for key, rows in self._rows.items():
            name, _, layer = key.partition(" ")
            if name in names:
                found.setdefault(name, {})[int(layer)] = made(rows)
        return {name: dict(sorted(found[name].items())) for name in names if name in found}

    def _square(self, rows: list[FloatArray], symmetric: bool = False) -> FloatArray:
        """(n, M, n, M) from rows that end with the columns of their own step."""
        n, tokens = len(rows), self.chain.tokens
        kernel = np.zeros((n, tokens, n, tokens))
        for t, row in enumerate(rows):
            by_step = row.reshape(tokens, t + 1, tokens)
            kernel[t, :, : t + 1] = by_step
            if symmetric:
                kernel[: t + 1, :, t] = by_step.transpose(1, 2, 0)
        return kernel

    def _as_outputs(self, rows: list[FloatArray]) -> FloatArray:
        return np.array(rows).reshape(-1, *self.shape)
