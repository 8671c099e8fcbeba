"""A teacher -> a student: its distribution token by token, or the answers it gives."""
