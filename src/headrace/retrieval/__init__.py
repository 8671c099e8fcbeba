"""Documents → passages with exact spans → answers that quote them, and a proof of each quote."""
