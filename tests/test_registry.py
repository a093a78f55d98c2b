"""Names resolve to parts: built-in ones, a notebook's own, and those of other packages, which the contracts hold for as well."""

import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from contracts.decoder import DecoderContract
from contracts.domain import DomainContract
from contracts.signals import SignalsContract

import neuralfield as nf
import neuralfield.registry as registry
from neuralfield.decoders.decoder import Decoder
from neuralfield.domains.domain import Domain
from neuralfield.errors import NeuralfieldError, UsageError
from neuralfield.recipe import Recipe
from neuralfield.signals.signals import Signals, load
from neuralfield.types import Observations

PLUGIN = Path(__file__).parent / "plugin"


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package in tests/plugin, as pip would install it: its folder on the path, and a dist-info with its entry points."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    info = tmp_path / "site" / f"nf_lines-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in of.items()) for group, of in project["entry-points"].items()]
    (info / "entry_points.txt").write_text("\n".join(groups))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.syspath_prepend(str(PLUGIN))


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test registers is forgotten after it."""
    monkeypatch.setattr(registry, "_registered", {})


# built-in parts


@pytest.mark.parametrize(("room", "name"), [(room, name) for room, parts in registry.BUILT_IN.items() for name in parts])
def test_every_built_in_part_can_be_loaded(room: str, name: str) -> None:
    assert callable(registry.resolve(room, name))
    assert name in registry.names(room)


@pytest.mark.parametrize(
    ("room", "name", "meant"), [("decoders", "modulatd", "modulated"), ("domains", "imag", "image"), ("solvers", "adm", "adam")]
)
def test_an_unknown_name_is_one_line_with_the_nearest_one(room: str, name: str, meant: str) -> None:
    with pytest.raises(UsageError) as caught:
        registry.resolve(room, name)
    message = str(caught.value)
    assert "\n" not in message
    assert f'"{name}"' in message
    assert f'did you mean "{meant}"?' in message
    assert all(known in message for known in registry.names(room))


def test_public_names_exist_and_are_listed() -> None:
    for name in nf.__all__:
        assert getattr(nf, name) is not None
    assert set(nf.__all__) <= set(dir(nf))
    with pytest.raises(AttributeError, match="no attribute 'Fitt'"):
        _ = nf.Fitt


# a notebook's own


@pytest.mark.usefixtures("registered")
def test_a_registered_part_is_known_in_recipes_with_its_arguments_checked() -> None:
    class Mine(nf.Decoder):
        def __init__(self, coord_dim: int, value_dim: int, code_dim: int, size: int = 3) -> None:
            super().__init__()
            self.size = size

        def condition(self, z: Any) -> Any:
            return z

        def evaluate(self, conditioning: Any, coords: Any) -> Any:
            return coords[..., :1].expand(len(conditioning), -1, 1)

    nf.register("decoders", "mine", Mine)
    assert registry.resolve("decoders", "mine") is Mine
    assert Recipe.load("image", ["decoder.kind=mine", "decoder.size=7"]).decoder.arguments == {"size": 7}
    with pytest.raises(UsageError, match=r'\[decoder\] of kind "mine" has no key "sise", did you mean "size"'):
        Recipe.load("image", ["decoder.kind=mine", "decoder.sise=7"])


@pytest.mark.usefixtures("registered")
def test_a_registered_part_wins_over_a_built_in_one() -> None:
    nf.register("starts", "mean", dict)
    assert registry.resolve("starts", "mean") is dict


# another package's


def test_without_the_other_package_its_names_are_unknown() -> None:
    for room, name in (("domains", "line"), ("decoders", "bumps"), ("signals", "zigzag")):
        with pytest.raises(UsageError, match=f'there is no .* "{name}"'):
            registry.resolve(room, name)


@pytest.mark.usefixtures("plugin")
def test_another_packages_parts_are_found_by_their_entry_points() -> None:
    lines = import_module("nf_lines")
    assert registry.resolve("domains", "line") is lines.Line
    assert registry.resolve("decoders", "bumps") is lines.Bumps
    assert registry.resolve("signals", "zigzag") is lines.zigzag
    assert registry.names("decoders") == sorted([*registry.BUILT_IN["decoders"], "bumps"])


RECIPE = """
[domain]
kind = "line"
[signals]
kind = "zigzag"
[latents]
kind = "bank"
code_dim = 4
[decoder]
kind = "bumps"
bumps = 10
[training]
batch = 4
polish = 2
[inference]
steps = 20
"""


@pytest.mark.usefixtures("plugin")
def test_a_model_made_of_another_packages_parts_is_fitted_saved_loaded_and_completed(tmp_path: Path) -> None:
    (tmp_path / "line.toml").write_text(RECIPE)
    run = nf.fit(recipe=tmp_path / "line.toml", domain="line", epochs=100, out=tmp_path / "run")
    # the waves' own spread is 0.58, and random heights of bumps begin at up to twice that; after 300 small steps 0.1 to 0.3 is left
    assert run.facts["scores"]["train"]["rmse"] < 0.4
    again = nf.Run.load(tmp_path / "run")
    coords = again.domain.grid(50)[0]
    assert torch.equal(again.field(again.codes)(coords), run.field(run.codes)(coords))
    completed = nf.complete(again, load("zigzag", count=5), nf.Visibility(hide=["half:x"]))
    assert set(completed.scores) == {"observed", "hidden"}
    assert completed.scores["hidden"]["rmse"].shape == (5,)


@pytest.mark.usefixtures("plugin")
def test_a_decoder_that_does_not_fit_the_domain_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "line.toml").write_text(RECIPE)
    with pytest.raises(NeuralfieldError) as caught:
        nf.fit(recipe=tmp_path / "line.toml", settings=["decoder.kind=convolutional"], epochs=1)
    assert "\n" not in str(caught.value)
    assert '[decoder] kind "convolutional"' in str(caught.value)
    assert "two axes" in str(caught.value)


@pytest.mark.usefixtures("plugin")
def test_images_are_not_fitted_as_lines(tmp_path: Path, images: nf.Images) -> None:
    (tmp_path / "line.toml").write_text(RECIPE)
    with pytest.raises(UsageError, match='the data are of domain "image", the recipe is for "line"'):
        nf.fit(images, recipe=tmp_path / "line.toml", epochs=1)


def test_a_part_that_cannot_be_imported_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "broken-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[neuralfield.decoders]\nbroken = nowhere_to_be_found:Decoder\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(NeuralfieldError, match=r'decoder "broken" \(nowhere_to_be_found:Decoder\) cannot be loaded: No module'):
        registry.resolve("decoders", "broken")


@pytest.mark.usefixtures("plugin")
class TestLine(DomainContract):
    @pytest.fixture
    def domain(self, plugin: None) -> Domain:
        made: Domain = import_module("nf_lines").Line(20)
        return made

    @pytest.fixture
    def truth(self, domain: Domain) -> Observations:
        return load("zigzag").truth(torch.tensor([0, 3, 7]))


@pytest.mark.usefixtures("plugin")
class TestBumps(DecoderContract):
    coord_dim = 1

    def make(self) -> Decoder:
        made: Decoder = import_module("nf_lines").Bumps(4)
        return made


@pytest.mark.usefixtures("plugin")
class TestZigzag(SignalsContract):
    @pytest.fixture
    def signals(self, plugin: None) -> Signals:
        return load("zigzag")
