"""The fused kernels: compiled where there is a GPU, else by Triton's interpreter in a process of its own.

Triton decides when it is imported whether it interprets; and a process that interprets would do so in all other tests too.
"""

import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from contracts.kernel import CASES, Call, Case, KernelContract, error, written_out
from torch import Tensor

from neuralfield.errors import NeuralfieldError
from neuralfield.kernels.fused import Triton
from neuralfield.kernels.kernel import Auto, Kernel
from neuralfield.kernels.reference import Reference

GPU = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HERE = "cuda" if GPU and not INTERPRETED else "cpu"
works = pytest.mark.skipif(not (GPU or INTERPRETED), reason="tested in a process that interprets: the last test of this file")


@works
class TestTriton(KernelContract):
    device = HERE

    def make(self) -> Kernel:
        return Triton()

    def refuses(self, case: Case) -> bool:
        return "point" in case.conditioning

    @pytest.mark.parametrize("case", [CASES[i] for i in (0, 1, 3, 8)], ids=str)
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_in_half_precision_it_is_as_near_to_the_formula_as_torch_is(self, case: Case, dtype: torch.dtype) -> None:
        exact, call = case.make(torch.float64), case.make(torch.float32, HERE)
        truth = written_out(exact.network, exact.inputs)
        expected = {"values": truth, **exact.gradients(truth)}
        ours, theirs = (halved(kernel, call, dtype) for kernel in (Triton(), Reference()))
        assert ours["values"].dtype == theirs["values"].dtype == dtype
        for name, whole in expected.items():
            # errors of two programs that round the same numbers in another order: alike in size; relu turns some of them around
            allowed = 3 * error(theirs[name], whole) + 4 * torch.finfo(dtype).eps
            assert error(ours[name], whole) < allowed, name

    def test_inputs_and_weights_may_be_in_half_precision_themselves(self) -> None:
        call, exact = CASES[1].make(torch.bfloat16, HERE), CASES[1].make(torch.float64)
        values = Triton()(call.network, call.inputs)
        assert values.dtype == torch.bfloat16
        assert all(gradient.dtype == torch.bfloat16 for gradient in call.gradients(values).values())
        # 8 bits, in three layers and in what they are made of
        assert error(values, written_out(exact.network, exact.inputs)) < 0.05

    def test_coordinates_and_shifts_keep_their_precision_behind_w0(self) -> None:
        # the argument of the first sine reaches 30: of bfloat16 coordinates it would be off by .1
        call, exact = (
            Case(1, 64, 2, 1, (32,), "sine").make(torch.float32, HERE),
            Case(1, 64, 2, 1, (32,), "sine").make(torch.float64),
        )
        with torch.autocast(HERE, dtype=torch.bfloat16):
            values = Triton()(call.network, call.inputs)
        # the values' own rounding to 8 bits (the interpreter cuts them off), and no more
        assert error(values, written_out(exact.network, exact.inputs)) < 2**-7

    def test_results_are_the_same_bit_for_bit_each_time(self) -> None:
        _, call = self.called(CASES[2])
        first = call.gradients(Triton()(call.network, call.inputs))
        for name, gradient in call.gradients(Triton()(call.network, call.inputs)).items():
            assert torch.equal(gradient, first[name]), name

    def test_a_search_for_codes_keeps_and_writes_no_more_than_it_needs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import neuralfield.kernels.fused_launch as launch

        kernel, call = self.called(Case(2, 70, 2, 1, (32, 32, 32), "sine"))
        for name, tensor in call.tensors.items():
            tensor.requires_grad_(name.startswith("shifts"))
        values = kernel(call.network, call.inputs)
        monkeypatch.setattr(launch, "outer", None)  # products over all points are not launched
        assert set(call.gradients(values)) == {"shifts[0]", "shifts[1]", "shifts[2]"}

    @pytest.mark.parametrize(
        ("case", "said"),
        [
            (replace(CASES[0], widths=(300,)), "up to 256 numbers, not 300"),
            (replace(CASES[0], values=17), "up to 16 values at a point, not 17"),
            (CASES[-1], "one conditioning for each signal"),
        ],
        ids=["width", "values", "points"],
    )
    def test_what_it_cannot_do_it_says_with_a_kernel_that_can(self, case: Case, said: str) -> None:
        call = case.make(torch.float32, HERE)
        with pytest.raises(NeuralfieldError, match=said) as caught:
            Triton()(call.network, call.inputs)
        assert "\n" not in str(caught.value)
        assert "decoder.kernel=" in str(caught.value)
        Auto()(call.network, call.inputs)

    def test_it_refuses_dropout_and_float64(self) -> None:
        call = CASES[0].make(torch.float32, HERE)
        assert "dropout" in str(Triton().refusal(replace(call.network, dropout=0.1), call.inputs))
        assert "float64" in str(Triton().refusal(call.network, call.inputs.double()))

    def test_auto_takes_it_but_for_gradients_by_the_inputs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("neuralfield.kernels.kernel.SMALL", 0)  # a processor's, where it is interpreted
        call = CASES[0].make(torch.float32, HERE)
        assert Auto().choice(call.network, call.inputs).name == "reference"
        assert Auto().choice(call.network, call.inputs.detach()).name == "triton"

    def test_its_sine_is_exact_for_the_arguments_that_networks_have(self) -> None:
        # weight 1 and value 1: the network is sin x, of x up to 10^4
        call = Case(1, 4000, 1, 1, (1,), "sine").make(torch.float32, HERE)
        one = torch.ones(1, 1, device=HERE)
        network = replace(call.network, weights=(one,), scales=(1.0,), shifts=(0 * one[None],), out_weight=one, out_bias=0 * one[0])
        x = torch.cat([torch.linspace(-30, 30, 2000), torch.linspace(-1e4, 1e4, 2000)]).to(HERE)[None, :, None]
        x.requires_grad_()
        values = Triton()(network, x)
        (slope,) = torch.autograd.grad(values.sum(), x)
        exact = x.detach().double()
        # three roundings of numbers near 1, half a unit of 1.2e-7 each
        torch.testing.assert_close(values.detach().double(), exact.sin(), rtol=0, atol=3e-7)
        torch.testing.assert_close(slope.double(), exact.cos(), rtol=0, atol=3e-7)


