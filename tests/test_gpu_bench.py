"""The benchmarks of a GPU, on stand-ins for cupy and on the emulator."""

from __future__ import annotations

import importlib
import itertools
import json
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import scipy.special

ROOT = Path(__file__).parents[1]


class Event:
    def record(self):
        self.time = time.perf_counter()

    def synchronize(self):
        pass


@pytest.fixture
def cupy_stand_in(monkeypatch, tmp_path):
    """numpy under the name of cupy, on a device that does not exist."""
    from bench import _facts, _gpu

    monkeypatch.setenv("DMFTCORE_BENCH_RESULTS", str(tmp_path))
    cupy = types.ModuleType("cupy")
    vars(cupy).update(vars(np))
    cupy.__name__ = "cupy"
    cupy.asnumpy = np.asarray
    pool = types.SimpleNamespace(
        free_all_blocks=lambda: None,
        free_bytes=lambda: 0,
        used_bytes=itertools.count(0, 1 << 20).__next__,
    )
    cupy.get_default_memory_pool = lambda: pool
    cupy.cuda = types.SimpleNamespace(
        Event=Event,
        get_elapsed_time=lambda start, stop: (stop.time - start.time) * 1e3,
        runtime=types.SimpleNamespace(
            deviceSynchronize=lambda: None,
            memGetInfo=lambda: (1 << 30, 1 << 31),
            runtimeGetVersion=lambda: 13000,
        ),
    )
    cupyx = types.ModuleType("cupyx")
    cupyx.scipy = types.SimpleNamespace(linalg=scipy.linalg, special=scipy.special)
    for name, module in {
        "cupy": cupy,
        "cupyx": cupyx,
        "cupyx.scipy": cupyx.scipy,
        "cupyx.scipy.linalg": scipy.linalg,
        "cupyx.scipy.special": scipy.special,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("dmftcore._core.cuda_status", lambda: (1, ""))
    facts = {"name": "Stand-in", "l2_bytes": 1 << 20, "memory_bytes": 1 << 31}
    monkeypatch.setattr(_facts, "devices", lambda: ([facts], ""))
    monkeypatch.setattr("bench._harness.plan", lambda once, seconds: (2, 1))
    monkeypatch.setattr(_gpu.Gpu, "COPY_BYTES", 1 << 16)
    monkeypatch.setattr(_gpu.Gpu, "MATMUL_SIZE", 64)
    monkeypatch.setattr(_gpu.Gpu, "_settled", lambda self, function: self.seconds(function, 1))
    return tmp_path / "stand-in"


class JaxStandIn:
    """numpy and scipy in the place of jax."""

    reason = ""
    numpy, linalg = np, scipy.linalg

    def competitor(self, function, *arrays):
        return lambda: function(*arrays)


def test_the_time_between_events_is_that_of_one_call(cupy_stand_in, monkeypatch):
    from bench._gpu import Gpu

    gpu, clock = Gpu(), [0.0]
    monkeypatch.setattr(Event, "record", lambda event: setattr(event, "time", clock[0]))

    def work():
        clock[0] += 0.25

    assert gpu.seconds(work, 8) == 0.25
    gpu.bandwidth, gpu.rates = 4.0, {"float64": 2.0, "float32": 8.0}
    assert gpu.floor(traffic=12, flops=4) == 3
    assert gpu.floor(traffic=4, flops=4) == 2
    assert gpu.floor(traffic=4, flops=4, dtype="float32") == 1


def test_operations_on_a_stand_in(cupy_stand_in, monkeypatch):
    from bench import gpu_operations
    from bench.gpu_operations import Shape

    shapes = [Shape(40), Shape(17, 3), Shape(33, dtype="float32")]
    monkeypatch.setattr(gpu_operations, "SHAPES", shapes)
    monkeypatch.setattr(gpu_operations, "WITH_JAX", set(shapes))
    monkeypatch.setattr(gpu_operations, "Jax", JaxStandIn)
    monkeypatch.setattr(gpu_operations, "FUNCTIONS", (1, 4))
    gpu_operations.main()
    record = json.loads((cupy_stand_in / "gpu_operations.json").read_text())
    titles = [case["title"] for case in record["cases"]]
    assert titles == [case[0] for case in gpu_operations.cases()]
    assert len(titles) == len(shapes) * 7
    assert "left_out" not in record
    for case in record["cases"]:
        assert next(iter(case["competitors"])) == "dmftcore"
        assert len(case["competitors"]) >= 2, case["title"]
        assert any(name.startswith("jax") for name in case["competitors"]), case["title"]
        eps = np.finfo("float32" if "float32" in case["title"] else "float64").eps
        for name, entry in case["competitors"].items():
            # Sums of up to 40 terms, three after another at most.
            assert entry["error"] < 3 * 40 * eps, (case["title"], name)
        assert case["fraction_of_floor"] > 0


def test_rows_on_a_stand_in(cupy_stand_in, monkeypatch):
    from bench import gpu_rows

    sizes = [(50, 1, "float64"), (50, 4, "float64"), (30, 1, "float32")]
    monkeypatch.setattr(gpu_rows, "SIZES", sizes)
    monkeypatch.setattr(gpu_rows, "BATCHES", [(5, 30), (3, 50)])
    monkeypatch.setattr(gpu_rows, "RANK", 3)
    gpu_rows.main()
    record = json.loads((cupy_stand_in / "gpu_rows.json").read_text())
    assert [case["title"] for case in record["cases"]] == [case.title for case in gpu_rows.cases()]
    assert len(record["cases"]) == 6 * len(sizes) + 4
    for case in record["cases"]:
        eps = np.finfo("float32" if "float32" in case["title"] else "float64").eps
        for name, entry in case["competitors"].items():
            assert entry["error"] < 3 * 50 * eps, (case["title"], name)
        assert case["in_cache"]


def test_chain_on_a_stand_in(cupy_stand_in, monkeypatch):
    from bench import gpu_chain

    monkeypatch.setattr(gpu_chain, "STEPS", (20, 40))
    monkeypatch.setattr(gpu_chain, "PROCESSOR", 20)
    gpu_chain.main()
    record = json.loads((cupy_stand_in / "gpu_chain.json").read_text())
    assert [len(case["competitors"]) for case in record["cases"]] == [2, 1]
    for case in record["cases"]:
        ours = case["competitors"]["dmftcore, GPU"]
        assert ours["error"] < 1e-10
        assert case["steps_per_s"] == pytest.approx(case["steps"] / ours["device_seconds"])


def test_a_chain_that_stays_on_the_host_is_not_timed(cupy_stand_in, monkeypatch):
    from bench import gpu_chain

    monkeypatch.setattr(gpu_chain, "STEPS", (20, 40))
    monkeypatch.setattr(sys.modules["cupy"].get_default_memory_pool(), "used_bytes", lambda: 7)
    with pytest.raises(SystemExit, match="does not run on the device: a march left 0 bytes there"):
        gpu_chain.main()
    record = json.loads((cupy_stand_in / "gpu_chain.json").read_text())
    assert record["cases"] == []
    assert list(record["left_out"]) == ["T=20 P=100", "T=40 P=100"]


def test_random_data_on_a_stand_in(cupy_stand_in, monkeypatch):
    from bench import gpu_proportional

    monkeypatch.setattr(gpu_proportional, "SIZES", [(20, 3), (30, 1)])
    monkeypatch.setattr(gpu_proportional, "PROCESSOR", 20**3 * 3)
    gpu_proportional.main()
    record = json.loads((cupy_stand_in / "gpu_proportional.json").read_text())
    assert [len(case["competitors"]) for case in record["cases"]] == [2, 1]
    for case in record["cases"]:
        ours = case["competitors"]["dmftcore, GPU"]
        assert ours["error"] < 1e-12
        assert case["steps_per_s"] == pytest.approx(case["steps"] / ours["device_seconds"])


def test_particles_on_a_stand_in(cupy_stand_in, monkeypatch):
    from bench import gpu_particles

    sizes = [(300, 6, 5, "float64"), (301, 20, 3, "float32")]
    monkeypatch.setattr(gpu_particles, "SIZES", sizes)
    monkeypatch.setattr(gpu_particles, "MARCHES", [(100, 3, 2), (120, 3, 2)])
    monkeypatch.setattr(gpu_particles, "PROCESSOR", 100)
    gpu_particles.main("--only", "=")
    record = json.loads((cupy_stand_in / "gpu_particles.json").read_text())
    titles = [case.title for case in gpu_particles.cases()]
    assert [case["title"] for case in record["cases"]] == [
        "march S=100 T=3 P=2",
        *titles,
        "march S=120 T=3 P=2",
    ]
    for case in record["cases"]:
        march = case["title"].startswith("march")
        assert len(case["competitors"]) == 2 - (case["title"] == "march S=120 T=3 P=2")
        for entry in case["competitors"].values():
            assert 0 < entry["error"] < (0.1 if march else 1.0)
        assert march or case["fraction_of_floor"] > 0
    steps = record["cases"][0]
    ours = steps["competitors"]["dmftcore, GPU"]
    assert steps["steps_per_s"] == pytest.approx(3 / ours["device_seconds"])


def test_lengths_of_blocks_are_compared(cupy_stand_in, monkeypatch):
    from bench import gpu_proportional
    from dmftcore import random_data

    used, blocks = [], random_data._blocks
    monkeypatch.setattr(
        random_data,
        "_blocks",
        lambda *given, **more: used.append(random_data.DEVICE_BLOCK) or blocks(*given, **more),
    )
    monkeypatch.setattr(gpu_proportional, "SIZES", [(20, 12), (30, 1)])
    monkeypatch.setattr(gpu_proportional, "SWEEP", [(20, 12)])
    monkeypatch.setattr(gpu_proportional, "LENGTHS", (8,))
    gpu_proportional.main()
    cases = json.loads((cupy_stand_in / "gpu_proportional.json").read_text())["cases"]
    assert [case["title"] for case in cases] == [
        "T=20 modes=12",
        "T=20 modes=12 blocks=8",
        "T=30 modes=1",
    ]
    assert [case["length"] for case in cases] == [512, 8, 512]
    assert all(case["competitors"]["dmftcore, GPU"]["error"] < 1e-12 for case in cases)
    # The default is what it was, afterwards.
    assert set(used) == {512, 8}
    assert random_data.DEVICE_BLOCK == 512


@pytest.fixture
def emulated_cupy(cupy_stand_in, monkeypatch):
    """Arrays as on a device, and the kernels on the emulator behind them."""
    import emulated
    import fake_cupy

    if emulated.COMPILER is None:
        pytest.skip("no C++ compiler")
    pytest.importorskip("pybind11", reason="the binding is compiled by the tests")
    import emulated_device
    from bench import _gpu
    from dmftcore import _core

    before, cupy = sys.modules["cupy"], fake_cupy.module(free_bytes=1 << 30)
    cupy.cuda.set_allocator = lambda allocator: None
    cupy.get_default_memory_pool = before.get_default_memory_pool
    vars(cupy.cuda).update(vars(before.cuda))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(_core, "cuda", emulated_device.binding().cuda, raising=False)
    monkeypatch.setattr(_gpu.Gpu, "_copy_rate", lambda gpu: 1e12)
    monkeypatch.setattr(_gpu.Gpu, "_matmul_rate", lambda gpu, dtype: 1e12)
    return cupy_stand_in


class NoJax:
    reason = "the installed jax runs on the cpu"


def test_spectral_kernels_on_the_emulator(emulated_cupy, monkeypatch):
    from bench import gpu_spectral

    monkeypatch.setattr(gpu_spectral, "KAPPA", [(12, 40), (5, 20_000)])
    monkeypatch.setattr(gpu_spectral, "TWO_POINT", [(6, 40)])
    monkeypatch.setattr(gpu_spectral, "PROCESSOR", 1000)
    monkeypatch.setattr(gpu_spectral, "instruction_rate", lambda gpu: 1e9)
    monkeypatch.setattr(gpu_spectral, "Jax", NoJax)
    gpu_spectral.main()
    record = json.loads((emulated_cupy / "gpu_spectral.json").read_text())
    assert [case["title"] for case in record["cases"]] == [c[0] for c in gpu_spectral.cases()]
    assert [len(case["competitors"]) for case in record["cases"]] == [2, 1, 2]
    for case in record["cases"]:
        # On the emulator they are the kernels of the device: the errors are theirs.
        assert case["competitors"]["dmftcore"]["error"] < 1e-10, case["title"]
        assert case["multiply_adds_per_s"] == 1e9
    seconds = record["cases"][0]["competitors"]["dmftcore"]["device_seconds"]
    assert record["cases"][0]["pairs_per_second"] == pytest.approx(12 * 40 / seconds)
    assert record["cases"][0]["floor_seconds"] == pytest.approx(7 * 20 * 12 * 40 / 1e9)


def test_attention_heads_on_the_emulator(emulated_cupy, monkeypatch):
    from bench import gpu_attention
    from bench.gpu_attention import Case

    cases = (Case(2, 24, 24), Case(3, 32, 4))
    monkeypatch.setattr(gpu_attention, "CASES", cases)
    monkeypatch.setattr(gpu_attention, "STEPS", 3)
    gpu_attention.main()
    record = json.loads((emulated_cupy / "gpu_attention.json").read_text())
    assert [case["title"] for case in record["cases"]] == [case.title for case in cases]
    for case, measured in zip(cases, record["cases"], strict=True):
        ours = measured["competitors"]["dmftcore"]
        assert ours["error"] < 1e-12
        assert len(measured["competitors"]) == 2
        expected = 3 * case.heads / ours["device_seconds"]
        assert measured["head_steps_per_s"] == pytest.approx(expected)


@pytest.mark.parametrize(("rank", "low_rank"), [(24, False), (4, True)])
def test_launches_of_a_step_of_attention_are_counted(monkeypatch, rank, low_rank):
    """What the benchmark says a step costs is what the host queues and the problem decides."""
    from bench.gpu_attention import Case

    case = Case(2, 24, rank)
    problem, heads = case.problem()
    assert case.low_rank == low_rank == (problem.for_core["kernel"] is None)
    assert (problem.tokens, problem.rank) == (24, rank)
    # Drives of queries and keys, for each of the heads.
    assert heads.query.shape[-1] * 2 + 1 == case.columns
    run = (ROOT / "csrc" / "cuda" / "attention.cu").read_text()
    step = run[run.index("for (index t = 0") : run.index("run.outputs(false")]
    assert step.count("run.") == 3


def test_small_heads_and_matrices_on_the_emulator(emulated_cupy, monkeypatch, capsys):
    from bench import _small_cases

    monkeypatch.setattr(_small_cases, "SIZES", ())
    with pytest.raises(SystemExit) as exit:
        _small_cases.main()
    out = capsys.readouterr().out
    assert exit.value.code == 0, out
    assert "19 cases, 0 of them wrong" in out


class JaxOnTheProcessor:
    """jax, where there is one, for arrays of the host."""

    reason = ""

    def __init__(self):
        import jax
        import jax.scipy.linalg

        jax.config.update("jax_enable_x64", True)
        self.numpy, self.linalg, self.jit = jax.numpy, jax.scipy.linalg, jax.jit

    def competitor(self, function, *arrays):
        compiled = self.jit(function)
        return lambda: compiled(*arrays).block_until_ready()


def test_jax_primitives_on_a_stand_in(cupy_stand_in, monkeypatch):
    pytest.importorskip("jax", minversion="0.6", reason="jax is not installed")
    from bench import gpu_jax
    from bench.gpu_jax import Case

    cases = tuple(Case(name, 24, g) for name in gpu_jax.OPERATIONS for g in (False, True))
    monkeypatch.setattr(gpu_jax, "SIZES", (24,))
    monkeypatch.setattr(gpu_jax, "CASES", cases)
    monkeypatch.setattr(gpu_jax, "KAPPA", ((5, 700),))
    monkeypatch.setattr(gpu_jax, "Jax", JaxOnTheProcessor)
    gpu_jax.main()
    record = json.loads((cupy_stand_in / "gpu_jax.json").read_text())
    assert [case["title"] for case in record["cases"]] == [
        *(case.title for case in cases),
        "kappa z=5 modes=700",
    ]
    for case in record["cases"]:
        for name, entry in case["competitors"].items():
            assert entry["error"] < 1e-12, (case["title"], name, entry)


def test_without_a_jax_on_the_device_its_primitives_are_left_out(cupy_stand_in, monkeypatch):
    from bench import gpu_jax

    monkeypatch.setattr(gpu_jax, "Jax", NoJax)
    gpu_jax.main()
    record = json.loads((cupy_stand_in / "gpu_jax.json").read_text())
    assert record["cases"] == []
    assert len(record["left_out"]) == len(gpu_jax.CASES) + len(gpu_jax.KAPPA)
    assert set(record["left_out"].values()) == {NoJax.reason}


def test_what_does_not_fit_is_left_out(cupy_stand_in, monkeypatch, capsys):
    from bench import gpu_rows

    monkeypatch.setattr(
        gpu_rows, "SIZES", [(1 << 15, 1, "float64"), (8, 1, "float64"), (9, 1, "float64")]
    )
    gpu_rows.main("--only", "rows_causal n")
    record = json.loads((cupy_stand_in / "gpu_rows.json").read_text())
    assert [case["title"] for case in record["cases"]] == [
        "rows_causal n=8 m=1",
        "rows_causal n=9 m=1",
    ]
    assert list(record["left_out"]) == ["rows_causal n=32768 m=1"]
    assert "needs 48 GiB, 1 GiB are free" in record["left_out"]["rows_causal n=32768 m=1"]
    gpu_rows.main("--seconds", "0")
    record = json.loads((cupy_stand_in / "gpu_rows.json").read_text())
    assert record["cases"] == []
    assert len(record["left_out"]) == len(gpu_rows.cases()) == 24


def test_our_failure_is_the_exit_status(cupy_stand_in, monkeypatch):
    from bench import gpu_rows

    monkeypatch.setattr(gpu_rows, "SIZES", [(8, 1, "float64")])
    monkeypatch.setattr(gpu_rows.twotime, "rows_causal", lambda x, a: 1 / 0)
    with pytest.raises(SystemExit, match="failed: rows_causal n=8 m=1"):
        gpu_rows.main()


def test_small_cases_agree_with_themselves_and_see_a_fault(cupy_stand_in, monkeypatch, capsys):
    from bench import _small_cases

    cupy = sys.modules["cupy"]
    cupy.cuda.set_allocator = lambda allocator: None
    monkeypatch.setattr(_small_cases, "SIZES", (1, 9, 31))
    # The others need a device to be found, which numpy alone has not.
    monkeypatch.setattr(_small_cases, "FAMILIES", {})
    with pytest.raises(SystemExit) as exit:
        _small_cases.main()
    assert exit.value.code == 0, capsys.readouterr().out
    # On the device one element is off by a few roundings too many.
    cupy.asnumpy = lambda array: np.where(np.arange(array.shape[-1]) == 0, array * 1.001, array)
    with pytest.raises(SystemExit) as exit:
        _small_cases.main()
    assert exit.value.code == 1
    assert "causal_matmul n=31" in capsys.readouterr().out


def test_products_by_blocks_are_causal_products():
    from bench.gpu_operations import by_blocks

    rng = np.random.default_rng(0)
    for n in (5, 16, 37):
        a, b = np.tril(rng.normal(size=(n, n))), np.tril(rng.normal(size=(n, n)))
        np.testing.assert_allclose(by_blocks(np, a, b), a @ b, rtol=0, atol=n * 1e-15)


def test_every_target_belongs_to_a_case():
    from bench import gpu_operations, gpu_rows

    assert set(gpu_operations.TARGETS) <= {case[0] for case in gpu_operations.cases()}
    goals = {case.title for case in gpu_rows.cases() if case.target}
    assert "rows_causal n=16384 m=1" in goals
    assert "rows_symmetric n=32768 m=4" in goals
    assert "rows_causal_batch transposed n=512 histories=4000" in goals
    assert not any("low_rank" in title or "n=1024" in title for title in goals)


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("gpu_operations", "n=16384"),
        ("gpu_rows", "n=16384"),
        ("gpu_chain", "T=1000"),
        ("gpu_proportional", "T=1000"),
        ("gpu_particles", "S=1000000"),
        ("gpu_spectral", "z=256 modes=1000000"),
        ("gpu_attention", "heads=4096 tokens=512 rank=16"),
        ("gpu_jax", "resolvent gradient n=8192"),
    ],
)
def test_a_dry_run_prints_the_cases(name, case, capsys):
    importlib.import_module(f"bench.{name}").main("--dry-run")
    out = capsys.readouterr().out
    assert case in out
    assert "GiB" in out


def test_the_check_runs_every_benchmark_of_a_gpu():
    from bench.gpu_check import BENCHMARKS

    scripts = {path.stem for path in (ROOT / "bench").glob("gpu_*.py")}
    assert scripts - {"gpu_check"} <= set(BENCHMARKS)
