"""Prompt -> token ids -> next-token laws and hidden states."""
