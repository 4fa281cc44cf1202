"""Generation of text: one tensor contract, that of Triton's vLLM backend, for every engine.

``contract`` reads requests and writes responses, ``sampling`` is what a request may ask, ``engine`` what an engine is;
``service`` brings them together, and ``triton`` is what the backends' ``model.py`` share.
"""
