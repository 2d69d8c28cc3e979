"""Observers look on: what the loss is, what was seen, how long it took."""
