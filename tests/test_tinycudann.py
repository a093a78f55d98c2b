"""tiny-cuda-nn's parameters and ours; and what it is not asked. (Its own code runs on a GPU alone.)"""

from dataclasses import replace

import pytest
import torch
from contracts.kernel import Call, Case, agree, error, written_out
from torch import Tensor
from torch.nn.functional import pad

from neuralfield.errors import NeuralfieldError
from neuralfield.kernels.kernel import Network
from neuralfield.kernels.tinycudann import TinyCudaNN, configuration, flat, refused, unflat

CASES = [
    Case(1, 9, 2, 1, (16,), "relu", conditioning=("shared",)),
    Case(1, 9, 3, 2, (15, 15, 15), "relu", conditioning=("shared",), scaled=True),
    Case(1, 9, 40, 3, (127, 127), "relu", conditioning=("shared",)),
    Case(1, 9, 2, 17, (20, 20), "sine", conditioning=("shared",), scaled=True),
    Case(1, 9, 3, 1, (150, 150), "relu", conditioning=("shared",)),
]


def as_tiny_cuda_nn_does(parameters: Tensor, network: Network, inputs: Tensor) -> Tensor:
    """Its network, from its row of parameters: inputs filled up with ones, matrices [out, in] in a row, no biases."""
    told = configuration(network)
    neurons, activation = told["n_neurons"], {"ReLU": torch.relu, "Sine": torch.sin}[told["activation"]]
    h = pad(inputs, (0, -inputs.shape[-1] % 16), value=1.0)
    for _ in range(told["n_hidden_layers"]):
        size = neurons * h.shape[-1]
        h, parameters = activation(h @ parameters[:size].view(neurons, -1).T), parameters[size:]
    return h @ parameters.view(-1, neurons).T


def call(case: Case) -> Call:
    return case.make(torch.float64)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_row_of_parameters_is_the_network(case: Case) -> None:
    at = call(case)
    values = as_tiny_cuda_nn_does(flat(at.network), at.network, at.inputs)
    assert values.shape[-1] == -(-case.values // 16) * 16
    assert values[..., case.values :].eq(0).all()
    values = values[..., : case.values] + at.network.out_bias
    truth = written_out(at.network, at.inputs)
    agree({"values": values, **at.gradients(values)}, {"values": truth, **at.gradients(truth)}, 1e-12)  # float64


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_row_of_parameters_gives_back_what_it_was_made_of(case: Case) -> None:
    network = call(replace(case, scaled=False)).network
    network = replace(network, scales=(1.0,) * len(network.weights))
    weights, shifts, out_weight = unflat(flat(network), network)
    for found, expected in zip(
        [*weights, *shifts, out_weight], [*network.weights, *network.shifts, network.out_weight], strict=True
    ):
        assert torch.equal(found, expected)


def test_its_networks_are_chosen_by_width_and_activation() -> None:
    told = [configuration(call(case).network) for case in CASES]
    assert [(one["otype"], one["n_neurons"]) for one in told] == [
        ("FullyFusedMLP", 32),
        ("FullyFusedMLP", 16),
        ("FullyFusedMLP", 128),
        ("CutlassMLP", 32),
        ("CutlassMLP", 160),
    ]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (replace(CASES[0], activation="silu"), "silu"),
        (replace(CASES[0], activation="leaky-relu"), "another slope"),
        (replace(CASES[0], signals=2, conditioning=("own",)), "one conditioning for all"),
        (replace(CASES[0], conditioning=("point",)), "one conditioning for all"),
        (replace(CASES[1], widths=(15, 16)), "one width, not 15, 16"),
        (replace(CASES[1], again=(1,)), "first layer alone"),
        (replace(CASES[0], features=32), "no multiple of 16"),
    ],
    ids=str,
)
def test_it_says_what_it_does_not_have(case: Case, said: str) -> None:
    at = call(case)
    assert said in str(refused(at.network, at.inputs))
    assert all(refused(call(able).network, call(able).inputs) is None for able in CASES)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_names_a_kernel_that_works() -> None:
    at = CASES[0].make(torch.float32)
    with pytest.raises(NeuralfieldError, match=r'kernel "tinycudann" needs .*: --set decoder\.kernel='):
        TinyCudaNN()(at.network, at.inputs)


@pytest.mark.skipif(TinyCudaNN.missing() is not None, reason="tiny-cuda-nn does not work here")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_computes_the_network(case: Case) -> None:
    at, exact = case.make(torch.float32, "cuda"), call(case)
    values, truth = TinyCudaNN()(at.network, at.inputs.detach()), written_out(exact.network, exact.inputs)
    # float16 throughout, coordinates too, which w0 = 30 multiplies
    assert error(values, truth) < (0.1 if case.activation == "sine" else 0.01)
