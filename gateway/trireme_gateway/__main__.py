"""``python -m trireme_gateway``: the same as ``trireme gateway``."""

from trireme_gateway.command import gateway

gateway()
