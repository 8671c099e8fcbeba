"""Continuous batching: requests of token ids become token events, a step at a time.

`request`, `blocks` and `scheduler` are plain Python; `runner` and `sampler` are the torch side;
`core` joins them in one thread; `worker` gives that thread a process, `client` speaks to it, and
`chat` makes of both a `Backend`.
"""
