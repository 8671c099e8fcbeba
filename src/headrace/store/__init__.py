"""SQL: who may ask, what they may spend, what they spent. SQLite or PostgreSQL, one interface."""
