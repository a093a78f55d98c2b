"""Experiments of DeepSDF (Park et al. 2019): read as runs, and written from them.

An experiment is a folder with specs.json, ModelParameters/CHECKPOINT.pth = {epoch, model_state_dict} and
LatentCodes/CHECKPOINT.pth = {epoch, latent_codes}.
"""

import io
import math
import warnings
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import vector_norm

import neuralfield.files as files
from neuralfield.decoders.concat import Concat
from neuralfield.errors import NeuralfieldError, NeuralfieldWarning
from neuralfield.likelihoods import Bernoulli
from neuralfield.recipe import Recipe, build
from neuralfield.run import Run
from neuralfield.seeds import generator
from neuralfield.signals.deepsdf import Instance, frame_of, ids_of, read_split
from neuralfield.signals.labels import numbered
from neuralfield.signals.roster import Roster

ARCHITECTURE = "deep_sdf_decoder"
NETWORK = {"dims", "dropout", "dropout_prob", "norm_layers", "latent_in", "weight_norm"}
"""What is understood of NetworkSpecs."""
MODEL, CODES = "ModelParameters", "LatentCodes"
INFERENCE = ("kind=levenberg", "steps=60", "tolerance=1e-3", "batch=16", "points=2048", "start=mean", "prior=gaussian")
"""How an imported run searches: with what can be learned from codes alone. On 4 shapes it took a twentieth of the time of DeepSDF's
800 steps, to the same error."""


def read_experiment(folder: Path, checkpoint: str = "latest") -> Run:
    """The run whose field is the experiment's decoder, and whose bank are its codes; loading runs no code of the files.

    Ids, labels and frames come from its TrainSplit and DataSource where these are found: beside specs.json, from here, or from one
    of the folders that it lies in. Else shapes are numbered. What a network has that `Concat` has not is refused by name.
    """
    specs = _specs(folder / "specs.json")
    file = folder / MODEL / f"{checkpoint}.pth"
    network, codes = _loaded(file, "model_state_dict"), _codes(folder / CODES / f"{checkpoint}.pth", specs["CodeLength"])
    try:
        recipe = Recipe.load("deepsdf", _settings(specs, folder / "specs.json"))
        recipe.signals = None
        model = build(recipe, len(codes))
    except NeuralfieldError as error:
        raise NeuralfieldError(f"{folder / 'specs.json'} describes no network of ours: {error}") from error
    assert isinstance(model.decoder, Concat)
    files.restore(model.decoder, _ours(model.decoder, _tensors(network, file), file), file)
    files.restore(model.source, {"codes": codes}, folder / CODES)
    epochs = int(_number(network, "epoch", 0.0, file))
    run = Run(recipe, model, _roster(folder, specs, len(codes)), {"signals": len(codes), "epochs": epochs})
    run.prepare(None, generator(0))
    return run


def write_experiment(run: Run, folder: Path) -> None:
    """specs.json, ModelParameters/latest.pth and LatentCodes/latest.pth, which DeepSDF's own programs read.

    A run whose field is not that of its network is refused by name. Frames, and the state of the optimiser, have no place there.
    """
    if (folder / "specs.json").exists():
        raise NeuralfieldError(f"{folder} holds an experiment; choose another --out")
    decoder = _checked(run)
    epoch = int(run.facts.get("epochs", 0))
    _save(folder / MODEL / "latest.pth", {"epoch": epoch, "model_state_dict": _theirs(decoder)})
    _save(folder / CODES / "latest.pth", {"epoch": epoch, "latent_codes": {"weight": run.codes.cpu().clone()}})
    files.write_json(folder / "train.json", {"neuralfield": {"shapes": list(run.ids)}})
    files.write_json(folder / "specs.json", _described(run, decoder, folder))


# reading


