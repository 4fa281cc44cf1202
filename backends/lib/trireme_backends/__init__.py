"""The logic of Trireme's Python-based Triton backends, free of Triton: every module here is tested without a server."""
