"""HTTP: identity, codecs and accounting around backends. Plain ASGI, no framework."""
