"""The arithmetic that is worth a native version, each beside its plain torch reference.

`dispatch.kernels_for(device)` is the one place that chooses; callers never name an implementation.
"""
