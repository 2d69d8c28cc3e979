"""The default pair: where its parts come from, checksums, cache."""
