"""Generation of text: one tensor contract, that of Triton's vLLM backend, for every engine.

``contract`` reads requests and writes responses, ``sampling`` holds what a request may ask, ``engine`` is what an engine
is, ``service`` brings them together, and ``triton`` is what the backends' ``model.py`` share.
"""
