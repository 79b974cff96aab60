"""Every variant compiles for an A100 and an H100, spills nothing, and stays within its registers. Needs no GPU."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import pytest

pytest.importorskip("triton", reason="triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("a process that interprets kernels cannot compile them", allow_module_level=True)

from fgwot.kernels.shapes import PACK_VARIANTS, PRODUCT_VARIANTS, SWEEP_VARIANTS, VARIANTS

# At most, by float width and tile side; docs/kernels.md has the figures themselves.
REGISTERS = {"float32-16": 64, "float32-32": 96, "float32-64": 128, "float64-16": 112, "float64-32": 200}
# At most, per term of the sum, in the variants that large problems use.
INSTRUCTIONS = {
    "contraction-abs-float32-64": 2.4,
    "contraction-huber-float32-64": 5.4,
    "adjoint-abs-float32-64": 4.45,
    "adjoint-huber-float32-64": 4.45,
}
# The same by product tile and precision, for aligned rows.
PRODUCTS = {
    "factored-ieee-float32-64": (128, 1.25),
    "factored-ieee-float32-128": (255, 1.2),
    "factored-tf32x3-float32-64": (128, 1.0),
    "factored-tf32x3-float32-128": (255, 0.85),
}
# The same by form and role of the row kernel of a sweep in float32: per entry and update of both sides.
SWEEPS = {
    "log": (80, 16.5),
    "log-unaligned": (88, 18.5),
    "log-plan": (96, 13.5),
    "log-plan-unaligned": (128, 16),
    "scaling": (80, 5.7),
    "scaling-unaligned": (88, 7.5),
    "scaling-plan": (96, 8),
    "scaling-plan-unaligned": (128, 10.5),
}
# Whole solves: registers, programs on a multiprocessor and instructions of warps per problem and inner sweep, which
# include its part of the look at the error. A layout of the sweeps that shuffles more shows in the last.
SOLVES = {
    "float32-8": (168, 12, 17.5),
    "float32-16": (80, 25, 112),
    "float32-32": (126, 8, 346),
    "float32-64": (168, 3, 1220),
    "float64-8": (168, 12, 70),
    "float64-16": (144, 7, 370),
    "float64-32": (255, 2, 1170),
}
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}


@pytest.fixture(scope="module")
def compilations(request):
    """Compile what the selected tests ask for, on all cores."""
    from fgwot.kernels.resources import compile_variant

    asked = [item.callspec.params for item in request.session.items if item.path == request.path]
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        keys = [(params["variant"], params["capability"]) for params in asked]
        yield {key: pool.submit(compile_variant, *key) for key in keys}
        pool.shutdown(cancel_futures=True)


@pytest.fixture
def used(compilations, variant, capability):
    """Resources of a variant, which spills nothing and fits into shared memory."""
    used = compilations[variant, capability].result()
    assert used.stack == used.local == 0
    assert used.shared <= SHARED_LIMIT[capability]
    return used


@pytest.mark.slow
@pytest.mark.parametrize("capability", SHARED_LIMIT)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_variant_fits(variant, used):
    assert used.registers <= REGISTERS["-".join(str(variant).split("-")[2:])]
    assert used.instructions <= INSTRUCTIONS.get(str(variant), 30)


@pytest.mark.slow
@pytest.mark.parametrize("capability", SHARED_LIMIT)
@pytest.mark.parametrize("variant", PRODUCT_VARIANTS, ids=str)
def test_product_fits(variant, used):
    registers, instructions = PRODUCTS.get(str(variant), (255, 2))
    assert used.registers <= registers
    assert used.instructions <= instructions


@pytest.mark.slow
@pytest.mark.parametrize("capability", SHARED_LIMIT)
@pytest.mark.parametrize("variant", SWEEP_VARIANTS, ids=str)
def test_sweep_fits(variant, used):
    op, form, number, _, *role = str(variant).split("-")
    if op == "rows" and number == "float32":
        registers, instructions = SWEEPS["-".join((form, *role))]
        assert used.registers <= registers
        assert used.instructions <= instructions


@pytest.mark.slow
@pytest.mark.parametrize("capability", SHARED_LIMIT)
@pytest.mark.parametrize("variant", PACK_VARIANTS, ids=str)
def test_whole_problems_stay_in_registers(variant, capability, used):
    if variant.op == "solve":
        registers, programs, instructions = SOLVES["-".join(str(variant).split("-")[2:4])]
        assert used.registers <= registers
        assert used.programs_per_multiprocessor(variant.tile.warps, capability) >= programs
        assert used.instructions / 32 <= instructions
