"""What every part speaks: laws, sampling, chance, trees, texts, rows."""
