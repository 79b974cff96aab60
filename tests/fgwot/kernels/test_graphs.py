"""K-MaT's loss in a CUDA graph: one that is replayed must not need the host. Needs a CUDA device."""

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

import fgwot

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: there are no graphs elsewhere"),
]


def test_the_loss_and_its_gradient_are_captured_and_replayed():
    M, C1, C2 = (torch.rand(4, 4, device="cuda", requires_grad=True) for _ in range(3))

    def step():
        cost = fgwot.fused_gromov_wasserstein(M, C1, C2, alpha=0.1, epsilon=0.1).cost
        return cost, *torch.autograd.grad(cost, (M, C1, C2))

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        step()  # compiles
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        M.copy_(torch.rand(4, 4, device="cuda"))
    graph.replay()
    for replayed, expected in zip(captured, step(), strict=True):
        torch.testing.assert_close(replayed, expected)