def _specs(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise NeuralfieldError(f"{file.parent} is no experiment of DeepSDF: it has no {file.name}")
    specs = files.read_json(file)
    kinds = {"NetworkArch": str, "NetworkSpecs": dict, "CodeLength": int}
    for key, kind in kinds.items():
        if not isinstance(specs, dict) or not isinstance(specs.get(key), kind):
            raise NeuralfieldError(f"{file} is no description of an experiment: it has no {key}")
    if specs["NetworkArch"] != ARCHITECTURE:
        raise NeuralfieldError(f'{file}: NetworkArch "{specs["NetworkArch"]}" is not supported, only "{ARCHITECTURE}"')
    return specs


def _settings(specs: dict[str, Any], file: Path) -> list[str]:
    """What the recipe `deepsdf` must be set to for these specs."""
    length = specs["CodeLength"]
    tables: dict[str, dict[str, Any]] = {
        "domain": {"dims": 3, "even": 0},
        "decoder": _decoder(specs["NetworkSpecs"], file),
        "latents": {
            "code_dim": length,
            "std": _number(specs, "CodeInitStdDev", 1.0, file) / math.sqrt(max(1, length)),
            "bound": specs.get("CodeBound"),
        },
        "likelihood": {"clamp": specs.get("ClampingDistance", 0.1)},
    }
    settings = [f"{table}.{key}={_word(value)}" for table, keys in tables.items() for key, value in keys.items()]
    return [*settings, *(f"inference.{setting}" for setting in INFERENCE)]


def _word(value: Any) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _decoder(network: dict[str, Any], file: Path) -> dict[str, Any]:
    """Arguments of `Concat`; what it has not is refused by name."""
    for key in sorted(network.keys() - NETWORK):
        if network[key]:
            raise NeuralfieldError(f"{file}: NetworkSpecs.{key} = {network[key]!r} is not supported")
    widths, entering = _numbers(network, "dims", file), _numbers(network, "latent_in", file)
    normed, dropped = _numbers(network, "norm_layers", file), _numbers(network, "dropout", file)
    hidden = set(range(len(widths)))
    if len(set(widths)) != 1:
        raise NeuralfieldError(f"{file}: NetworkSpecs.dims = {widths} is not supported; layers must have one width")
    if len(entering) > 1:
        raise NeuralfieldError(f"{file}: NetworkSpecs.latent_in = {entering} is not supported; at most one layer can be named")
    if normed and not network.get("weight_norm"):
        raise NeuralfieldError(f"{file}: NetworkSpecs.norm_layers without weight_norm means LayerNorm, which is not supported")
    share = _number(network, "dropout_prob", 0.0, file) if dropped else 0.0
    if share and not hidden <= set(dropped):
        share = 0.0
        message = f"{file}: dropout after some layers alone is left out; it changes no value, only how training would go on"
        warnings.warn(message, NeuralfieldWarning, stacklevel=2)
    return {
        "width": widths[0],
        "depth": len(widths),
        "skip": entering[0] if entering else None,
        "weight_norm": hidden <= set(normed),  # where only some layers have it, weights are taken as they come out
        "dropout": share,
    }


def _number(held: dict[str, Any], key: str, otherwise: float, file: Path) -> float:
    """A number of specs.json, or `otherwise` where it is not there."""
    value = held.get(key, otherwise)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise NeuralfieldError(f"{file}: {key} must be a number, got {value!r}")
    return float(value)


def _numbers(network: dict[str, Any], key: str, file: Path) -> list[int]:
    """A list of whole numbers in NetworkSpecs; one that is not there is empty."""
    held = network.get(key) or []
    if not isinstance(held, list) or not all(isinstance(number, int) for number in held):
        raise NeuralfieldError(f"{file}: NetworkSpecs.{key} must be a list of whole numbers, got {held!r}")
    return held


def _loaded(file: Path, key: str) -> dict[str, Any]:
    """What torch.save wrote, read without running anything."""
    try:
        with warnings.catch_warnings(action="ignore"):  # what torch says of files that are none is said below
            held = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        there = ", ".join(sorted(other.stem for other in file.parent.glob("*.pth"))) or "none"
        raise NeuralfieldError(f"there is no {file}; checkpoints that are there: {there}") from None
    except Exception as error:  # torch meets damaged files with many kinds
        what = "is damaged, or holds more than tensors: it is not loaded, as that might run code"
        raise NeuralfieldError(f"{file} {what}") from error
    if not isinstance(held, dict) or key not in held:
        raise NeuralfieldError(f"{file} is no checkpoint of DeepSDF: it holds no {key}")
    return held


def _tensors(network: dict[str, Any], file: Path) -> dict[str, Tensor]:
    """The state of a network, whose keys may begin with "module."."""
    held = network["model_state_dict"]
    if not isinstance(held, dict) or not all(isinstance(key, str) for key in held):
        raise NeuralfieldError(f"{file}: model_state_dict must hold tensors by name, got {type(held).__name__}")
    for key, value in held.items():
        if not isinstance(value, Tensor) or value.ndim != (1 if key.endswith(".bias") else 2):
            what = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise NeuralfieldError(f"{file}: {key} must be a {'vector' if key.endswith('.bias') else 'matrix'}, got {what}")
        if key.endswith(".weight_g") and value.shape[1] != 1:
            raise NeuralfieldError(f"{file}: {key} must be [n, 1], got {list(value.shape)}")
    return {key.removeprefix("module."): value.detach().float() for key, value in held.items()}


def _codes(file: Path, length: int) -> Float[Tensor, "n D"]:
    """Both forms that DeepSDF ever wrote: an embedding's state, or a tensor [n, 1, D]; also [n, D]."""
    held = _loaded(file, "latent_codes")["latent_codes"]
    codes = held.get("weight") if isinstance(held, dict) else held
    if isinstance(codes, Tensor) and codes.ndim == 3 and codes.shape[1] == 1:
        codes = codes[:, 0]
    if not isinstance(codes, Tensor) or codes.ndim != 2 or not len(codes) or codes.shape[1] != length:
        what = list(codes.shape) if isinstance(codes, Tensor) else type(held).__name__
        raise NeuralfieldError(f"{file}: latent_codes must be [n, {length}], as CodeLength says, got {what}")
    if not codes.isfinite().all():
        raise NeuralfieldError(f"{file}: latent_codes are not all finite")
    return codes.detach().float()


def _ours(decoder: Concat, theirs: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The decoder's state from that of DeepSDF's."""
    rest = dict(theirs)

    def take(key: str) -> Tensor:
        if key not in rest:
            raise NeuralfieldError(f"{file} does not fit specs.json: it holds no {key}")
        return rest.pop(key)

    ours = {"features.frequencies": decoder.features.frequencies}
    for layer, name in enumerate([*(f"layers.{i}" for i in range(len(decoder.layers))), "out"]):
        lin = f"lin{layer}"
        ours[f"{name}.bias"] = take(f"{lin}.bias")
        if f"{lin}.weight" in rest:
            length, direction = None, take(f"{lin}.weight")
        else:
            length, direction = take(f"{lin}.weight_g"), take(f"{lin}.weight_v")
            if len(length) != len(direction):
                raise NeuralfieldError(f"{file}: {lin}.weight_g and {lin}.weight_v must have a row each for every unit")
        if decoder.weight_norm and name != "out":
            ours[f"{name}.parametrizations.weight.original0"] = _lengths(direction) if length is None else length
            ours[f"{name}.parametrizations.weight.original1"] = direction
        else:
            ours[f"{name}.weight"] = direction if length is None else direction * (length / _lengths(direction))
    if rest:
        raise NeuralfieldError(f"{file} does not fit specs.json: nothing there says what {min(rest)} is")
    return ours


def _lengths(direction: Float[Tensor, "o i"]) -> Float[Tensor, "o 1"]:
    return vector_norm(direction, dim=1, keepdim=True)


def _roster(folder: Path, specs: dict[str, Any], count: int) -> Roster:
    split = _found(folder, specs.get("TrainSplit"))
    instances = read_split(split) if split is not None else []
    if len(instances) != count:
        if instances:
            message = f"{split} names {len(instances)} shapes, but there are {count} codes: these are numbered"
            warnings.warn(message, NeuralfieldWarning, stacklevel=2)
        return Roster([str(i) for i in range(count)])
    classes = [one.category for one in instances]
    return Roster(ids_of(instances), torch.from_numpy(numbered(classes, classes)), _frames(folder, specs, instances))


def _frames(folder: Path, specs: dict[str, Any], instances: list[Instance]) -> Float[Tensor, "n 4"] | None:
    root = _found(folder, specs.get("DataSource"))
    return None if root is None else torch.tensor([frame_of(root, one) for one in instances], dtype=torch.float64)


def _found(folder: Path, named: Any) -> Path | None:
    """A path of specs.json, which is relative to where the programs ran."""
    if not isinstance(named, str) or not named:
        return None
    places = [folder / named, folder / Path(named).name, Path(named), *(above / named for above in folder.resolve().parents)]
    return next((place for place in places if place.exists()), None)


# writing


def _checked(run: Run) -> Concat:
    """The decoder, where it is DeepSDF's."""
    decoder, recipe = run.decoder, run.recipe
    if recipe.domain.kind != "shape" or run.domain.coord_dim != 3:
        raise NeuralfieldError("DeepSDF's network is of shapes in three dimensions, and this run is not")
    if not isinstance(decoder, Concat):
        raise NeuralfieldError(f'DeepSDF\'s network is a decoder of kind "concat", and this run has "{recipe.decoder.kind}"')
    wanted = {"bounded": True, "activation": "relu", "frequencies": 0}
    for key, value in wanted.items():
        if (have := recipe.decoder.arguments.get(key)) != value:
            raise NeuralfieldError(f"DeepSDF's network has decoder.{key} = {value}, and this run has {have}")
    if isinstance(run.model.objective.likelihood, Bernoulli):
        raise NeuralfieldError("the field of this run is a sigmoid of its network, and DeepSDF's is the network itself")
    return decoder


def _theirs(decoder: Concat) -> dict[str, Tensor]:
    state, theirs = decoder.state_dict(), {}
    for layer, name in enumerate([*(f"layers.{i}" for i in range(len(decoder.layers))), "out"]):
        for key, ours in (
            ("bias", "bias"),
            ("weight", "weight"),
            ("weight_g", "parametrizations.weight.original0"),
            ("weight_v", "parametrizations.weight.original1"),
        ):
            if (tensor := state.get(f"{name}.{ours}")) is not None:
                theirs[f"module.lin{layer}.{key}"] = tensor.cpu().clone()
    return theirs


def _described(run: Run, decoder: Concat, folder: Path) -> dict[str, Any]:
    """specs.json."""
    training, arguments = run.recipe.training, run.recipe.decoder.arguments
    hidden, skip = list(range(len(decoder.layers))), arguments["skip"]
    factor = 0.5 if training.decay == "halving" else 1.0
    likelihood = run.recipe.likelihood.arguments if run.recipe.likelihood else {}
    network = {
        "dims": [arguments["width"]] * len(hidden),
        "dropout": hidden,
        "dropout_prob": decoder.dropout,
        "norm_layers": hidden if decoder.weight_norm else [],
        "latent_in": [] if skip is None else [skip],
        "xyz_in_all": False,
        "use_tanh": False,
        "latent_dropout": False,
        "weight_norm": decoder.weight_norm,
    }
    return {
        "Description": [run.recipe.description],
        "DataSource": "data",
        "TrainSplit": str(folder / "train.json"),
        "TestSplit": str(folder / "train.json"),
        "NetworkArch": ARCHITECTURE,
        "NetworkSpecs": network,
        "CodeLength": run.codes.shape[1],
        "NumEpochs": training.epochs or int(run.facts.get("epochs", 0)),
        "SnapshotFrequency": 1000,
        "AdditionalSnapshots": [],
        "LearningRateSchedule": [
            {"Type": "Step", "Initial": rate, "Interval": training.halve_every, "Factor": factor}
            for rate in (training.decoder_rate, training.latent_rate)
        ],
        "SamplesPerScene": training.points or 16384,
        "ScenesPerBatch": training.batch,
        "ClampingDistance": likelihood.get("clamp", 0.1),
        "CodeRegularization": True,
        "CodeRegularizationLambda": 1e-4,
        "CodeBound": run.recipe.latents.arguments.get("bound"),
    }


def _save(file: Path, content: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    files.write_bytes(file, buffer.getvalue())
