"""A typed client for the Triton Inference Server that respects deadlines."""

from trireme_client.blocking import TriremeClient
from trireme_client.client import AsyncTriremeClient
from trireme_client.endpoint import Endpoint, Tls
from trireme_client.errors import (
    CallFacts,
    ClientError,
    ClosedError,
    DeadlineError,
    InvalidInputError,
    InvalidRequestError,
    LateError,
    ModelDiedError,
    ModelNotFoundError,
    OverloadedError,
    QueueTimeoutError,
    ServerFaultError,
    UnavailableError,
    UnreachableError,
    UnsupportedError,
)
from trireme_client.generation import GenerationChunk
from trireme_client.operator import OperatorClient
from trireme_client.policy import HealthPolicy, HedgePolicy, RetryPolicy
from trireme_client.request import SequenceStep
from trireme_client.results import Classifications, Embeddings, InferResult, Route, Timings
from trireme_client.shared_memory import SharedRegion, SharedTensor
from trireme_client.spec import ModelSpec, TensorSpec
from trireme_client.testing import FakeServer

__all__ = [
    "AsyncTriremeClient",
    "CallFacts",
    "Classifications",
    "ClientError",
    "ClosedError",
    "DeadlineError",
    "Embeddings",
    "Endpoint",
    "FakeServer",
    "GenerationChunk",
    "HealthPolicy",
    "HedgePolicy",
    "InferResult",
    "InvalidInputError",
    "InvalidRequestError",
    "LateError",
    "ModelDiedError",
    "ModelNotFoundError",
    "ModelSpec",
    "OperatorClient",
    "OverloadedError",
    "QueueTimeoutError",
    "RetryPolicy",
    "Route",
    "SequenceStep",
    "ServerFaultError",
    "SharedRegion",
    "SharedTensor",
    "TensorSpec",
    "Timings",
    "Tls",
    "TriremeClient",
    "UnavailableError",
    "UnreachableError",
    "UnsupportedError",
]
