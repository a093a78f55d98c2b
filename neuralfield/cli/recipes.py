"""nf recipes."""

import click

from neuralfield.cli import options


@click.command("recipes")
@click.argument("name", required=False)
@options.settings
@options.common
def command(name: str | None, settings: tuple[str, ...], as_json: bool) -> None:
    """List the recipes, or show one, complete, as TOML (a start for your own: nf recipes image > mine.toml)."""
    from neuralfield.recipe import Recipe, recipe_names

    if name is not None:
        recipe = Recipe.load(name, settings)
        options.say(recipe.to_toml().rstrip())
        options.finish(as_json, recipe.model_dump(exclude_none=True))
        return
    described = {known: Recipe.load(known).description for known in recipe_names()}
    for known, description in described.items():
        options.say(f"{known:<{max(map(len, described))}} {description}")
    options.finish(as_json, {"recipes": described})
