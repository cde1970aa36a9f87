"""One module per theory: the noun, the equations of one causal step, the observables."""
