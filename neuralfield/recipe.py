"""The typed description of a whole model: one TOML table per part, and `build`, which makes the parts.

Each table has `kind` and, beside it, that class's constructor arguments, checked against the constructor's own signature.
"""

import inspect
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

import tomli_w
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from neuralfield.decoders.decoder import Decoder
from neuralfield.domains.domain import Domain
from neuralfield.errors import UsageError
from neuralfield.latents.priors import Prior
from neuralfield.latents.source import LatentSource
from neuralfield.objective import Objective
from neuralfield.registry import nearest, resolve

RECIPES = resources.files("neuralfield") / "recipes"

ROOMS = {
    "domain": "domains",
    "signals": "signals",
    "latents": "latents",
    "decoder": "decoders",
    "measurement": "measurements",
    "likelihood": "likelihoods",
    "prior": "priors",
    "penalty": "penalties",
    "corruption": "corruptions",
    "objective": "objectives",
    "schedule": "schedules",
    "inference": "solvers",
}
"""Where the `kind` of each table is looked up."""

TRAINING_PRIOR = "training"
"""The `inference.prior` that is the prior of the fit itself, not one learned from the bank."""

FILLED_IN = {
    "domain": set(),
    "signals": set(),
    "latents": {"count", "coord_dim", "value_dim", "shape"},
    "decoder": {"coord_dim", "value_dim", "code_dim", "shape", "grid"},
    "measurement": {"coord_dim", "value_dim", "shape"},
    "likelihood": {"value_dim", "shape"},
    "prior": {"code_dim"},
    "penalty": set(),
    "corruption": {"domain"},
    "objective": {"measurement", "likelihood", "prior", "penalty", "corruption"},
    "schedule": set(),
    "inference": set(),
}
"""Constructor arguments that `build` knows from the other parts, so that no recipe may set them."""


