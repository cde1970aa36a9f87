"""Kernels of random networks of an `Architecture`: before training, and as weight decay shrinks it.

Each of m points may meet a network of its own, all of whose initial weights are times c. Between
points met at c and at c', with the covariances of the hidden states,

    H^1 = c c' Kx,        H^{l+1} = s^2 H^l + b^2 c c' Phi^l,       Phi^l = F[phi](H^l),
    G^{B+1} = c c' F[psi'](H^{B+1}),   G^l = s^2 G^{l+1} + b^2 c c' F[phi'](H^l) o G^{l+1},

where F averages over pairs of Gaussian variables (`dmftcore.gaussian`) and o multiplies entries.
In blocks of two layers phi acts on an argument of covariance c c' H^l, and
``G^l = s^2 G^{l+1} + c c' I^l`` with the gradients ``I^l = b^2 c c' F[phi'] o G^{l+1}`` there. The
tangent kernel is the sum over weights of what they act on and the gradients that they meet,

    K = Psi + b^2 sum_l Phi^l o G^{l+1} + sum_l H^l o I^l + G^1 o Kx,       Psi = F[psi](H^{B+1}).

Outputs do not mix: G and K are those of each, and zero between two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dmftcore import gaussian
from dmftcore._validate import FloatArray
from dmftcore.limits.architecture import Architecture

__all__ = ["InitialKernels", "initial_kernels"]


@dataclass(frozen=True)
class InitialKernels:
    """Kernels between m points, (m, m) each.

    Attributes
    ----------
    hidden : list
        H^1, ..., H^{B+1}.
    features : list
        Phi^1, ..., Phi^B, Psi.
    gradients : list
        G^1, ..., G^{B+1}, of one output.
    tangent : (m, m) array
        K.
    """

    hidden: list[FloatArray]
    features: list[FloatArray]
    gradients: list[FloatArray]
    tangent: FloatArray


def initial_kernels(
    net: Architecture, gram: FloatArray, scales: FloatArray | float = 1.0
) -> InitialKernels:
    """The kernels of networks whose initial weights are times c.

    Parameters
    ----------
    net : Architecture
    gram : (m, m) array
        Kx.
    scales : (m,) array or float
        c of every point.
    """
    c = np.broadcast_to(scales, len(gram))
    p, b2 = np.multiply.outer(c, c), net.branch**2
    states, arguments, features = [p * gram], [], []
    for _ in range(net.blocks):
        h = states[-1]
        arguments.append(h if net.block_layers == 1 else p * h)
        features.append(gaussian.features(net.activation, arguments[-1]))
        through = b2 * p * features[-1]
        states.append(h + through if net.skip else through)
    readout = gaussian.features(net.readout_activation, states[-1])
    gradients = [p * gaussian.slopes(net.readout_activation, states[-1])]
    tangent = readout.copy()
    for h, argument, phi in reversed(list(zip(states[:-1], arguments, features, strict=True))):
        g = gradients[0]
        tangent += b2 * phi * g
        inside = b2 * p * gaussian.slopes(net.activation, argument) * g
        if net.block_layers == 2:
            tangent += h * inside
            inside = p * inside
        gradients.insert(0, g + inside if net.skip else inside)
    tangent += gram * gradients[0]
    return InitialKernels(states, [*features, readout], gradients, tangent)
