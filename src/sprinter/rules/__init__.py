"""Rules decide, after the target was called, what stands and what replaces the rest."""
