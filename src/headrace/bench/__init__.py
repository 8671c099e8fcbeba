"""Load and latency of any backend; definitions are the field's, so numbers compare with vLLM's."""
