"""An OpenAI-compatible server in which every request states what it may lose."""
