"""What the compiler makes of each variant, read from its binary. Needs no GPU."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fgwot.kernels.adjoint import adjoint_kernel
from fgwot.kernels.contraction import contraction_kernel
from fgwot.kernels.shapes import PackVariant, SweepVariant, Variant
from fgwot.kernels.sinkhorn import columns_kernel, rows_kernel
from fgwot.kernels.solve import solve_kernel
from fgwot.kernels.solve_adjoint import solve_adjoint_kernel

KERNELS = {
    "contraction": contraction_kernel,
    "adjoint": adjoint_kernel,
    "rows": rows_kernel,
    "columns": columns_kernel,
    "solve": solve_kernel,
    "solve_adjoint": solve_adjoint_kernel,
}
AnyVariant = Variant | SweepVariant | PackVariant
_DISASSEMBLER = Path(nvidia.__file__).parent / "bin" / "nvdisasm"
_SIZES = ("batch", "n", "m", "parts", "length", "max_iter")
_COUNTS = ("status", "n_iter")
_NUMBERS = {torch.float32: "fp32", torch.float64: "fp64"}


@dataclass(frozen=True)
class Resources:
    """Bytes of shared memory that a program asks for, and how many of its instructions spill registers."""

    shared: int
    spills: int


def compile_variant(variant: AnyVariant, capability: int) -> Resources:
    """Compile for compute capability `capability` (80: A100, 90: H100), as a launch would."""
    kernel: Any = KERNELS[variant.op]
    constants = variant.constants
    signature, aligned = {}, {}
    for position, parameter in enumerate(kernel.params):
        name = parameter.name
        number = name in _SIZES or name.endswith(("_row", "_batch"))
        if name in constants:
            signature[name] = "constexpr"
        elif number:
            signature[name] = "i32"
        elif parameter.annotation == "fp64":
            signature[name] = "fp64"
            continue
        elif name in _COUNTS:
            signature[name] = "*i64"
        else:
            signature[name] = f"*{_NUMBERS[variant.dtype]}"
        # Allocations are multiples of 16; padded rows, and so the distances between problems, as well.
        if name not in constants and (variant.aligned and not parameter.do_not_specialize if number else True):
            aligned[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=variant.tile.options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as binary:
        binary.write(compiled.asm["cubin"])
        binary.flush()
        command = [str(_DISASSEMBLER), "-c", binary.name]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
    return Resources(compiled.metadata.shared, len(re.findall(r"\b(?:LDL|STL)\b", listing)))
