"""Names, platforms and version folders.

Source of the rules: triton core, ``ValidateModelConfig``, ``AutoCompleteBackendFields`` and ``VersionsToLoad``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from trireme.lint.finding import Complaint, error, ngc_only, warning
from trireme.lint.subject import Rule, Subject
from trireme.repository.folders import ModelFolder, is_version

# The platforms of Triton's standard backends; a custom backend accepts any platform.
_PLATFORMS = {
    "onnxruntime": ("onnxruntime_onnx",),
    "tensorrt": ("tensorrt_plan",),
    "tensorflow": ("tensorflow_savedmodel", "tensorflow_graphdef"),
    "pytorch": ("pytorch_libtorch",),
}
# Folders inside a model folder that Triton reserves.
_RESERVED_FOLDERS = {"warmup", "initial_state"}
_DATA_FOLDERS = {"golden"}
# Files that this project's backends open in a version folder.
_PROJECT_BACKEND_FILES = {
    "text_encoder": ("model.onnx", "tokenizer.json"),
    "text_tokenizer": ("tokenizer.json",),
    "label_decoder": ("labels.json",),
    "router": ("route.json",),
}


def name_matches_folder(subject: Subject) -> Iterator[Complaint]:
    """If the config has a ``name``, it equals the folder's name."""
    given = str(subject.config.message.name)
    if given and subject.folder and given != subject.folder.name:
        yield error(
            f"name '{given}' does not match the folder '{subject.folder.name}'",
            f'set name: "{subject.folder.name}", or remove the line',
            "name",
        )


def backend_is_known(subject: Subject) -> Iterator[Complaint]:
    """``backend`` or ``platform`` determines the backend, and the two match."""
    config = subject.config
    backend, platform = str(config.message.backend), config.platform
    if platform == "ensemble" and backend:
        yield error(f"an ensemble cannot have a backend, but backend is '{backend}'", "remove the line", "backend")
    elif backend != "onnxruntime" and platform and platform not in _PLATFORMS.get(backend, (platform,)):
        allowed = " or ".join(f'"{known}"' for known in _PLATFORMS[backend])
        yield error(
            f"platform '{platform}' does not match backend '{backend}'",
            f"set platform: {allowed}, or remove the line",
            "platform",
        )
    elif not backend and platform and not config.backend:
        known = ", ".join(name for names in _PLATFORMS.values() for name in names)
        yield error(
            f"unknown platform '{platform}'",
            f'set backend: "{platform}" if it is a backend; available platforms: {known}, ensemble',
            "platform",
        )
    # Triton derives backend x from a folder name like model.x.
    elif subject.folder and not subject.backend and "." not in subject.folder.name:
        yield error("the backend cannot be determined", 'add backend, e.g. backend: "onnxruntime"')


def max_batch_size_is_not_negative(subject: Subject) -> Iterator[Complaint]:
    """``max_batch_size`` is 0 (no batching) or more."""
    if subject.config.max_batch_size < 0:
        yield error(
            f"max_batch_size is {subject.config.max_batch_size}",
            "set 0 for no batching, or the largest batch size",
            "max_batch_size",
        )


def version_folders_are_canonical(subject: Subject) -> Iterator[Complaint]:
    """Version folders are numbers from 1 without leading zeros; Triton misreads names that only start with a number."""
    if subject.folder is None:
        return
    for entry in sorted(subject.folder.path.iterdir()):
        name = entry.name
        if not entry.is_dir() or name.startswith(".") or is_version(name) or name in _RESERVED_FOLDERS | _DATA_FOLDERS:
            continue
        number = re.match(r"-?\d+", name)
        if number is None:
            yield warning(
                f"folder '{name}' is not a version, and Triton ignores it",
                "move it out of the model folder",
                file=entry,
            )
        elif re.fullmatch(r"0\d+", name):
            yield warning(
                f"Triton ignores folder '{name}' because of its leading zero", f"rename it to {int(name)}", file=entry
            )
        elif abs(int(number.group())) >= 2**63:
            yield error(
                f"folder name '{name}' does not fit into 64 bits, and Triton crashes when it reads it",
                "rename it to a number of at most 18 digits, or move it out of the model folder",
                file=entry,
            )
        else:
            yield from _misread_version(subject, name, int(number.group()))


