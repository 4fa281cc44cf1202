"""A typed client for the Triton Inference Server."""
