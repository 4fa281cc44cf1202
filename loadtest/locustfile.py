"""Load a running Triton with Locust: run ``locust -f loadtest/locustfile.py`` and open the page that it prints.

Without the page, with a verdict: ``locust -f loadtest/locustfile.py --headless -u 20 -t 60s --slo slo.toml``.
With several processes or machines: ``--processes 4``, or ``--master`` here and ``--worker --master-host ...`` there.
With a single user class: ``locust -f loadtest/locustfile.py TritonGrpcUser``.
"""

from trireme_loadtest.locust import record  # noqa: F401 - adds --slo and --report
from trireme_loadtest.locust.users import KserveHttpUser, TriremeClientUser, TritonGrpcUser

__all__ = ["KserveHttpUser", "TriremeClientUser", "TritonGrpcUser"]
