"""The same idea in other trades: ask the expensive model late and seldom."""
