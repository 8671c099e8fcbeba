"""Corpora to packed batches, in numpy alone: sources, manifest, order, packing, conversations."""
