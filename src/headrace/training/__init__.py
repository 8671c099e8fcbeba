"""Objectives, optimizer, loop and recipes: packed batches to a checkpoint."""
