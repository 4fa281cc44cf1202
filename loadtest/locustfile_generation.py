"""Load language models with Locust: ``locust -f loadtest/locustfile_generation.py``; see ``locustfile.py``.

The report contains time to the first token, time between tokens and tokens per second; the keys for ``--slo`` are
``ttft_p95_ms``, ``inter_token_p95_ms`` and ``minimum_token_rate``.
"""

from trireme_loadtest.locust import record  # noqa: F401 - adds --slo and --report
from trireme_loadtest.locust.generation_users import GenerationUser

__all__ = ["GenerationUser"]
