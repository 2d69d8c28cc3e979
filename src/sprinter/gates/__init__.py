"""Gates decide, before the target is called, whether to draft on; some vouch for what was drafted."""
