"""A device that does not exist, and programs to time on it."""


class Takes:
    """A competitor that takes so many milliseconds, on the clock of the stand-in."""

    def __init__(self, milliseconds):
        self.seconds = milliseconds / 1e3

    def __call__(self):
        return self.seconds


class StandIn:
    """A device whose clock is told the time."""

    name = "Stand-in (R) 9000"

    def __init__(self):
        self.released = 0

    def seconds(self, function, calls):
        for _ in range(calls):
            function()
        return function.seconds

    def release(self):
        self.released += 1

    def facts(self):
        return {
            "name": self.name,
            "copy_bytes_per_s": 2e9,
            "matmul_flops": {"float64": 1e9},
            "packages": {"cupy": "0"},
            "state": {},
            "runtime_cuda": "13.0",
            "nvcc_version": None,
        }


def fail():
    raise RuntimeError("out of paper")
