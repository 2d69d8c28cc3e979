"""The data's way: backends (prompt to laws), drafters, gates, rules, then the engine and its text."""
