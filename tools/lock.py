"""Write constraints.txt: every package that the project can install, at one version per supported Python.

    python3 tools/lock.py python3.10 python3.11 python3.12

Each interpreter's pip resolves pyproject.toml with all extras except ``gpu``. A package with the same version for all
gets one line, others one line per Python.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
EXTRAS = "dev,export,loadtest"
# GPU builds are pinned by hand, because resolving them would download several GB of CUDA libraries.
# TensorRT must be the version in the NGC image: a plan loads only on the version that built it.
BY_HAND = ["onnxruntime-gpu==1.31.1", "tensorrt==10.5.0"]
OURS = {"trireme", "trireme-client"}


def resolve(interpreter: str) -> tuple[str, dict[str, str]]:
    """The Python version of ``interpreter``, and the versions that its pip chooses, by package."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        requirements = ["./client[http]", f".[{EXTRAS}]", "torch==2.13.0"]
        resolve_only = ["--quiet", "--dry-run", "--ignore-installed", "--report", str(report)]
        subprocess.run(
            [interpreter, "-m", "pip", "install", *resolve_only, *requirements], cwd=PROJECT, check=True, timeout=1200
        )
        content = json.loads(report.read_text())
    chosen = {
        # A local version label such as +cpu identifies one build, not the release.
        entry["metadata"]["name"].lower().replace("_", "-"): entry["metadata"]["version"].split("+")[0]
        for entry in content["install"]
    }
    major, minor = content["environment"]["python_version"].split(".")
    return f"{major}.{minor}", {name: version for name, version in chosen.items() if name not in OURS}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "interpreters", nargs="+", metavar="PYTHON", help="Python interpreter to resolve for, e.g. python3.11"
    )
    resolved = dict(resolve(interpreter) for interpreter in parser.parse_args(argv).interpreters)
    versions: dict[str, dict[str, str]] = defaultdict(dict)
    for python, packages in resolved.items():
        for name, version in packages.items():
            versions[name][python] = version
    lines = list(BY_HAND)
    for name, by_python in versions.items():
        if len(set(by_python.values())) == 1:
            lines.append(f"{name}=={next(iter(by_python.values()))}")
        else:
            lines += [
                f"{name}=={version} ; python_version == '{python}'" for python, version in sorted(by_python.items())
            ]
    header = (
        "# Every version this project is tested with. Made by tools/lock.py; edit pyproject.toml, then run it again.\n"
    )
    (PROJECT / "constraints.txt").write_text(header + "\n".join(sorted(lines)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
