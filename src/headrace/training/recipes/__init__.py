"""Recipes: each turns named data into one model, from one command."""
