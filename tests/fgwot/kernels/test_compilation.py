"""Kernels compile for an A100 and an H100 and fit into their shared memory. Needs no GPU.

A spill costs time, which only a GPU can tell, and is reported: `pytest -rP`.
"""

import os

import pytest

pytest.importorskip("triton", reason="triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("a process that interprets kernels cannot compile them", allow_module_level=True)

from fgwot.kernels.resources import compile_variant
from fgwot.kernels.shapes import PACK_VARIANTS, SWEEP_VARIANTS, VARIANTS

ALL = [*VARIANTS, *SWEEP_VARIANTS, *PACK_VARIANTS]
SHARED = {80: 163 * 1024, 90: 227 * 1024}  # bytes that a program may have, by compute capability
# One of each kernel: these are compiled by several versions of Triton, `make versions`.
SAMPLE = {
    "contraction-huber-float32-64",
    "adjoint-huber-float64-32",
    "rows-log-float32-128",
    "columns-scaling-float32-128-plan",
    "solve-square-float32-16-bare",
    "solve_adjoint-kl-float32-16",
}


def test_the_sample_has_every_kernel():
    assert {str(v) for v in ALL} >= SAMPLE
    assert {v.op for v in ALL if str(v) in SAMPLE} == {v.op for v in ALL}


def marks(variant, capability):
    if str(variant) not in SAMPLE:
        return [pytest.mark.exhaustive]
    return [pytest.mark.sample] if capability == 90 else [pytest.mark.sample, pytest.mark.exhaustive]


@pytest.mark.parametrize(
    ("variant", "capability"),
    [
        pytest.param(variant, capability, id=f"{variant}-sm{capability}", marks=marks(variant, capability))
        for variant in ALL
        for capability in SHARED
    ],
)
def test_variant_compiles(variant, capability):
    used = compile_variant(variant, capability)
    assert used.shared <= SHARED[capability]
    if used.spills:
        print(f"{variant} spills for sm_{capability}: {used.spills} of its instructions")
