"""Measuring: what a pair costs and accepts here, methods against each other."""
