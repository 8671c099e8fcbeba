"""What keeps an index: SQLite embedded, and others behind the same contract."""
