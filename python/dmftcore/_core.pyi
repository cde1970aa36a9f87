# Types of the compiled core. Its callers are the modules of this package, which document it.

from collections.abc import Callable
from typing import Any, TypeVar

from numpy import complex128, float32, float64, int64, uint32
from numpy.typing import NDArray

_Float = TypeVar("_Float", float64, float32)

# bind_runtime.cpp

def cuda_status() -> tuple[int, str]: ...
def cuda_compiler() -> str | None: ...
def isa() -> str: ...
def set_isa(name: str) -> None: ...

# bind_threads.cpp

def get_num_threads() -> int: ...
def set_num_threads(count: int) -> None: ...

# bind_twotime.cpp

def causal_matmul(
    a: NDArray[_Float], b: NDArray[_Float], transposed: int, block: int
) -> NDArray[_Float]: ...
def causal_solve(
    a: NDArray[_Float], b: NDArray[_Float], dense: bool, block: int
) -> NDArray[_Float]: ...
def resolvent(a: NDArray[_Float], block: int) -> NDArray[_Float]: ...
def congruence(r: NDArray[_Float], c: NDArray[_Float], block: int) -> NDArray[_Float]: ...
def causal_apply(
    k: NDArray[_Float], g: NDArray[_Float], strict: bool, transposed: bool, block: int
) -> NDArray[_Float]: ...
def rows_causal(x: NDArray[_Float], a: NDArray[_Float]) -> NDArray[_Float]: ...
def rows_causal_transposed(x: NDArray[_Float], a: NDArray[_Float]) -> NDArray[_Float]: ...
def rows_causal_pair(
    x: NDArray[_Float], w: NDArray[_Float], a: NDArray[_Float]
) -> tuple[NDArray[_Float], NDArray[_Float]]: ...
def rows_symmetric(x: NDArray[_Float], c: NDArray[_Float]) -> NDArray[_Float]: ...
def rows_congruence(
    x: NDArray[_Float], c: NDArray[_Float], r: NDArray[_Float]
) -> tuple[NDArray[_Float], NDArray[_Float]]: ...
def rows_low_rank(
    x: NDArray[_Float], u: NDArray[_Float], v: NDArray[_Float]
) -> NDArray[_Float]: ...
def rows_causal_batch(
    x: NDArray[_Float], a: NDArray[_Float], transposed: bool
) -> NDArray[_Float]: ...

# bind_row_program.cpp

class RowProgram:
    def __init__(self, times: int, per_step: int) -> None: ...
    def add(
        self,
        name: str,
        results: list[tuple[int, int, int]],
        rows: list[tuple[int, int, int]],
        arrays: list[NDArray[float64]],
        factors: list[float],
    ) -> None: ...
    def run(self, room: NDArray[float64], begin: int, end: int) -> None: ...

# bind_device.cpp, where CUDA was built: a namespace for each type, float64, float32 and complex128,
# with the operations above as name(device, stream, *arguments of ops.hpp), pointers as integers.

cuda: Any

# bind_growing.cpp

class GrowingNetwork:
    def __init__(
        self,
        *,
        scales: NDArray[float64],
        targets: NDArray[float64],
        depth: int,
        branch: float | None,
        rates: NDArray[float64],
        momentum: float,
        decay: float,
        gamma: float,
        sigma: float,
        tol: float,
        floor: float,
        max_neurons: int,
        follow_ntk: bool,
        loss_limit: float,
    ) -> None: ...
    @property
    def step(self) -> int: ...
    @property
    def status(self) -> str: ...
    @property
    def multiply_adds(self) -> float: ...
    @property
    def neurons(self) -> list[int]: ...
    def advance(self, stops: NDArray[int64]) -> NDArray[float64]: ...
    @property
    def initial_weight(self) -> float: ...
    def propagate(self, link: int, x: NDArray[float64]) -> NDArray[float64]: ...
    def forward_basis(self, link: int) -> NDArray[float64]: ...
    def forward_neurons(self, link: int) -> list[int]: ...
    def gradients(self, layer: int) -> NDArray[float64]: ...
    def state(self) -> dict[str, NDArray[Any]]: ...
    def restore(self, state: dict[str, NDArray[Any]]) -> None: ...

def lazy_updates(
    *,
    sharpness: NDArray[float64],
    targets: NDArray[float64],
    exponents: NDArray[int64],
    coefficients: NDArray[float64],
    rates: NDArray[float64],
    momentum: float,
    decay: float,
    loss_limit: float,
    learned: NDArray[float64],
    velocity: NDArray[float64],
    initial: NDArray[float64],
) -> int: ...

# bind_jax.cpp: platform, operation, handler

def jax_targets() -> list[tuple[str, str, object]]: ...

# bind_spectral.cpp

