"""Scaling laws: small runs -> L(N, D), its uncertainty, and what a compute budget should buy."""
