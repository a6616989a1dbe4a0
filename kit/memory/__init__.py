"""How much memory a step takes: latitude bands, recomputation, what is saved where, low-memory optimisers."""
