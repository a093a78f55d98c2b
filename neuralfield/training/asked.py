"""What was asked of a fit, checked before anything is done: the recipe, the data, the folder, the device."""

from pathlib import Path

import torch

from neuralfield.errors import NeuralfieldError, UsageError
from neuralfield.latents.bank import OVERVIEW
from neuralfield.recipe import Part, Recipe, read_toml, recipe_names
from neuralfield.registry import names, nearest, resolve
from neuralfield.signals import signals as sources
from neuralfield.signals.signals import Signals

WRITTEN = (
    "decoder.safetensors",
    "latents.safetensors",
    "encoder.safetensors",
    "inference.safetensors",
    "metrics.json",
    "resume/shards-*/*",
    "resume/bank/*",
    "resume/*",
    "figures/reconstructions.png",
    "figures/progress/*.png",
    "completions/*",
    "report.html",
    "events.out.tfevents.*",
    "projector_config.pbtxt",
    "[0-9]*/codes/*",
)
"""What a run writes, and so what --overwrite removes."""


def choose_recipe(recipe: str | Path | Recipe | None, domain: str | None, settings: list[str] | tuple[str, ...]) -> Recipe:
    """The recipe by its name, file or domain, with settings applied."""
    if recipe is None and domain is None:
        raise UsageError("say what to fit: --domain or --recipe")
    if domain is not None and domain not in names("domains"):
        raise UsageError(f'there is no domain "{domain}"{nearest(domain, names("domains"))}; known: {", ".join(names("domains"))}')
    if recipe is None and domain not in recipe_names():
        raise UsageError(f'there is no recipe for domain "{domain}" as a whole; say --recipe NAME or FILE')
    chosen = recipe.changed(settings) if isinstance(recipe, Recipe) else Recipe.load(recipe or str(domain), settings)
    if domain is not None and chosen.domain.kind != domain:
        raise UsageError(f'recipe {recipe} is for domain "{chosen.domain.kind}", not "{domain}"')
    return chosen


def claim(folder: Path | None, overwrite: bool) -> None:
    """Refuse a folder that exists, unless it may be overwritten."""
    if folder is None or not folder.exists():
        return
    if not folder.is_dir() or not overwrite:
        raise NeuralfieldError(f"{folder} exists; go on with --resume, replace it with --overwrite, or choose another --out")
    recipe = folder / "recipe.toml"
    if any(folder.iterdir()) and not (recipe.exists() and "run" in read_toml(recipe)):
        raise NeuralfieldError(f"{folder} is not a run's folder, so it is not overwritten; choose another --out")


def clear(folder: Path) -> None:
    """Remove what a run writes, and nothing else, once all that can be checked has been."""
    for pattern in WRITTEN:
        for file in [file for file in folder.glob(pattern) if file.is_file()]:
            file.unlink()
            if file.parent != folder and not any(file.parent.iterdir()):
                file.parent.rmdir()


def choose_data(data: Signals | str | None, recipe: Recipe, split: str | None, limit: int | None) -> tuple[Signals, Recipe]:
    """The signals, and the recipe that says where they came from."""
    if isinstance(data, Signals):
        if split is not None:
            raise UsageError(
                "a split is chosen when data are loaded, as in nf.load(source, split=...), not for a data set in memory"
            )
        signals, part = data.select(torch.arange(len(data))[:limit]) if limit else data, None
    elif data is not None and not isinstance(data, str):
        raise UsageError(
            f"data must be a data set or its name, got {type(data).__name__}; for arrays say nf.Images.from_arrays(images) or "
            "nf.Curves.from_arrays(times, values)"
        )
    else:
        part = recipe.signals
        if data is not None:
            kind, path = sources.parse(data)
            inherited = sources.inherited(part.kind, part.arguments, kind) if part else {}
            part = Part(kind=kind, **{**inherited, "path": sources.absolute(path)})
        if part is None:
            raise UsageError("say which data: --data SOURCE")
        part = Part(
            kind=part.kind, **{**part.arguments, **{k: v for k, v in (("split", split), ("limit", limit)) if v is not None}}
        )
        signals = sources.build(part.kind, part.arguments)
    if signals.domain != recipe.domain.kind:
        raise UsageError(f'the data are of domain "{signals.domain}", the recipe is for "{recipe.domain.kind}"')
    return signals, recipe.model_copy(update={"signals": part})


def check_mapped(recipe: Recipe, count: int) -> None:
    """Refuse what needs all codes of a mapped bank in memory at once."""
    if not recipe.latents.arguments.get("mapped"):
        return
    training, start = recipe.training, recipe.inference.start
    large = count > OVERVIEW and resolve("starts", start).needs_all
    for refused, what, remedy in (
        (training.validation > 0, "a validation share", "training.validation=0"),
        (training.latent_optimiser == "dense", 'the latent optimiser "dense"', "training.latent_optimiser=rows"),
        (large, f'start "{start}", of more than {OVERVIEW} signals,', "inference.start=mean"),
    ):
        if refused:
            raise UsageError(f"{what} needs all codes in memory, which latents.mapped=true avoids; say --set {remedy}")


def check_whole(recipe: Recipe) -> None:
    """Refuse to draw points where the likelihood compares signals as a whole."""
    part = recipe.likelihood
    if part is None or resolve("likelihoods", part.kind).pointwise:
        return
    for table, key, drawn, remedy in (
        ("training", "points", recipe.training.points is not None, "none"),
        ("training", "draw", recipe.training.draw == "samples", "signals"),
        ("inference", "points", recipe.inference.points is not None, "none"),
        ("inference", "coarse", recipe.inference.coarse is not None, "none"),
    ):
        if drawn:
            raise UsageError(
                f'likelihood "{part.kind}" compares signals as a whole, so no points can be drawn; say --set {table}.{key}={remedy}'
            )


def completed(recipe: Recipe, signals: Signals) -> Recipe:
    """The recipe with the domain's arguments taken from the signals."""
    likelihood = recipe.likelihood or Part(kind=resolve("domains", recipe.domain.kind).likelihood)
    tables = {"domain": {"kind": recipe.domain.kind, **signals.domain_arguments}, "likelihood": likelihood.model_dump()}
    return Recipe.from_tables(recipe.model_dump() | tables)
