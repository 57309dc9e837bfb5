"""Dictionaries of features in their files: EleutherAI's sparsify, SAELens, and circuit-tracer's two layouts.

The files tell which format it is. Numbers stay in them, mapped, and are converted where they are used.
"""

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tinymi.arrays import Array, is_int
from tinymi.checkpoint.find import files_of
from tinymi.checkpoint.json_object import read_bytes, read_object
from tinymi.checkpoint.mapped_weights import warn_unless_finite
from tinymi.checkpoint.safetensors_file import DTYPES, StoredTensor, as_float, open_file, to_float, write_file
from tinymi.dictionaries import Dictionary
from tinymi.errors import ConfigError, HookError, InputError, SourceError, WeightsError
from tinymi.hooks import hook_points, select
from tinymi.run import Model

import numpy as np
import numpy.typing as npt

_VALID = (
    "a dictionary is a folder with cfg.json and sae.safetensors (sparsify) or sae_weights.safetensors (SAELens), or "
    "has config.yaml and layer_N.safetensors or W_enc_N.safetensors and W_dec_N.safetensors (circuit-tracer)"
)


def load_dictionary(
    source: str | os.PathLike[str],
    model: Model,
    *,
    layer: int | None = None,
    folder: str | None = None,
    revision: str | None = None,
    ignore_config: Iterable[str] = (),
) -> Dictionary:
    """Load a sparse autoencoder or a transcoder that fits the model.

    source: a folder, or the id of a repository on the Hugging Face hub, of which only the files needed are fetched.
    layer: the layer whose dictionary is wanted; it may be left out where the source has only one.
    folder: the name of one, where several fit ("layers.10.mlp"), or where it is deeper than in a folder of the source.
    ignore_config: fields of cfg.json to pass over although they are not known here.

    Raises a TinymiError: SourceError, ConfigError, WeightsError, or InputError for a layer that the model has not.
    """
    n_layers = model.config.n_layers
    if layer is not None and (not is_int(layer) or not 0 <= layer < n_layers):
        raise InputError(f"layer: {layer!r}, but the model has layers 0 to {n_layers - 1}; give one of them")

    def choose(names: set[str]) -> list[str]:
        return _choose(names, str(source), layer, folder)

    root = files_of(source, choose, revision=revision)
    names = choose({file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()})
    weights = {path: tensor for name in names if name.endswith(".safetensors") for path, tensor in _open(root / name)}
    reader = _Reader(root / names[-1], weights, model, frozenset(ignore_config))
    match PurePosixPath(names[-1]).name:
        case "sae.safetensors":
            name = (
                (root / names[-1]).resolve().parent.name
                if "/" not in names[-1]
                else PurePosixPath(names[-1]).parent.name
            )
            dictionary = _sparsify(reader, read_config(root / names[0]), name)
        case "sae_weights.safetensors":
            dictionary = _saelens(reader, read_config(root / names[0]))
        case _:
            dictionary = _circuit_tracer(reader, _read_yaml(root / names[0]), _layer_in(names[-1]))
    own = _layer_of(dictionary.reads)
    if layer is not None and own != layer:
        raise InputError(f"layer: {layer}, but {root / names[-1]} is for {dictionary.reads}; leave layer out")
    return dictionary


# --- which files -------------------------------------------------------------------------------------------------


def _choose(names: set[str], source: str, layer: int | None, folder: str | None) -> list[str]:
    """Config first, the decoder's file last. Raises SourceError where not exactly one dictionary fits."""
    everywhere = _dictionaries_among(names, folder)
    found = {key: files for key, files in everywhere.items() if folder is not None or files[-1].count("/") <= 1}
    if everywhere and not found:
        deep = sorted({str(PurePosixPath(files[-1]).parent) for files in everywhere.values()})
        raise SourceError(
            f"{source}: holds no dictionary in itself or in a folder such as layers.10, where the formats have theirs; "
            f"deeper down are {', '.join(deep[:6])}: give one of these as folder="
        )
    fitting = [key for key in found if layer is None or key == "." or folder is not None or layer in _numbers(key)]
    if layer is not None and (exact := [key for key in fitting if _layer_in(found[key][-1]) == layer]):
        fitting = exact
    if len(fitting) == 1:
        return found[fitting[0]]
    where = "" if layer is None else f" for layer {layer}"
    if not found:
        raise SourceError(f"{source}: holds no dictionary{'' if folder is None else f' in {folder}'}; {_VALID}")
    listed = ", ".join((fitting or list(found))[:6])
    raise SourceError(
        f"{source}: holds {len(fitting) or 'no'} dictionar{'y' if not fitting else 'ies'}{where} among {len(found)}; "
        f"give layer= or folder=, of {listed}"
    )


