"""What a client says to the cache, and what it is told: one header, both ways."""

CACHE_HEADER = b"x-headrace-cache"
BYPASS = "bypass"
"""Ask the model and keep nothing."""
REFRESH = "refresh"
"""Ask the model and keep its answer."""