class Part(BaseModel):
    """`kind`, and that class's constructor arguments."""

    model_config = ConfigDict(extra="allow")
    kind: str

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor arguments alone."""
        return dict(self.__pydantic_extra__ or {})


class Inference(Part):
    """The solver (`kind`), and what every solver needs beside it.

    A search begins from `starts` codes of each signal, and looks at `points` of its points, drawn at random, or at all; at first,
    with `coarse`, at so many of them, which brings it most of the way for a fraction of the work.
    `samples` are drawn of every completion, for its mean and band, from the `posterior`: "laplace", "randomised" or "langevin".
    """

    kind: str = "adam"
    start: str = "spectral"
    starts: int = Field(default=1, ge=1)
    prior: str = "gaussian"
    posterior: str = "laplace"
    batch: int = Field(default=256, ge=1)
    points: int | None = Field(default=None, ge=1)
    coarse: int | None = Field(default=None, ge=1)
    samples: int = Field(default=0, ge=0)


class Training(BaseModel):
    """How long, how fast, with what. Rates warm up over the share `warmup` of the fit and follow `decay` over the whole.

    `decay` "halving" halves them whenever `halve_every` epochs have begun. The prior's weight grows linearly over the first `ramp`
    epochs. `latent_optimiser` is Adam on the rows of a batch ("rows"), or on the whole bank in every step ("dense"), as DeepSDF's;
    or plain gradient descent ("sgd"), as GLO's.

    A fit ends early where `patience` epochs were no better for the held-out share `validation`, or where in so many epochs a term
    of the loss has not fallen that `plateau` names ("code_length", of the objective "encdec").

    A batch holds so many signals, with all their points or with `points` of them; with `draw` "samples", so many single samples.

    A fit lasts `epochs`, or as many whole epochs as hold `steps`: small data sets are gone over more often. `polish` counts the
    solver's steps on every code at the end; by default about as many as there were epochs, so that it costs about as much.

    `precision` is what the decoder computes in while it trains; "auto" is bfloat16 on a GPU and float32 on a CPU. Losses, codes and
    weights are float32 with either. With `graphs`, steps on an NVIDIA GPU are captured once and replayed.
    """

    model_config = ConfigDict(extra="forbid")
    epochs: int | None = Field(default=None, ge=1)
    steps: int = Field(default=780, ge=0)
    batch: int = Field(default=64, ge=1)
    draw: Literal["signals", "samples"] = "signals"
    points: int | None = Field(default=None, ge=1)
    optimiser: str = "muon"
    decoder_rate: float = Field(default=1e-2, gt=0)
    latent_rate: float = Field(default=3e-2, gt=0)
    warmup: float = Field(default=0.1, ge=0, le=1)
    decay: Literal["cosine", "constant", "halving"] = "cosine"
    halve_every: int = Field(default=500, ge=1)
    ramp: int = Field(default=0, ge=0)
    latent_optimiser: Literal["rows", "dense", "sgd"] = "rows"
    polish: int | None = Field(default=None, ge=0)
    validation: float = Field(default=0.0, ge=0, lt=1)
    patience: int = Field(default=3, ge=1)
    plateau: str | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    graphs: bool = True


class Recipe(BaseModel):
    """A whole model, as data."""

    model_config = ConfigDict(extra="forbid")
    description: str = ""
    domain: Part
    signals: Part | None = None
    latents: Part = Part(kind="bank")
    decoder: Part
    measurement: Part = Part(kind="points")
    likelihood: Part | None = None
    prior: Part = Part(kind="isotropic")
    penalty: Part | None = None
    corruption: Part | None = None
    objective: Part = Part(kind="map")
    schedule: Part = Part(kind="joint")
    training: Training = Training()
    inference: Inference = Inference()

    @classmethod
    def load(cls, name: str | Path, settings: tuple[str, ...] | list[str] = ()) -> Self:
        """A recipe by name or from a TOML file, with `a.b=c` settings applied."""
        tables = read_toml(_find(str(name)))
        tables.pop("run", None)  # what a run folder's recipe says about its fit
        return cls.from_tables(_applied(tables, settings), str(name))

    def changed(self, settings: Iterable[str]) -> Self:
        """A recipe with `a.b=c` settings applied."""
        return self.from_tables(_applied(_without_none(self.model_dump()), settings))

    @classmethod
    def from_tables(cls, tables: dict[str, Any], name: str = "recipe") -> Self:
        """Checked against every constructor's signature, and completed with its defaults."""
        try:
            recipe = cls.model_validate({table: _with_kind(cls, table, keys) for table, keys in tables.items()})
        except ValidationError as error:
            raise UsageError(f"{name}: {_one_line(error, cls)}") from None
        for table in ROOMS:
            part = getattr(recipe, table)
            if part is not None and table != "signals":  # a source checks its own settings when it is read
                setattr(recipe, table, _complete(table, part))
        return recipe

    def to_toml(self) -> str:
        """The complete recipe as TOML; what is None is left out."""
        return tomli_w.dumps(_without_none(self.model_dump()))


@dataclass
class Model:
    """The parts of a recipe, built: plain modules that also work without a run, in anyone's own loop."""

    domain: Domain
    source: LatentSource
    decoder: Decoder
    objective: Objective


def build(recipe: Recipe, count: int, seed: int = 0) -> Model:
    """The parts for `count` signals, with weights drawn from `seed`; leaves torch's own random state as it was.

    What inference will need is checked here too, so that a wrong name ends a fit before its first step and not after its last.
    """
    solver = construct("inference", recipe.inference.kind, recipe.inference.arguments)
    resolve("starts", recipe.inference.start)
    resolve("posteriors", recipe.inference.posterior)
    if recipe.inference.prior != TRAINING_PRIOR:
        resolve("priors", recipe.inference.prior)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        domain: Domain = _make("domain", recipe.domain, {})
        context: dict[str, Any] = {"coord_dim": domain.coord_dim, "value_dim": domain.value_dim, "shape": domain.shape}
        context["grid"] = None if domain.shape is None else domain.grid()
        source: LatentSource = _make("latents", recipe.latents, {**context, "count": count})
        context["code_dim"] = source.code_dim
        decoder: Decoder = _make("decoder", recipe.decoder, context)
        parts = {
            "measurement": _make("measurement", recipe.measurement, context),
            "likelihood": _make("likelihood", recipe.likelihood or Part(kind=domain.likelihood), context),
            "prior": _make("prior", recipe.prior, context),
        }
        for table, part in (("penalty", recipe.penalty), ("corruption", recipe.corruption)):
            if part is not None and table not in _named_arguments("objective", recipe.objective.kind):
                raise UsageError(f'objective "{recipe.objective.kind}" takes no [{table}]; say {table}.kind=none')
            parts[table] = None if part is None else _make(table, part, {"domain": domain})
        objective: Objective = _make("objective", recipe.objective, parts)
        solver.check(objective, decoder)
        _agree(recipe, source, {**parts, "objective": objective})
        return Model(domain, source, decoder, objective)


