"""Packed sources and a model → an answer whose every citation was checked."""
