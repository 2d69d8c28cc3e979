"""PROMPT to TEXT: backends, drafters, gates, rules, the engine."""