def _agree(recipe: Recipe, source: LatentSource, parts: dict[str, Any]) -> None:
    """Refuse what the source of codes cannot serve."""
    training, penalty, free = recipe.training, parts["penalty"], not (source.reads or source.variational)
    whole, objective = source.reads and source.whole, parts["objective"]
    for refused, why in (
        (resolve("starts", recipe.inference.start).reads and not source.reads, _NO_ENCODER),
        (recipe.corruption and not source.reads, "[corruption] changes what an encoder reads; say corruption.kind=none"),
        (objective.refusal(source), objective.refusal(source)),
        (
            training.validation and not objective.searchable,
            f'validation needs a likelihood, which objective "{recipe.objective.kind}" has not; say training.plateau=code_length',
        ),
        (penalty and penalty.refusal(source), penalty and penalty.refusal(source)),
        (
            source.variational and not _is_gaussian(parts["prior"]),
            "it needs a Gaussian prior; say prior.kind=isotropic",
        ),
        (
            training.plateau is not None and training.plateau not in objective.named,
            f'training.plateau = "{training.plateau}" is no part of its loss; known: {", ".join(objective.named) or "none"}',
        ),
        (training.polish and not free, "training.polish searches the codes of a plain bank; say training.polish=0"),
        (source.reads and training.draw == "samples", "it reads signals, not single samples; say training.draw=signals"),
        (
            whole and recipe.inference.points and resolve("starts", recipe.inference.start).reads,
            "it reads whole signals; leave out inference.points, or say latents.network=set",
        ),
        (whole and training.points, "it reads whole signals; leave out training.points, or say latents.network=set"),
        (source.reads and training.latent_optimiser != "rows", "training.optimiser trains it; leave out training.latent_optimiser"),
    ):
        if refused:
            raise UsageError(f'latents of kind "{recipe.latents.kind}": {why}')


_NO_ENCODER = 'start "encoder" reads codes with an encoder, and there is none; say inference.start=spectral'


def _is_gaussian(prior: Prior) -> bool:
    try:
        return len(prior.components().means) == 1
    except NotImplementedError:
        return False


def construct(table: str, kind: str, arguments: dict[str, Any]) -> Any:
    """The class called `kind` with its arguments; what its constructor refuses becomes one clear line."""
    try:
        return resolve(ROOMS[table], kind)(**arguments)
    except ValueError as error:
        raise UsageError(f'[{table}] kind "{kind}": {error}') from error


