"""Load language models with Locust: ``locust -f loadtest/locustfile_generation.py``; see ``locustfile.py``.

Time to the first token, time between tokens and tokens a second are in the report, and in ``--slo`` as ``ttft_p95_ms``,
``inter_token_p95_ms`` and ``minimum_token_rate``.
"""

from trireme_loadtest.locust import record  # noqa: F401 - adds --slo and --report
from trireme_loadtest.locust.generation_users import GenerationUser

__all__ = ["GenerationUser"]
