"""Every command in the README and docs/ runs as written, on a served copy of the repository.

Commands are in ``sh`` fences, or after ``$`` in ``console`` fences with their output. Only those in ``RUN_ELSEWHERE``,
which other tests run, are skipped.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from trireme.settings import Settings

from tests.deadlines import scaled
from tests.e2e.serving import Serve

PROJECT = Path(__file__).resolve().parents[2]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
# Command prefixes, and what runs them.
RUN_ELSEWHERE = {
    "trireme serve": "the fixture of this module",
    "make": "continuous integration; see test_make_targets_run_in_ci",
    "docker compose": "make compose-test, on a stand-in for NVIDIA's image",
    "deploy/make-secrets": "make compose-test",
    "deploy/make-envoy-config": "tests/deploy/test_compose_files.py",
    "deploy/roll": "make compose-test",
    "git clone": "continuous integration starts with one",
    # Their verdicts depend on the load of the machine; the named tests run every form of them.
    "trireme load": "tests/e2e/test_load_run.py",
    "trireme bench": "tests/e2e/test_bench.py",
    "locust": "tests/e2e/test_load_locust.py",
}
_FENCE = re.compile(r"^```(sh|console)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Command:
    """One command of one page, with its continuation lines."""

    page: Path
    text: str

    @property
    def runs_elsewhere(self) -> bool:
        return any(self.text == words or self.text.startswith(f"{words} ") for words in RUN_ELSEWHERE)


def read_commands(page: Path) -> list[Command]:
    found = []
    for kind, block in _FENCE.findall(page.read_text(encoding="utf-8")):
        lines = block.replace("\\\n", " ").splitlines()
        if kind == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        # A trailing comment is not part of the command.
        commands = (re.sub(r"\s+# .*", "", line).strip() for line in lines)
        found += [Command(page, text) for text in commands if text and not text.startswith("#")]
    return found


COMMANDS = [command for page in PAGES for command in read_commands(page)]
HERE = [command for command in COMMANDS if not command.runs_elsewhere]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """``trireme serve`` on a copy of the repository, so that pages can release versions."""
    serve = Serve(tmp_path_factory.mktemp("docs"), Settings.from_environment().repository_dir)
    (serve.state_dir / "sources").symlink_to(Settings.from_environment().sources_dir)
    # No command uses the staged variants, which take a third of each start, nor vLLM, which takes minutes.
    vllm = [path.parent for path in serve.repository.glob("*/config.pbtxt") if 'backend: "vllm"' in path.read_text()]
    for folder in [*serve.repository.glob("*_staged"), *serve.repository.glob("*_onnx"), *vllm]:
        shutil.rmtree(folder)
    try:
        serve.start()
        yield serve
        serve.stop()
    finally:
        serve.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory where the commands of all pages run in order: links to the checkout, and the files they create."""
    folder = tmp_path_factory.mktemp("checkout")
    for entry in PROJECT.iterdir():
        if entry.name not in (".git", ".trireme", "reports", "model_repository"):
            (folder / entry.name).symlink_to(entry)
    return folder


@pytest.mark.parametrize("command", HERE, ids=lambda command: f"{command.page.stem}: {command.text[:60]}")
def test_command_runs_as_written(command: Command, served: Serve, folder: Path) -> None:
    for name, target in ((".trireme", served.state_dir), ("model_repository", served.repository)):
        if not (folder / name).exists():
            (folder / name).symlink_to(target)
    text = command.text
    # Pages use the default ports; the server under test has free ones.
    for default, port in ((8000, served.http_port), (8001, served.grpc_port), (8002, served.metrics_port)):
        text = re.sub(rf"(127\.0\.0\.1|localhost):{default}\b", f"127.0.0.1:{port}", text)
    programs = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    result = subprocess.run(
        [shutil.which("bash") or "bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        env={**served.environment(), "PATH": programs, "TRIREME_PROJECT_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=scaled(300),
        check=False,
    )
    assert result.returncode == 0, f"{command.page.name}: {text}\n{result.stdout}\n{result.stderr}"


def test_make_targets_run_in_ci() -> None:
    in_ci = {line.strip() for line in (PROJECT / ".ci/run").read_text().splitlines()}
    makefile = (PROJECT / "Makefile").read_text()
    for command in COMMANDS:
        if command.text.startswith("make "):
            target = command.text.split()[1]
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), command
            # serve is demo without the requests; the others take too long for every run.
            not_in_ci = ("serve", "models", "bench", "soak", "test-all", "vllm", "vllm-test", "clean", "help")
            assert command.text in in_ci or target in not_in_ci, command


MEASURING = [command for command in COMMANDS if command.text.startswith(("trireme load", "trireme bench"))]


@pytest.mark.parametrize("command", MEASURING, ids=lambda command: command.text[:60])
def test_options_of_measuring_commands_exist(command: Command) -> None:
    words = command.text.split()
    help_of = [Path(sys.executable).with_name("trireme"), *words[1:3], "--help"]
    shown = subprocess.run(help_of, capture_output=True, text=True, timeout=scaled(60), check=True).stdout
    for option in (word.partition("=")[0] for word in words if word.startswith("--")):
        assert option in shown, f"{command.page.name}: {command.text}"


def test_readme_and_docs_contain_commands() -> None:
    assert len(HERE) >= 10
