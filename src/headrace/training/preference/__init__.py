"""Preferences -> a tuned model: rows of both sides, their batches, references, tasks, runs."""
