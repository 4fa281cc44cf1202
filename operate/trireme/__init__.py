"""Trireme: operate a Triton Inference Server, its model repository and its releases."""
