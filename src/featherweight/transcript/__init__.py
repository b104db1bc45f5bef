"""A meeting file in, turns out."""
