"""Sprinter inside other libraries."""
