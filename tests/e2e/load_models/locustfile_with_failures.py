"""One user in twenty sends failing requests."""

import numpy as np
from trireme_loadtest.locust import record  # noqa: F401
from trireme_loadtest.locust.users import TriremeClientUser, TritonGrpcUser

FAIL = {"TEXT": np.array([[b"fail"]], dtype=np.object_)}


class WellUser(TritonGrpcUser):
    fixed_count = 18


class FailingUser(TritonGrpcUser):
    fixed_count = 1

    def call(self, model, inputs):  # noqa: ARG002
        super().call(model, FAIL)


class ClientUser(TriremeClientUser):
    fixed_count = 1


del TritonGrpcUser, TriremeClientUser
