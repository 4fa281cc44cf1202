"""Routes: the variants that a router may call, and cycles of calls between models.

Source of the rules: this project's router backend, which reads ``route.json`` of each version.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from trireme_backends.errors import FileError
from trireme_backends.routing.pins import VERSION_STEP, VersionStepError, version_step
from trireme_backends.routing.route import Route, load_route

from trireme.lint.finding import Complaint, did_you_mean, error, warning
from trireme.lint.subject import Rule, Subject

_BACKEND = "router"
_FILENAME = "route.json"
# Outputs that the router adds to a variant's response.
_ROUTER_OUTPUTS = {"VARIANT", "VARIANT_VERSION", "ROUTE_REASON"}
_CYCLE_FIX = "remove one of the calls"


def route_file_is_well_formed(subject: Subject) -> Iterator[Complaint]:
    """The ``route.json`` of every version of a router is valid for the router backend."""
    for file in _route_files(subject, subject.config.name):
        if not file.is_file():
            # model_file_is_there reports it.
            continue
        try:
            load_route(file)
        except FileError as fault:
            yield error(fault.detail, "see docs/routing.md for the keys", file=file)


def routed_variants_exist(subject: Subject) -> Iterator[Complaint]:
    """The variants of a route exist in the repository; the router falls back from a missing one."""
    for file, route in _routes(subject, subject.config.name):
        for variant in route.variants:
            if variant.name not in subject.repository:
                fix = did_you_mean(variant.name, subject.repository)
                yield warning(f"variant '{variant.name}' is not in the repository", fix, file=file)


def routed_variants_fit(subject: Subject) -> Iterator[Complaint]:
    """A variant has the tensors of its route, with the same data types; a streamed variant is decoupled."""
    config = subject.config
    for file, route in _routes(subject, config.name):
        for variant in route.variants:
            called = subject.neighbours.get(variant.name)
            if called is None:
                continue
            if route.streams:
                if not called.is_decoupled:
                    fix = f"set model_transaction_policy {{ decoupled: true }} in {called.path}, or remove the variant"
                    yield error(f"the route streams, but variant '{variant.name}' is not decoupled", fix, file=file)
                continue
            for kind, required, declared in (
                ("input", config.inputs, called.inputs),
                ("output", [o for o in config.outputs if o.name not in _ROUTER_OUTPUTS], called.outputs),
            ):
                datatypes = {tensor.name: tensor.datatype for tensor in declared}
                for tensor in required:
                    datatype = datatypes.get(tensor.name, "missing")
                    if datatype != tensor.datatype and not (tensor.optional and datatype == "missing"):
                        yield error(
                            f"{kind} '{tensor.name}' is {tensor.datatype} in the route, but {datatype} in variant "
                            f"'{variant.name}'",
                            f"declare the route's tensors in {called.path}, or remove the variant",
                            file=file,
                        )


def version_step_is_known(subject: Subject) -> Iterator[Complaint]:
    """The parameter `version_step` of an ensemble names a step; a variant with several candidates has it."""
    config = subject.config
    if subject.folder is None or not config.steps:
        return
    try:
        version_step(config.message, subject.folder.path.parent)
    except VersionStepError as fault:
        if VERSION_STEP in config.parameters:
            yield error(fault.problem, fault.fix, "parameters", VERSION_STEP)
        elif _is_variant(subject):
            yield warning(f"{fault.problem}, so VARIANT_VERSION is empty", fault.fix, "ensemble_scheduling")


def _is_variant(subject: Subject) -> bool:
    """True if the model has the parameter ``task``, or a route lists it."""
    routes = (route for name in subject.neighbours for _, route in _routes(subject, name))
    names = (variant.name for route in routes for variant in route.variants)
    return "task" in subject.config.parameters or subject.config.name in names


def models_do_not_call_themselves(subject: Subject) -> Iterator[Complaint]:
    """No model calls itself through the steps of ensembles and the variants of routes."""
    cycle = _cycle(subject, [subject.config.name])
    if not cycle:
        return
    problem = f"models call each other in a cycle: {' -> '.join(cycle)}"
    for index, step in enumerate(subject.config.steps):
        if step.model == cycle[1]:
            yield error(problem, _CYCLE_FIX, "ensemble_scheduling", "step", index, "model_name")
            return
    yield error(problem, _CYCLE_FIX, file=next(_route_files(subject, subject.config.name)))


def _cycle(subject: Subject, path: list[str]) -> list[str]:
    """The calls from the first model of ``path`` back to itself; empty without a cycle."""
    for name in _called(subject, path[-1]):
        if name == path[0]:
            return [*path, name]
        if name not in path and (cycle := _cycle(subject, [*path, name])):
            return cycle
    return []


def _called(subject: Subject, name: str) -> Iterator[str]:
    config = subject.neighbours.get(name)
    if config is not None:
        yield from (step.model for step in config.steps)
        for _, route in _routes(subject, name):
            yield from (variant.name for variant in route.variants)


def _routes(subject: Subject, name: str) -> Iterator[tuple[Path, Route]]:
    """The valid routes of a router's versions; route_file_is_well_formed reports the others."""
    for file in _route_files(subject, name):
        try:
            yield file, load_route(file)
        except FileError:
            continue


def _route_files(subject: Subject, name: str) -> Iterator[Path]:
    config, folder = subject.neighbours.get(name), subject.repository.get(name)
    if config is not None and folder is not None and config.backend == _BACKEND:
        for version in config.version_policy.selects(folder.versions()):
            yield folder.version_dir(version) / _FILENAME


RULES: tuple[Rule, ...] = (
    route_file_is_well_formed,
    routed_variants_exist,
    routed_variants_fit,
    version_step_is_known,
    models_do_not_call_themselves,
)
