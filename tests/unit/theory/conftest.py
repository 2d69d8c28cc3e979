"""Hypothesis runs the same everywhere."""

from hypothesis import settings

# A shared processor makes single examples slow, and a run that fails must fail again when repeated.
settings.register_profile("steady", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("steady")
