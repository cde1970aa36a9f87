"""Pictures of solutions: theory as lines, experiment as points with standard-error bands.

`plot_solutions` composes a whole figure; the other functions draw on given axes. Nothing here
touches ``pyplot``: figures are objects, and no display is needed.
"""

from dmftcore.plotting.curves import plot_alignment, plot_losses, plot_sharpness
from dmftcore.plotting.figure import plot_solutions
from dmftcore.plotting.kernels import plot_kernel_pair, plot_two_time
from dmftcore.plotting.style import COLOURS, STYLE

__all__ = [
    "COLOURS",
    "STYLE",
    "plot_alignment",
    "plot_kernel_pair",
    "plot_losses",
    "plot_sharpness",
    "plot_solutions",
    "plot_two_time",
]