def spectral_kappa(
    z: NDArray[complex128],
    lam: NDArray[float64],
    mu: NDArray[float64],
    samples: float,
    features: float,
) -> NDArray[complex128]: ...
def spectral_two_point(
    one1: NDArray[complex128],
    one2: NDArray[complex128],
    lam: NDArray[float64],
    weights: NDArray[float64],
    samples: float,
    features: float,
    noise_variance: float,
) -> tuple[NDArray[complex128], NDArray[complex128], NDArray[complex128] | None]: ...

# bind_particles.cpp, in the words of ops.hpp

def particle_products(
    *,
    x: NDArray[_Float],
    n: int,
    reference: NDArray[_Float] | None = None,
    a: NDArray[_Float] | None = None,
    used_a: NDArray[int64] | None = None,
    b: NDArray[_Float] | None = None,
    used_b: NDArray[int64] | None = None,
    c: NDArray[float64] | None = None,
    d: NDArray[float64] | None = None,
    gram: NDArray[float64] | None = None,
) -> None: ...
def particle_expansion(
    *,
    n: int,
    a: NDArray[_Float] | None = None,
    used_a: NDArray[int64] | None = None,
    c: NDArray[float64] | None = None,
    b: NDArray[_Float] | None = None,
    used_b: NDArray[int64] | None = None,
    d: NDArray[float64] | None = None,
    skip: float = 1.0,
    scale: float = 1.0,
    base: NDArray[_Float] | None = None,
    field: NDArray[_Float] | None = None,
    repeat: int = 1,
    activation: int = 0,
    u: NDArray[_Float] | None = None,
    y: NDArray[_Float] | None = None,
    value: NDArray[_Float] | None = None,
) -> None: ...
def interface_pass(
    *,
    x: NDArray[_Float],
    n: int,
    reference: NDArray[_Float] | None = None,
    visited: NDArray[_Float],
    used_visited: NDArray[int64],
    responding: NDArray[_Float],
    fresh: NDArray[_Float],
    used_fresh: NDArray[int64],
    opposite: NDArray[_Float],
    used_opposite: NDArray[int64],
    pool: NDArray[_Float],
    used_pool: NDArray[int64],
    room: int,
    match: bool,
    quasi: bool,
    matrix: NDArray[float64],
    transposed: bool,
    kept: float,
    tol: float,
    formed: bool,
    normals: Callable[[NDArray[_Float], int, int, int | None], None],
    along: NDArray[float64],
    response: NDArray[float64],
    gram: NDArray[float64],
    levels: NDArray[float64],
    skip: float = 1.0,
    scale: float = 1.0,
    base: NDArray[_Float] | None = None,
    field: NDArray[_Float] | None = None,
    repeat: int = 1,
    activation: int = 0,
    u: NDArray[_Float] | None = None,
    y: NDArray[_Float] | None = None,
    value: NDArray[_Float] | None = None,
) -> None: ...
def two_layer_march(
    *,
    a: NDArray[_Float],
    w: NDArray[_Float],
    a_velocity: NDArray[_Float] | None = None,
    w_velocity: NDArray[_Float] | None = None,
    x: NDArray[float64],
    targets: NDArray[float64],
    centre: NDArray[float64],
    rates: NDArray[float64],
    f: NDArray[float64],
    activation: int,
    loss: int,
    gamma: float,
    momentum: float = 0.0,
    decay: float = 0.0,
) -> None: ...
def normals(x: NDArray[_Float], *, seed: int, run: int, stream: int, column: int) -> None: ...
def quasi_normals(x: NDArray[_Float], *, numbers: NDArray[uint32], shift: int) -> None: ...

# bind_attention.cpp

def attention_run(
    *,
    attention: str,
    causal: bool,
    sequences: int,
    length: int,
    kernel: NDArray[float64] | None,
    tokens: NDArray[float64] | None,
    targets: NDArray[float64],
    gamma: float,
    scale: float,
    query: NDArray[float64] | None,
    key: NDArray[float64] | None,
    score: NDArray[float64] | None,
    value: NDArray[float64],
    readout: NDArray[float64],
    weight: NDArray[float64],
    centre: NDArray[float64],
    rates: NDArray[float64],
    loss_limit: float,
) -> tuple[NDArray[float64], bool]: ...
def attention_patterns(
    *,
    attention: str,
    causal: bool,
    sequences: int,
    length: int,
    kernel: NDArray[float64] | None,
    tokens: NDArray[float64] | None,
    targets: NDArray[float64],
    gamma: float,
    scale: float,
    query: NDArray[float64] | None,
    key: NDArray[float64] | None,
    score: NDArray[float64] | None,
    value: NDArray[float64],
    readout: NDArray[float64],
    weight: NDArray[float64],
    centre: NDArray[float64],
) -> tuple[NDArray[float64], NDArray[float64]]: ...
