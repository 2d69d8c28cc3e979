"""Sprinter: approximate speculative decoding whose loss is measured, certified and audited."""

__version__ = "0.1.0"