def split_settings(table: str, settings: Iterable[str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The `table.key=value` settings of one table as a dictionary, and the others as they are."""
    own = [setting for setting in settings if setting.strip().startswith(f"{table}.")]
    tables = _applied({}, own)
    return tables.get(table, {}), tuple(setting for setting in settings if setting not in own)


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(Path(entry.name).stem for entry in RECIPES.iterdir() if entry.name.endswith(".toml"))


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file, or one clear line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def _find(name: str) -> Path:
    if name.endswith(".toml") or "/" in name:
        return Path(name)
    if name not in recipe_names():
        raise UsageError(
            f'there is no recipe "{name}"{nearest(name, recipe_names())}; known: {", ".join(recipe_names())}, or a .toml file'
        )
    return Path(str(RECIPES / f"{name}.toml"))


def _applied(tables: dict[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    for setting in settings:
        _apply(tables, setting)
    return tables


def _apply(tables: dict[str, Any], setting: str) -> None:
    """Change one key, in place. A new kind discards the other keys of its table."""
    key, equals, text = setting.partition("=")
    table, dot, name = key.strip().partition(".")
    if not equals or not dot or not name:
        raise UsageError(f'--set needs table.key=value, as in decoder.width=256; got "{setting}"')
    value = _value(text.strip())
    if not isinstance(tables.get(table, {}), dict):
        raise UsageError(f'"{table}" is no table of the recipe, so {key.strip()} cannot be set')
    if name == "kind" and value is None:
        tables.pop(table, None)
    elif name == "kind":
        kept = Inference.model_fields if table == "inference" else ()  # start, prior and batch are no keys of the solver's
        tables[table] = {key: old for key, old in tables.get(table, {}).items() if key in kept} | {"kind": value}
    else:
        tables.setdefault(table, {})[name] = value


def _value(text: str) -> Any:
    """A TOML value; what is none is a string, so that quotes are not needed in a shell. "none" is None."""
    if text.lower() == "none":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _with_kind(recipe: type[Recipe], table: str, keys: Any) -> Any:
    """The keys of a table, of the kind that the recipe has by default where they name none."""
    default = recipe.model_fields[table].default if table in recipe.model_fields else None
    return {"kind": default.kind, **keys} if isinstance(default, Part) and isinstance(keys, dict) else keys


def _complete(table: str, part: Part) -> Part:
    """The part with every constructor argument checked and its defaults filled in."""
    takes = _signature_model(table, part.kind)
    try:
        checked = takes.model_validate(part.arguments)
    except ValidationError as error:
        beside = set(type(part).model_fields) - {"kind"}
        raise UsageError(_one_line(error, takes, f'[{table}] of kind "{part.kind}"', beside)) from None
    known = {name: getattr(part, name) for name in type(part).model_fields}
    return type(part)(**{**checked.model_dump(exclude_unset=table == "domain"), **known})


def _signature_model(table: str, kind: str) -> type[BaseModel]:
    """A pydantic model of a constructor's arguments, without those that `build` fills in."""
    given = {
        p.name: (
            Any if p.annotation is p.empty else p.annotation,
            None if table == "domain" and p.default is p.empty else p.default,
        )
        for p in _named_arguments(table, kind).values()
        if p.name not in FILLED_IN[table]
    }
    fields: dict[str, Any] = {
        name: (kind, ... if default is inspect.Parameter.empty else default) for name, (kind, default) in given.items()
    }
    return create_model(f"{table}.{kind}", __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=True), **fields)


def _named_arguments(table: str, kind: str) -> dict[str, inspect.Parameter]:
    """Of a constructor; a class without one has that of torch's modules, which takes anything."""
    parameters = inspect.signature(resolve(ROOMS[table], kind)).parameters
    return {name: p for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def _make(table: str, part: Part, context: dict[str, Any]) -> Any:
    """A part from its own arguments and those that its constructor asks of the context."""
    takes = _named_arguments(table, part.kind)
    unknown = [key for key, p in takes.items() if p.default is p.empty and key not in context and part.arguments.get(key) is None]
    if unknown:
        raise UsageError(f'[{table}] of kind "{part.kind}" needs a {unknown[0]}; nf.fit takes it from the signals')
    missing = [key for key, p in takes.items() if key in context and context[key] is None and p.default is p.empty]
    if missing:
        raise UsageError(
            f'[{table}] of kind "{part.kind}" needs signals with a {missing[0]} of their own, and this domain has none'
        )
    return construct(table, part.kind, {**part.arguments, **{key: value for key, value in context.items() if key in takes}})


def _one_line(error: ValidationError, model: type[BaseModel], where: str = "", beside: Iterable[str] = ()) -> str:
    """The first mistake: where it is, what it is, and the nearest known spelling. `beside`: keys known beside the model's."""
    first = error.errors()[0]
    path = [str(key) for key in first["loc"]]
    owner: Any = model
    for key in path[:-1]:
        owner = owner.model_fields[key].annotation if key in getattr(owner, "model_fields", {}) else owner
    place = where or (f"[{path[0]}]" if len(path) > 1 else "the recipe")
    if first["type"] == "extra_forbidden":
        known = sorted([*getattr(owner, "model_fields", {}), *beside])
        what = "key" if len(path) > 1 or where else "table"
        return f'{place} has no {what} "{path[-1]}"{nearest(path[-1], known)}; known: {", ".join(known) or "none"}'
    if first["type"] == "missing":
        return f'{place} needs a "{path[-1]}"'
    return f"{place}: {path[-1]} = {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"


def _without_none(tables: dict[str, Any]) -> dict[str, Any]:
    return {key: _without_none(value) if isinstance(value, dict) else value for key, value in tables.items() if value is not None}
