"""The kernels that work on every machine, and the choice among all."""

import subprocess
import sys

import pytest
import torch
from contracts.kernel import CASES, Case, KernelContract, agree, written_out
from torch import Tensor

import neuralfield as nf
from neuralfield.errors import NeuralfieldError
from neuralfield.kernels.cpu import CPU
from neuralfield.kernels.kernel import PREFERRED, Auto, Kernel
from neuralfield.kernels.reference import Reference
from neuralfield.registry import names, resolve

BOTH = (torch.float32, torch.float64)


class TestReference(KernelContract):
    dtypes = BOTH

    def make(self) -> Kernel:
        return Reference()


class TestCPU(KernelContract):
    dtypes = BOTH

    def make(self) -> Kernel:
        return CPU()

    @pytest.mark.parametrize("case", [c for c in CASES if c.signals * c.points < 100 and max(c.widths) < 50][:4], ids=str)
    def test_gradients_are_the_slopes_of_values(self, case: Case) -> None:
        call = case.make(torch.float64)

        def values(*_: Tensor) -> Tensor:
            return self.make()(call.network, call.inputs)

        assert torch.autograd.gradcheck(values, tuple(call.tensors.values()), fast_mode=True)


class TestAuto(KernelContract):
    dtypes = BOTH

    def make(self) -> Kernel:
        return Auto()
