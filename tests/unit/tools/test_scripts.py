"""Users' work is safe: scripts change nothing for --help or bad arguments, and git ignores only exported files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[3]
SCRIPTS = [
    *(f"tools/{name}.py" for name in ("bootstrap", "check_language", "lock", "make_golden")),
    *(f"deploy/{name}" for name in ("make-envoy-config", "make-secrets", "roll")),
]


def run(script: str, *arguments: str, checkout: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable] if script.endswith(".py") else []
    return subprocess.run(
        [*command, str(checkout / script), *arguments], cwd=checkout, capture_output=True, text=True, timeout=60
    )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the scripts, so that a script that runs in spite of its arguments changes no real file."""
    copy = tmp_path_factory.mktemp("checkout")
    for folder in ("tools", "deploy"):
        shutil.copytree(PROJECT / folder, copy / folder)
    return copy


def test_every_executable_script_is_listed() -> None:
    runnable = {path for path in (PROJECT / "deploy").iterdir() if path.is_file() and path.stat().st_mode & 0o100}
    assert {*runnable, *(PROJECT / "tools").glob("*.py")} == {PROJECT / script for script in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_and_unknown_options_change_no_file(script: str, checkout: Path) -> None:
    before = {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file()}
    helped, rejected = (run(script, argument, checkout=checkout) for argument in ("--help", "--no-such-option"))
    assert (helped.returncode, helped.stderr) == (0, "")
    assert len(helped.stdout.split()) > 10
    assert rejected.returncode == 2
    assert rejected.stderr
    assert {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file()} == before


def test_git_ignores_exported_files_and_no_file_of_users(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True, timeout=60)
    for path in (PROJECT / ".gitignore", *PROJECT.glob("model_repository/*/.gitignore")):
        copy = tmp_path / path.relative_to(PROJECT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    recipes = [path.parent.relative_to(PROJECT) for path in sorted(PROJECT.glob("model_repository/*/export.toml"))]
    exported = [
        f"{folder}/{name}"
        for folder in recipes
        for name in ("1/model.onnx", "1/model.gguf", "1/manifest.json", "12/tokenizer.json", "warmup/short.TEXT")
    ]
    users = [f"model_repository/{name}" for name in (
        "mine/1/model.py", "mine/1/labels.txt", "mine/1/model.onnx", "mine/1/vocab/words.txt", "mine/2/model.json",
        "mine/warmup/first", "mine/config.pbtxt", "text_embedding/1/route.json", "text_embedding/2/model.py",
        "sentiment_label_decoder/1/labels.json", "embedding_economy/1/.gitkeep",
    )]  # fmt: skip
    committed = [f"{folder}/{name}" for folder in recipes for name in ("config.pbtxt", "export.toml", "golden/a.json")]
    paths = "\n".join([*exported, *users, *committed])
    ignored = subprocess.run(
        ["git", "check-ignore", "--no-index", "--stdin"], cwd=tmp_path, input=paths, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert recipes
    assert ignored.stdout.split() == exported
