"""ONE decoder, its attention over packed or paged rows, and checkpoints in and out.

`config`, `rope_config` and `files` load no torch, so that a process without it can read what a
checkpoint says of itself.
"""
