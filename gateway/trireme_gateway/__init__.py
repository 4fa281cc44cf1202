"""The HTTP door: OpenAI-compatible endpoints over Triton."""
