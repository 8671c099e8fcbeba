"""Prompts and rewards -> a tuned policy: roll-outs, advantages, their batches, tasks, runs."""
