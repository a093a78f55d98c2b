"""The kernels that work on every machine, and the choice among all."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import Nf, failed
from contracts.kernel import CASES, Call, Case, KernelContract, agree
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import forward_ad

import neuralfield as nf
from neuralfield.errors import NeuralfieldError
from neuralfield.kernels.cpu import CPU
from neuralfield.kernels.kernel import PREFERRED, Auto, Kernel, Network, _Twinned
from neuralfield.kernels.reference import Reference
from neuralfield.registry import names

BOTH = (torch.float32, torch.float64)


class TestReference(KernelContract):
    dtypes = BOTH

    def make(self) -> Kernel:
        return Reference()


class TestCPU(KernelContract):
    dtypes = BOTH

    def make(self) -> Kernel:
        return CPU()

    @pytest.mark.parametrize("case", [case for case in CASES if max(case.widths) < 50], ids=str)
    def test_gradients_are_the_slopes_of_values(self, case: Case) -> None:
        # differences of values, in one random direction of everything; w0 = 30 makes them coarse where points are many
        call = replace(case, points=3).make(torch.float64)

        def values(*_: Tensor) -> Tensor:
            return self.make()(call.network, call.inputs)

        assert torch.autograd.gradcheck(values, tuple(call.tensors.values()), fast_mode=True)


class Twinned(CPU):
    """The cpu kernel as `auto` calls it."""

    name = "twinned"

    def values(self, network: Network, inputs: Tensor) -> Tensor:
        return _Twinned.apply(CPU(), Reference(), network, *network.flat(inputs))


class TestTwinned(KernelContract):
    dtypes = BOTH

    def make(self) -> Kernel:
        return Twinned()


WAYS: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]] = {
    "twice": lambda f, x: torch.autograd.functional.hessian(lambda x: f(x).square().sum(), x),
    "vectorised": lambda f, x: torch.autograd.functional.jacobian(f, x, vectorize=True),
    "forward": lambda f, x: torch.autograd.functional.jacobian(f, x, vectorize=True, strategy="forward-mode"),
    "torch.func": lambda f, x: torch.func.jacrev(f)(x),
    "dual": lambda f, x: forward_derivative(f, x),
}


def forward_derivative(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(x, torch.ones_like(x)))).tangent


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("activation", ["sine", "silu"])
def test_auto_is_differentiated_in_every_way_in_which_the_reference_is(
    monkeypatch: pytest.MonkeyPatch, way: str, activation: str
) -> None:
    monkeypatch.setattr("neuralfield.kernels.kernel.SMALL", 0)
    call = Case(2, 5, 3, 2, (7, 6), activation).make(torch.float64)
    network, inputs = call.network, call.inputs.detach()

    def values(kernel: Kernel, shift: Tensor) -> Tensor:
        return kernel(replace(network, shifts=(shift, *network.shifts[1:])), inputs)

    assert Auto().choice(network, inputs).name == "cpu"
    shift = network.shifts[0].detach()
    found, expected = (WAYS[way](lambda x, kernel=kernel: values(kernel, x), shift) for kernel in (Auto(), Reference()))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)  # float64: two orders of the same sums


def test_no_signals_have_no_values() -> None:
    call = Case(2, 5, 3, 2, (7, 6), "silu").make(torch.float64)
    network = replace(call.network, shifts=tuple(shift[:0] for shift in call.network.shifts))
    for kernel in (CPU(), Reference(), Auto()):
        assert kernel(network, call.inputs).shape == (0, 5, 2)


class TestAuto(KernelContract):
    dtypes = BOTH

    def make(self) -> Kernel:
        return Auto()


def test_what_auto_prefers_is_registered_and_ends_with_the_one_that_takes_everything() -> None:
    assert set(PREFERRED) <= set(names("kernels"))
    assert PREFERRED[-1] == "reference"


@st.composite
def cases(draw: st.DrawFn) -> Case:
    depth = draw(st.integers(1, 4))
    return Case(
        draw(st.integers(1, 3)),
        draw(st.integers(0, 12)),
        draw(st.integers(1, 12)),
        draw(st.integers(1, 3)),
        tuple(draw(st.lists(st.integers(1, 40), min_size=depth, max_size=depth))),
        draw(st.sampled_from(["sine", "silu", "relu", "leaky-relu"])),
        scaled=draw(st.booleans()),
        again=draw(st.sampled_from([(), (1,)])),
        conditioning=tuple(draw(st.lists(st.sampled_from(["own", "shared", "point"]), min_size=1, max_size=2))),
        shared_points=draw(st.booleans()),
        seed=draw(st.integers(0, 9)),
    )


def everything(kernel: Kernel, call: Call) -> dict[str, Tensor]:
    """Values, gradients, and the gradients of the slope by the inputs where that is wanted."""
    values = kernel(call.network, call.inputs)
    found = {"values": values, **call.gradients(values, retain_graph=True)}
    if call.inputs.requires_grad:
        slope = torch.autograd.grad(values.square().sum(), call.inputs, create_graph=True)[0]
        again = torch.autograd.grad(slope.square().sum(), call.network.weights[0], allow_unused=True)[0]
        found["slope"] = call.network.weights[0] * 0 if again is None else again
    return found


@given(cases(), st.sampled_from(BOTH), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_auto_never_fails_where_the_reference_works(case: Case, dtype: torch.dtype, autocast: bool, by_inputs: bool) -> None:
    call = case.make(dtype)
    call.inputs.requires_grad_(by_inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        expected, found = everything(Reference(), call), everything(Auto(), call)
    # the same kernel in half precision on a processor; in float32 sums in another order, behind a w0 of 30
    agree(found, {name: tensor.detach() for name, tensor in expected.items()}, 1e-4)


def test_every_number_that_dropout_leaves_out_is_left_to_the_reference() -> None:
    call = CASES[0].make(torch.float32)
    assert Auto().choice(replace(call.network, dropout=0.5), call.inputs.detach()).name == "reference"


@pytest.mark.parametrize("name", ["cpu", "reference", "auto"])
def test_decoders_take_a_kernel_by_name(name: str) -> None:
    torch.manual_seed(0)
    expected = nf.Modulated(2, 1, 3, width=8, depth=2)
    decoder = nf.Modulated(2, 1, 3, width=8, depth=2, kernel=name)
    decoder.load_state_dict(expected.state_dict())
    z, coords = torch.randn(2, 3), torch.rand(1, 5, 2)
    torch.testing.assert_close(decoder(z, coords), expected(z, coords))


def test_second_derivatives_of_a_kernel_without_them_name_one_that_has() -> None:
    decoder = nf.Modulated(2, 1, 3, width=8, depth=2, kernel="cpu")
    coords = torch.rand(1, 5, 2, requires_grad=True)
    (slope,) = torch.autograd.grad(decoder(torch.zeros(1, 3), coords).sum(), coords, create_graph=True)
    with pytest.raises(
        NeuralfieldError, match=r'kernel "cpu" has no second derivatives; "reference" has: --set decoder\.kernel=reference'
    ):
        slope.square().sum().backward()


def test_doctor_says_of_every_kernel_whether_it_works(nf_: Nf) -> None:
    facts = nf_("doctor", "--json").json["kernels"]
    assert set(facts) == set(names("kernels"))
    assert facts["reference"] == facts["cpu"] == facts["auto"] == "works"
    if not torch.cuda.is_available():
        assert facts["tinycudann"].startswith("does not work here: needs")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here, and kernels for it work")
@pytest.mark.parametrize("kernel", ["triton", "tinycudann"])
def test_a_fit_with_a_kernel_that_cannot_do_it_says_so_before_it_writes(nf_: Nf, tmp_path: Path, kernel: str) -> None:
    words = ["fit", "--domain", "image", "--limit", "8", "--out", str(tmp_path / "run"), "--set", "decoder.kind=modulated"]
    failed(nf_(*words, "--set", f"decoder.kernel={kernel}"), 1, f'kernel "{kernel}" needs', '"cpu" can: --set decoder.kernel=cpu')
    assert not (tmp_path / "run").exists()
