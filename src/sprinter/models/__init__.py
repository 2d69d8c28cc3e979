"""Language models behind one protocol; each owns its cache and reuses the longest cached prefix itself."""
