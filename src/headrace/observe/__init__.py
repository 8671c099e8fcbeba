"""What happened, for operators: metrics, the usage record, log lines. Never a prompt's text."""
