"""Kernels that do the work at the speed of this computer, in numba: a checked wrapper above, the bare loop below."""
