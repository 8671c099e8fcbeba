"""The exact cache: the same request of the same team, asked once.

`key` names a request, `events` writes an answer down, `shelf` keeps answers in memory and in the
store, `calls` lets many read one call of a model, `cached` is the `Backend`.
"""
