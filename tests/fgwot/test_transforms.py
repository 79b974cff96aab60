"""Callers that are compiled."""

import inspect
import warnings

import pytest
import torch
from problems import random_case

import fgwot


def value(M, C1, C2, p, q):
    doubled = (2 * M).sin()
    solution = fgwot.fused_gromov_wasserstein(M, C1, C2, p, q, alpha=0.5, epsilon=0.5)
    return solution.value + (solution.plan * doubled).sum()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # Dynamo's own access
def test_a_compiled_caller_breaks_once_and_computes_the_same():
    inputs = random_case(0, max_points=6, kind="euclidean").tensors()
    assert torch._dynamo.explain(value)(*inputs).graph_break_count == 1
    torch._dynamo.reset()
    results = []
    for function in (value, torch.compile(value, backend="eager")):
        M = inputs[0].clone().requires_grad_()
        found = function(M, *inputs[1:])
        results.append((found.detach(), *torch.autograd.grad(found, M)))
    torch.testing.assert_close(*results)


def test_signature_and_warning_are_the_callers():
    assert "epsilon" in inspect.signature(fgwot.fused_gromov_wasserstein).parameters
    case = random_case(1, max_points=6, kind="euclidean", epsilon=(0.01, 0.02))
    for solve, more in (
        (fgwot.fused_gromov_wasserstein, {}),
        (fgwot.unbalanced_fused_gromov_wasserstein, {"rho": 1.0}),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            solve(*case.tensors(), **case.weights, **more, max_iter=1)
        assert [warning.filename for warning in caught] == [__file__]
