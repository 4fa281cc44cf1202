"""OpenAI-compatible HTTP endpoints over Triton."""
