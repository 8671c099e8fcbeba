"""A checkpoint directory -> one GGUF file, as llama.cpp and its kin read it."""
