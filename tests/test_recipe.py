"""Recipes: every one builds, what is written is what is read, and a mistake is one line that names the place and the way out."""

from pathlib import Path

import pytest
import torch

from neuralfield.errors import UsageError
from neuralfield.recipe import Recipe, build, construct, recipe_names, split_settings

SIZE = ["domain.height=8", "domain.width=8", "domain.channels=1"]
CURVES = ["domain.start=0", "domain.end=2", "domain.centre=[1, 5]", "domain.scale=[2, 0.5]"]
DOMAINS = {"image": SIZE, "function": CURVES, "shape": ["domain.dims=3", "domain.even=0"]}
"""What a domain must know of signals before it can be built."""


def sized(name: str, settings: list[str] | None = None) -> Recipe:
    """A recipe by name, for signals of its domain."""
    return Recipe.load(name, [*DOMAINS[Recipe.load(name).domain.kind], *(settings or [])])


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_builds_and_its_parts_fit_together(name: str) -> None:
    model = build(sized(name), 3)
    coords = model.domain.grid()[:, :500]  # of a shape's quarter of a million
    assert model.source.codes.shape[0] == 3
    values = model.decoder(model.source.codes, coords)
    assert values.shape == (3, coords.shape[1], model.domain.value_dim)


@pytest.mark.parametrize(("name", "missing"), [("image", "height"), ("function", "start")])
def test_what_a_domain_takes_from_the_signals_is_asked_for_by_name(name: str, missing: str) -> None:
    with pytest.raises(UsageError, match=f'domain.* of kind "{name}" needs a {missing}; nf.fit takes it from the signals'):
        build(Recipe.load(name), 3)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_says_what_it_is_for(name: str) -> None:
    recipe = Recipe.load(name)
    assert len(recipe.description) > 20
    assert "\n" not in recipe.description


@pytest.mark.parametrize("name", recipe_names())
def test_what_is_written_is_what_is_read(name: str, tmp_path: Path) -> None:
    recipe = sized(name, ["latents.code_dim=24", "training.epochs=7"])
    path = tmp_path / "recipe.toml"
    path.write_text(recipe.to_toml())
    again = Recipe.load(path)
    assert again == recipe
    assert again.to_toml() == recipe.to_toml()


def test_a_written_recipe_is_complete() -> None:
    recipe = Recipe.load("image")
    assert "activation" in recipe.decoder.arguments  # a default of the constructor, which the file does not name
    assert "tolerance" in recipe.inference.arguments
    assert {"kind", "start", "prior", "batch"} <= set(recipe.model_dump()["inference"])


def test_a_recipe_draws_the_same_weights_from_the_same_seed_and_leaves_torchs_own_numbers_alone() -> None:
    recipe = Recipe.load("image-modulated", SIZE)
    states = []
    for outer in (1, 2):
        torch.manual_seed(outer)
        before = torch.get_rng_state()
        states.append(build(recipe, 3, seed=5).decoder.state_dict())
        assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    other = build(recipe, 3, seed=6).decoder.state_dict()
    assert not torch.equal(other["out.weight"], states[0]["out.weight"])


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        # unknown tables and keys
        ("latent.code_dim=3", ["table", '"latent"', 'did you mean "latents"']),
        ("latents.cod_dim=3", ["[latents]", '"cod_dim"', 'did you mean "code_dim"']),
        ("training.btch=3", ["[training]", '"btch"', 'did you mean "batch"']),
        ("inference.strat=mean", ["[inference]", '"strat"', 'did you mean "start"']),
        ("inference.stps=3", ["[inference]", '"stps"', 'did you mean "steps"']),
        ("objective.weight_l3=1", ["[objective]", '"weight_l3"', 'did you mean "weight_l2"']),
        ("schedule.rounds=3", ["[schedule]", '"rounds"']),
        ("a.b.c=1", ['"a"', "known"]),
        # kinds
        ("decoder.kind=modulatd", ["decoder", '"modulatd"', 'did you mean "modulated"']),
        ("likelihood.kind=gausian", ["likelihood", '"gausian"', 'did you mean "gaussian"']),
        ("domain.kind=imag", ["domain", '"imag"', 'did you mean "image"']),
        ("prior.kind=3", ["[prior]", "kind"]),
        # types and ranges
        ("decoder.width=wide", ["[decoder]", "width", "'wide'", "integer"]),
        ("decoder.width=2.5", ["[decoder]", "width", "2.5"]),
        ("decoder.activation=rellu", ["[decoder]", "activation", "'rellu'", "leaky-relu"]),
        ("training.batch=0", ["[training]", "batch", "0"]),
        ("training.decay=linear", ["[training]", "decay", "'linear'", "cosine"]),
        ("training.validation=1.5", ["[training]", "validation", "1.5"]),
        ("likelihood.std=[1]", ["[likelihood]", "std"]),
        # what build fills in may not be set
        ("decoder.code_dim=5", ["[decoder]", '"code_dim"']),
        ("latents.count=5", ["[latents]", '"count"']),
        # settings that are none
        ("decoder", ["table.key=value", '"decoder"']),
        ("decoder=3", ["table.key=value", '"decoder=3"']),
        ("decoder.=3", ["table.key=value"]),
        ("description.x=3", ["description"]),
    ],
)
def test_a_mistake_is_one_line_that_names_table_key_and_nearest_spelling(setting: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        Recipe.load("image", [setting])
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("likelihood.std=0", ["[likelihood]", "std", "positive"]),
        ("prior.std=-1", ["[prior]", "std", "positive"]),
        ("inference.steps=0", ["[inference]", "steps"]),
        ("inference.rate=-1", ["[inference]", "rate"]),
        ("inference.start=nearst", ['"nearst"', 'did you mean "nearest"']),
        ("inference.prior=gausian", ['"gausian"', 'did you mean "gaussian"']),
    ],
)
def test_what_only_a_constructor_can_refuse_is_refused_before_anything_is_trained(setting: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        build(Recipe.load("image", [*SIZE, setting]), 3)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_a_file_with_mistakes_is_named_in_the_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    for content, words in (
        ("[domain", ["mine.toml", "TOML"]),
        ('[decoder]\nkind = "concat"', ["mine.toml", "domain"]),
        ('[domain]\nkind = "image"\n[decoder]\nwidth = 3', ["mine.toml", "[decoder]", '"kind"']),
        ('decoder = 3\n[domain]\nkind = "image"', ["mine.toml", "decoder"]),
        ("\xff", ["mine.toml", "TOML"]),
    ):
        path.write_text(content, encoding="latin1")
        with pytest.raises(UsageError) as caught:
            Recipe.load(path)
        assert "\n" not in str(caught.value)
        assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_missing_recipe_is_one_line_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='no recipe "imagee", did you mean "image"'):
        Recipe.load("imagee")
    with pytest.raises(UsageError, match=r"nowhere.toml cannot be read: No such file"):
        Recipe.load(tmp_path / "nowhere.toml")
    with pytest.raises(UsageError, match=r"cannot be read: Is a directory"):
        Recipe.load(f"{tmp_path}/")


