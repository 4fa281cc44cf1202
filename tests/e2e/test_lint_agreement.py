"""Lint and the real tritonserver agree on every case of the corpus."""

from __future__ import annotations

import contextlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from trireme.lint import Severity, lint
from trireme.processes.machine import Machine
from trireme.processes.runtime import EmbeddedRuntime
from trireme.processes.server import ServerFlags, TritonServer
from trireme.settings import Settings
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from tests.deadlines import scaled
from tests.lint_corpus.corpus import Case, all_cases
from tests.servers import throw_away_server

CORPUS_DIR = Path(__file__).parents[1] / "lint_corpus"
# The models of the corpus read no weights: a load that takes longer hangs.
HANG_DEADLINE_S = scaled(15.0)
BUSY_DEADLINE_S = scaled(60.0)
MIN_AGREEMENT = 0.95
# Models stay loaded, 40 MB each, because unloading one takes longer than loading it.
CASES_PER_SERVER = 40


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The server's result for one case: ``reason`` is empty if it loaded; ``lost`` if the server was unavailable."""

    case: Case
    reason: str
    lost: bool = False

    @property
    def loaded(self) -> bool:
        return not self.reason


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for case in all_cases():
        case.write(folder)
    return folder


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedRuntime:
    """The embedded runtime with the project's backends and the corpus's ``echo``."""
    project_runtime = EmbeddedRuntime.find(Settings.from_environment())
    backends = tmp_path_factory.mktemp("runtime") / "backends"
    shutil.copytree(project_runtime.backends_dir, backends, ignore=shutil.ignore_patterns("__pycache__", "lib"))
    (backends / "echo").mkdir()
    shutil.copy(CORPUS_DIR / "echo_model.py", backends / "echo" / "model.py")
    return replace(project_runtime, backends_dir=backends)


@pytest.fixture(scope="module", params=["every eighth", pytest.param("all", marks=pytest.mark.slow)])
def cases(request: pytest.FixtureRequest) -> list[Case]:
    return all_cases() if request.param == "all" else all_cases()[::8]


@pytest.fixture(scope="module")
def results(cases: list[Case], repository: Path, runtime: EmbeddedRuntime) -> list[LoadResult]:
    harmless = [case for case in cases if not case.breaks_server]
    batches = [harmless[first : first + CASES_PER_SERVER] for first in range(0, len(harmless), CASES_PER_SERVER)]
    loaded: list[LoadResult] = []
    for batch in batches:
        with throw_away_server(_flags(repository), runtime) as server, ThreadPoolExecutor(2) as pool:
            loaded += pool.map(lambda case: _load(server, case, BUSY_DEADLINE_S), batch)
            if not server.is_alive():
                print(server.log_path.read_text(errors="replace")[-4000:])
    # A server whose stubs are starved of CPU may abort before it loads the remaining cases.
    alone = [case for case in cases if case.breaks_server] + [result.case for result in loaded if result.lost]

    def load_alone(case: Case) -> LoadResult:
        with throw_away_server(_flags(repository), runtime) as server:
            return _load(server, case, HANG_DEADLINE_S)

    # Hanging servers use no CPU until their deadline.
    with ThreadPoolExecutor(3) as pool:
        loaded_alone = list(pool.map(load_alone, alone))
    return [result for result in loaded if not result.lost] + loaded_alone


def _flags(repository: Path) -> ServerFlags:
    return ServerFlags(repository, load_models=(), exit_on_error=False)


def _load(server: TritonServer, case: Case, deadline_s: float) -> LoadResult:
    with contextlib.closing(InferenceServerClient(server.grpc_address)) as client:
        try:
            client.load_model(case.model, client_timeout=deadline_s)
        except InferenceServerException as error:
            lost = error.status() == "StatusCode.UNAVAILABLE"
            return LoadResult(case, error.message() or "no reason", lost)
    return LoadResult(case, "")


def test_lint_and_the_server_agree(results: list[LoadResult], repository: Path) -> None:
    disagreements = {
        result.case.model: result
        for result in results
        if result.loaded != _passes(repository / result.case.model, result.case)
    }
    for name, result in disagreements.items():
        print(f"{name}: server: {result.reason or 'loaded'}; known: {result.case.disagrees or 'no'}")
    assert {name for name, result in disagreements.items() if not result.case.disagrees} == set()
    assert len(disagreements) <= (1 - MIN_AGREEMENT) * len(results)


def _passes(folder: Path, case: Case) -> bool:
    """True if lint expects the embedded server to load the model."""
    report = lint(folder, Machine(cores=2, gpus=case.machine_gpus))
    return report.passed and not report.of(Severity.NGC_ONLY)


def test_every_declared_disagreement_exists(results: list[LoadResult]) -> None:
    stale = [r.case.model for r in results if r.case.disagrees and r.loaded == (r.case.good and not r.case.ngc_only)]
    assert stale == []