def halved(kernel: Kernel, call: Call, dtype: torch.dtype) -> dict[str, Tensor]:
    """Values and gradients under autocast."""
    with torch.autocast(HERE, dtype=dtype):
        values = kernel(call.network, call.inputs)
    return {"values": values, **call.gradients(values)}


@pytest.mark.skipif(GPU or INTERPRETED, reason="all of it is tested in this process")
@pytest.mark.skipif(find_spec("triton") is None, reason="no Triton here")
@pytest.mark.slow
def test_the_fused_kernels_pass_in_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[1], check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout


def test_without_a_gpu_it_says_so_and_names_a_kernel_that_works() -> None:
    script = (
        "import torch; torch.cuda.is_available = lambda: False\n"
        "import neuralfield as nf\n"
        "nf.Modulated(2, 1, 3, width=8, depth=2, kernel='triton')(torch.zeros(1, 3), torch.zeros(1, 4, 2))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert 'kernel "triton" needs' in last
    assert '"cpu" can: --set decoder.kernel=cpu, or auto' in last


def test_the_package_neither_imports_triton_nor_needs_it() -> None:
    script = (
        "import sys; sys.modules['triton'] = None\n"  # to import it is an error
        "import torch, neuralfield as nf\n"
        "from neuralfield.kernels.fused import Triton\n"
        "decoder = nf.Modulated(2, 1, 3, width=8, depth=2)\n"
        "decoder(torch.zeros(1, 3), torch.zeros(1, 4, 2)).sum().backward()"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", script], check=True, env={**environment, "CUDA_VISIBLE_DEVICES": ""})
