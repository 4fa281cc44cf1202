"""Text generation: one tensor contract, that of Triton's vLLM backend, for every engine.

``contract`` reads requests and writes responses, ``sampling`` defines the request's parameters, ``engine`` the engine
interface; ``service`` connects them, and the backends' ``model.py`` share ``triton``.
"""