# settings


def test_a_setting_changes_one_key_and_no_other() -> None:
    plain, changed = Recipe.load("image").model_dump(), Recipe.load("image", ["decoder.width=48"]).model_dump()
    assert changed["decoder"].pop("width") == 48
    plain["decoder"].pop("width")
    assert changed == plain


def test_a_table_that_the_recipe_leaves_out_can_be_changed_as_well() -> None:
    recipe = Recipe.load("image", ["prior.std=2", "objective.weight_l2=1e-3"])
    assert (recipe.prior.kind, recipe.prior.arguments) == ("isotropic", {"std": 2.0})
    assert recipe.objective.arguments == Recipe.load("image").objective.arguments | {"weight_l2": 1e-3}


def test_a_new_kind_discards_the_other_keys_of_its_table() -> None:
    recipe = Recipe.load("image", ["decoder.width=48", "decoder.kind=concat"])
    assert recipe.decoder.kind == "concat"
    assert recipe.decoder.arguments["width"] == 128  # concat's own default


def test_later_settings_apply_to_the_new_kind() -> None:
    recipe = Recipe.load("image", ["decoder.kind=concat", "decoder.width=48", "decoder.depth=3", "decoder.depth=5"])
    assert (recipe.decoder.kind, recipe.decoder.arguments["width"], recipe.decoder.arguments["depth"]) == ("concat", 48, 5)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("3", 3), ("3.5", 3.5), ("1e-3", 1e-3), ("true", True), ("[3, 4]", [3, 4])],
        *[('"3"', "3"), ("a word", "a word"), ("none", None), ("", "")],
    ],
)
def test_values_are_toml_and_words_need_no_quotes(text: str, value: object) -> None:
    assert split_settings("signals", [f"signals.key={text}"]) == ({"key": value}, ())


def test_none_clears_a_key_that_may_be_empty() -> None:
    assert Recipe.load("autodecoder-mnist").training.epochs is not None
    assert Recipe.load("autodecoder-mnist", ["training.epochs=none"]).training.epochs is None


def test_settings_of_another_table_are_left_for_it() -> None:
    assert split_settings("signals", ["signals.pad=2", "decoder.width=3"]) == ({"pad": 2}, ("decoder.width=3",))


def test_what_a_constructor_refuses_is_one_line_with_its_table() -> None:
    with pytest.raises(UsageError, match=r'\[likelihood\] kind "gaussian": likelihood.std must be positive, got -1'):
        construct("likelihood", "gaussian", {"std": -1.0})


def test_a_loaded_recipe_is_not_changed_by_another_load() -> None:
    first = Recipe.load("image")
    Recipe.load("image", ["decoder.width=99"])
    assert Recipe.load("image") == first