def _misread_version(subject: Subject, name: str, version: int) -> Iterator[Complaint]:
    """Triton reads the leading number of any folder name as a version, and then opens the folder of that number."""
    assert subject.folder is not None
    folder = subject.folder
    chosen = subject.config.version_policy.selects({*folder.versions(), version})
    path = folder.path / name
    if version in chosen and version not in folder.versions() and name != str(version):
        move = "move it out of the model folder"
        if subject.config.model_filename:
            yield error(f"Triton reads folder '{name}' as version {version} and fails to load it", move, file=path)
        else:
            yield warning(f"Triton reads folder '{name}' as version {version} and serves it", move, file=path)
    else:
        yield warning(
            f"folder '{name}' is not a canonical version number, and Triton reads it as {version}",
            "name versions 1, 2, 3, ...; move anything else out of the model folder",
            file=path,
        )


def a_version_is_there(subject: Subject) -> Iterator[Complaint]:
    """The version policy selects at least one folder, and every version it lists exists."""
    folder = subject.folder
    if folder is None:
        return
    policy, existing = subject.config.version_policy, _versions_seen_by_triton(folder)
    listed = ", ".join(map(str, existing)) or "none"
    for version in policy.specific or ():
        if version not in existing:
            yield warning(
                f"version_policy lists version {version}, which does not exist (existing: {listed})",
                f"add folder {version}, or remove {version} from the policy",
                "version_policy",
            )
    if policy.selects(existing):
        return
    if subject.is_unexported:
        yield warning("the model is not exported yet", f"run trireme export {folder.name}", file=folder.path)
    else:
        yield error(
            f"no version to load (existing: {listed})",
            "add a version folder, or change version_policy",
            "version_policy",
        )


def _versions_seen_by_triton(folder: ModelFolder) -> list[int]:
    """The versions that Triton finds, including 0 and negative ones, for which another rule warns."""
    names = (entry.name for entry in folder.path.iterdir() if entry.is_dir())
    return sorted(int(name) for name in names if re.fullmatch(r"0|-?[1-9][0-9]{0,17}", name))


def model_file_is_there(subject: Subject) -> Iterator[Complaint]:
    """Every version that Triton loads has the files that its backend opens."""
    config, folder = subject.config, subject.folder
    if folder is None or config.is_ensemble:
        return
    for version in subject.versions():
        for name in _PROJECT_BACKEND_FILES.get(subject.backend, ()):
            if not (file := folder.version_dir(version) / name).is_file():
                fix = f"run trireme export {folder.name}" if folder.recipe_path.is_file() else "add the file"
                yield error(f"version {version} has no {name}", fix, file=file)
        if config.model_filename and not (file := folder.version_dir(version) / config.model_filename).exists():
            hang = ", and Triton would hang while loading it" if subject.backend == "python" else ""
            yield error(
                f"version {version} has no {config.model_filename}{hang}",
                "add the file, or set default_model_filename to the model's file name",
                file=file,
            )


def backend_is_in_the_embedded_server(subject: Subject) -> Iterator[Complaint]:
    """The embedded server runs only Python-based backends; TensorRT, PyTorch and others need NGC's image."""
    if subject.backend in ("tensorrt", "tensorflow", "pytorch", "openvino", "dali", "tensorrtllm", "fil"):
        yield ngc_only(
            f"the embedded server has no backend '{subject.backend}'",
            "use NGC's image to serve the model",
            "backend",
        )


RULES: tuple[Rule, ...] = (
    name_matches_folder,
    backend_is_known,
    max_batch_size_is_not_negative,
    version_folders_are_canonical,
    a_version_is_there,
    model_file_is_there,
    backend_is_in_the_embedded_server,
)