def _dictionaries_among(names: set[str], folder: str | None) -> dict[str, list[str]]:
    """The files of each dictionary, by its folder; by its last file where a folder has one for each layer."""
    found = {}
    for name in sorted(names):
        path = PurePosixPath(name)
        if folder is not None and path.parent.as_posix() != folder.rstrip("/"):
            continue
        cfg, yaml = str(path.with_name("cfg.json")), str(path.with_name("config.yaml"))
        encoder = str(path.with_name(path.name.replace("W_dec", "W_enc")))
        if path.name in ("sae.safetensors", "sae_weights.safetensors") and cfg in names:
            found[path.parent.as_posix()] = [cfg, name]
        elif re.fullmatch(r"layer_\d+\.safetensors", path.name) and yaml in names:
            found[name] = [yaml, name]
        elif re.fullmatch(r"W_dec_\d+\.safetensors", path.name) and {yaml, encoder} <= names:
            found[name] = [yaml, encoder, name]
    return found


def _numbers(name: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", name)]


def _layer_in(name: str) -> int | None:
    """The N of layer_N.safetensors and W_dec_N.safetensors."""
    match = re.fullmatch(r"(?:layer|W_dec)_(\d{1,6})\.safetensors", PurePosixPath(name).name)
    return int(match[1]) if match else None


def _layer_of(point: str) -> int | None:
    match = re.match(r"blocks\.(\d+)\.", point)
    return int(match[1]) if match else None


def _open(path: Path) -> Iterable[tuple[str, StoredTensor]]:
    return open_file(path).items()


def read_config(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except ValueError as error:
        raise ConfigError(f"{path}: cannot be read: {error}; get the file again from where it comes from") from None


def _read_yaml(path: Path) -> dict[str, str]:
    """The lines `key: value` of a flat YAML file; lists and what is nested below a key are left out."""
    try:
        text = read_bytes(path).decode("utf-8")
    except (ValueError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}; get the file again from where it comes from") from None
    pairs = re.findall(r"^(\w+):[ \t]*[\"']?([^\"'#\r\n]*?)[\"']?[ \t]*(?:#.*)?$", text, flags=re.MULTILINE)
    return dict(pairs)


# --- tensors -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MappedRows:
    """Numbers in their file, of which each use converts what it takes."""

    name: str
    values: npt.NDArray[Any]
    stored_as: str
    dtype: npt.DTypeLike

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def __getitem__(self, index: Any, /) -> Array:
        converted = to_float(self.values[index], self.stored_as, self.dtype)
        warn_unless_finite(self.name, converted)
        return converted


@dataclass(frozen=True)
class _Reader:
    """The tensors of a dictionary, checked as they are asked for."""

    path: Path
    weights: Mapping[str, StoredTensor]
    model: Model
    ignore: frozenset[str]

    def tensor(self, name: str, *shapes: tuple[int, ...]) -> StoredTensor:
        if name not in self.weights:
            raise WeightsError(f"{self.path}: has no tensor {name}; it has {', '.join(sorted(self.weights)[:12])}")
        tensor = self.weights[name]
        if tensor.dtype not in DTYPES or tensor.shape not in shapes:
            wanted = " or ".join(str(list(shape)) for shape in shapes)
            raise WeightsError(
                f"{self.path}: tensor {name} is {tensor.dtype} {list(tensor.shape)}, but the model and its other "
                f"tensors ask for floats {wanted}; take a dictionary that was trained for this model"
            )
        return tensor

    def array(self, name: str, *shape: int) -> Array:
        values = as_float(self.tensor(name, shape), self.model.weights.dtype)
        warn_unless_finite(name, values)
        return values

    def rows(self, name: str, *shape: int, turned: bool = False) -> MappedRows:
        """A tensor of this shape; `turned`: stored as its transpose."""
        tensor = self.tensor(name, shape[::-1] if turned else shape)
        values = tensor.values.T if turned else tensor.values
        return MappedRows(name, values, tensor.dtype, self.model.weights.dtype)

    def n_features(self, bias: str) -> int:
        if bias not in self.weights or len(self.weights[bias].shape) != 1 or not self.weights[bias].shape[0]:
            raise WeightsError(f"{self.path}: has no tensor {bias} [n_features]; {_VALID}")
        return self.weights[bias].shape[0]

    def check_names(self, known: Collection[str]) -> None:
        if unknown := sorted(set(self.weights) - set(known)):
            raise WeightsError(f"{self.path}: tensor {unknown[0]} is not known here, and may change the numbers")

    def point(self, name: object) -> str:
        """Our name of a hook point that this model has, and that has one vector per position."""
        try:
            (hook,) = select([str(name)], hook_points(range(self.model.config.n_layers)))
        except HookError as error:
            raise ConfigError(f"{self.path}: is for another model or point: {error}") from None
        if hook.point.axes[:2] != ("batch", "pos") or hook.point.axes[2:] not in (("d_model",), ("d_mlp",)):
            raise ConfigError(f"{self.path}: {hook.name} has the axes {' '.join(hook.point.axes)}, not one vector each")
        return hook.name

    def input(self, name: str) -> tuple[str, Array | None]:
        """The point that is read, and by what its value is multiplied: an MLP's input has its norm's weight in it."""
        match = re.fullmatch(r"blocks\.(\d{1,6})\.(?:mlp\.hook_in|hook_mlp_in)", name)
        if match is None:
            return self.point(name), None
        reads = self.point(f"blocks.{match[1]}.ln2.hook_normalized")
        return reads, self.model.weights.blocks[int(match[1])].ln2

    def width(self, point: str) -> int:
        config = self.model.config
        return config.d_mlp if point.rpartition("hook_")[2] in ("pre", "pre_linear", "post") else config.d_model

    def check_fields(self, config: Mapping[str, Any], known: Mapping[str, Callable[[Any], bool] | None]) -> None:
        """Refuse a field that is not known, or whose value asks for what is not done here."""
        for name, value in config.items():
            test = known.get(name, lambda _: False)
            if name not in self.ignore and test is not None and not test(value):
                reason = "asks for what is not implemented" if name in known else "is not known, and may change numbers"
                raise ConfigError(
                    f"{self.path.parent / 'cfg.json'}: {name}: {value!r} {reason}; use another dictionary, or pass "
                    f'over it with ignore_config=["{name}"]'
                )


def _is_off(value: Any) -> bool:
    return value in (None, False, "none")


def _positive(reader: _Reader, config: Mapping[str, Any], name: str, most: int) -> int:
    value: Any = config.get(name)
    if not is_int(value) or not 1 <= value <= most:
        raise ConfigError(f"{reader.path.parent / 'cfg.json'}: {name}: {value!r}; 1 to {most:,} would be valid")
    return int(value)


# --- the formats -------------------------------------------------------------------------------------------------

_SPARSIFY: dict[str, Callable[[Any], bool] | None] = {
    "activation": lambda value: value in ("topk", "groupmax"),
    "signed": _is_off,
} | dict.fromkeys(
    ("d_in", "num_latents", "expansion_factor", "k", "normalize_decoder", "multi_topk", "skip_connection", "transcode")
)
_MODULES = {"": "hook_resid_post", ".mlp": "hook_mlp_out", ".self_attn": "hook_attn_out", ".attn": "hook_attn_out"}


def _sparsify(reader: _Reader, config: Mapping[str, Any], name: str) -> Dictionary:
    """name: of its folder, which is the module's: "layers.10" or "layers.10.mlp"."""
    reader.check_fields(config, _SPARSIFY)
    match = re.fullmatch(r"(?:model\.)?layers\.(\d+)(\.mlp|\.self_attn|\.attn|)", name)
    if match is None:
        raise SourceError(
            f"{reader.path}: its folder is called {name!r}; layers.10 or layers.10.mlp would say its place"
        )
    layer, module = int(match[1]), match[2]
    writes = reader.point(f"blocks.{layer}.{_MODULES[module]}")
    reads, norm_weight, transcode = writes, None, bool(config.get("transcode"))
    if transcode:
        if module != ".mlp":
            raise ConfigError(f"{reader.path}: transcode of {name}, but only an MLP's is implemented")
        reads, norm_weight = reader.input(f"blocks.{layer}.mlp.hook_in")
    n, d = reader.n_features("encoder.bias"), reader.width(writes)
    skip = bool(config.get("skip_connection"))
    reader.check_names(["encoder.weight", "encoder.bias", "W_dec", "b_dec", *(["W_skip"] if skip else [])])
    k, grouped = _positive(reader, config, "k", n), config.get("activation") == "groupmax"
    if grouped and n % k:
        raise ConfigError(f"{reader.path}: groupmax of {n} features in {k} groups; the groups must be equally large")
    return Dictionary(
        reads,
        (writes,),
        reader.rows("encoder.weight", n, d),
        reader.array("encoder.bias", n),
        reader.rows("W_dec", n, d),
        b_dec := reader.array("b_dec", d),
        b_in=None if transcode else b_dec,
        k=k,
        grouped=grouped,
        W_skip=reader.array("W_skip", d, d).T if skip else None,
        norm_weight=norm_weight,
    )


_ACTIVATIONS = {"standard": "relu", "jumprelu": "relu", "topk": "topk"} | dict.fromkeys(
    ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"), "relu"
)
_SAELENS: dict[str, Callable[[Any], bool] | None] = {
    "architecture": lambda value: value in _ACTIVATIONS,
    "activation_fn": lambda value: value in ("relu", "topk"),
    "activation_fn_str": lambda value: value in ("relu", "topk"),
    "normalize_activations": _is_off,
    "reshape_activations": _is_off,
    "rescale_acts_by_decoder_norm": _is_off,
    "finetuning_scaling_factor": _is_off,
    "hook_head_index": _is_off,
    "hook_head_index_out": _is_off,
} | dict.fromkeys(
    (
        *("d_in", "d_sae", "k", "activation_fn_kwargs", "apply_b_dec_to_input", "hook_name", "hook_layer", "metadata"),
        *("d_out", "hook_name_out", "hook_layer_out"),
        *("dtype", "device", "model_name", "model_class_name", "model_from_pretrained_kwargs", "prepend_bos"),
        *("context_size", "dataset_path", "dataset_trust_remote_code", "sae_lens_training_version", "neuronpedia_id"),
        *("sae_lens_version", "seqpos_slice"),
    )
)


def _saelens(reader: _Reader, config: Mapping[str, Any]) -> Dictionary:
    reader.check_fields(config, _SAELENS)
    metadata = config.get("metadata")
    fields = (metadata if isinstance(metadata, dict) else {}) | dict(config)
    architecture = config.get("architecture", "standard")
    transcodes = str(architecture).endswith("transcoder")
    reads, norm_weight = reader.input(str(fields.get("hook_name")))
    writes = reader.point(fields.get("hook_name_out")) if transcodes else reads
    activation = config.get("activation_fn_str", config.get("activation_fn", _ACTIVATIONS[architecture]))
    n, d, d_out = reader.n_features("b_enc"), reader.width(reads), reader.width(writes)
    extra = [name for name, word in (("threshold", "jumprelu"), ("W_skip", "skip")) if word in architecture]
    reader.check_names(["W_enc", "b_enc", "W_dec", "b_dec", *extra])
    options = config.get("activation_fn_kwargs")
    k = {"k": config.get("k", options.get("k") if isinstance(options, dict) else None)}
    b_dec = reader.array("b_dec", d_out)
    return Dictionary(
        reads,
        (writes,),
        reader.rows("W_enc", n, d, turned=True),
        reader.array("b_enc", n),
        reader.rows("W_dec", n, d_out),
        b_dec,
        b_in=b_dec if not transcodes and config.get("apply_b_dec_to_input", True) else None,
        threshold=reader.array("threshold", n) if "threshold" in extra else None,
        k=_positive(reader, k, "k", n) if activation == "topk" else None,
        W_skip=reader.array("W_skip", d_out, d).T if "W_skip" in extra else None,
        norm_weight=norm_weight,
    )


def _circuit_tracer(reader: _Reader, config: Mapping[str, str], layer: int | None) -> Dictionary:
    """One layer of a set of transcoders, or of a cross-layer transcoder, whose tensors' names end in the layer."""
    n_layers = reader.model.config.n_layers
    if layer is None or layer >= n_layers:
        raise InputError(f"{reader.path}: is for layer {layer}, but the model has layers 0 to {n_layers - 1}")
    reads, norm_weight = reader.input(f"blocks.{layer}.{config.get('feature_input_hook')}")
    first = reader.point(f"blocks.{layer}.{config.get('feature_output_hook')}")
    crosses = reader.path.name.startswith("W_dec")
    end = f"_{layer}" if crosses else ""
    n, d, d_out = reader.n_features(f"b_enc{end}"), reader.width(reads), reader.width(first)
    threshold = f"threshold{end}" if crosses else "activation_function.threshold"
    known = [f"{name}{end}" for name in ("W_enc", "b_enc", "W_dec", "b_dec")]
    reader.check_names([*known, threshold, *([] if crosses else ["W_skip"])])
    writes: tuple[str, ...] = (first,)
    shape: tuple[int, ...] = (n, d_out)
    if crosses:
        writes = tuple(first.replace(f".{layer}.", f".{i}.", 1) for i in range(layer, n_layers))
        shape = (n, len(writes), d_out)
    stored = reader.tensor(f"W_dec{end}", shape, *([] if crosses else [shape[::-1]]))
    return Dictionary(
        reads,
        writes,
        reader.rows(f"W_enc{end}", n, d),
        reader.array(f"b_enc{end}", n),
        reader.rows(f"W_dec{end}", *shape, turned=stored.shape != shape),
        reader.array(f"b_dec{end}", d_out),
        threshold=reader.array(threshold, n) if threshold in reader.weights else None,
        W_skip=reader.array("W_skip", d_out, d).T if "W_skip" in reader.weights else None,
        norm_weight=norm_weight,
    )


def save_dictionary(dictionary: Dictionary, folder: str | os.PathLike[str]) -> None:
    """Write an SAE or a transcoder as SAELens does, so that SAELens and `load_dictionary` can read it.

    Raises InputError for what SAELens has no format for: features that write to several layers, groups, and a TopK
    transcoder.
    """
    transcodes = dictionary.writes != (dictionary.reads,)
    for problem, applies in _unsaved(dictionary, transcodes).items():
        if applies:
            raise InputError(f"save_dictionary: {problem}, for which SAELens has no format")
    weight = 1.0 if dictionary.norm_weight is None else dictionary.norm_weight[:, None]
    tensors = {
        "W_enc": dictionary.W_enc * weight,
        "b_enc": dictionary.b_enc,
        "W_dec": dictionary.W_dec,
        "b_dec": dictionary.b_dec,
    }
    if dictionary.W_skip is not None:
        tensors["W_skip"] = (dictionary.W_skip * weight).T
    if dictionary.threshold is not None:
        tensors["threshold"] = dictionary.threshold
    parts = {"jumprelu": "threshold" in tensors, "skip": "W_skip" in tensors, "transcoder": transcodes}
    parts["topk"] = dictionary.k is not None
    config: dict[str, Any] = {
        "architecture": "_".join(name for name, applies in parts.items() if applies) or "standard",
        "d_in": tensors["W_enc"].shape[0],
        "d_sae": dictionary.n_features,
        "dtype": str(dictionary.b_enc.dtype),
        "device": "cpu",
        "apply_b_dec_to_input": dictionary.b_in is not None,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"hook_name": dictionary.reads},
    }
    if transcodes:
        config["d_out"] = tensors["W_dec"].shape[1]
        config["metadata"]["hook_name_out"] = dictionary.writes[0]
    if dictionary.k is not None:
        config |= {"k": dictionary.k, "rescale_acts_by_decoder_norm": False}
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    shapes = {name: values.shape for name, values in tensors.items()}
    write_file(place / "sae_weights.safetensors", shapes, tensors.values(), dictionary.b_enc.dtype)
    (place / "cfg.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _unsaved(dictionary: Dictionary, transcodes: bool) -> dict[str, bool]:
    """What stands in the way of saving it, and whether it does."""
    b_in = dictionary.b_in
    return {
        f"its features write to {len(dictionary.writes)} layers": len(dictionary.writes) > 1,
        "it takes the largest feature of each group": dictionary.grouped,
        "it has both a threshold and k": dictionary.threshold is not None and dictionary.k is not None,
        "it is a transcoder with k": transcodes and dictionary.k is not None,
        "it is an SAE with W_skip": not transcodes and dictionary.W_skip is not None,
        "it takes off b_in, which is not its b_dec": b_in is not None
        and (transcodes or not np.array_equal(b_in, dictionary.b_dec)),
    }
