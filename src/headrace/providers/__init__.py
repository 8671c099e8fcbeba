"""Backends over other servers. The only room, beside retrieval, that knows the HTTP client."""
