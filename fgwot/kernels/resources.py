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
from fgwot.kernels.common import accumulator
from fgwot.kernels.contraction import contraction_kernel
from fgwot.kernels.factored import factored_kernel
from fgwot.kernels.shapes import PackVariant, ProductVariant, SweepVariant, Variant
from fgwot.kernels.sinkhorn import columns_kernel, rows_kernel
from fgwot.kernels.solve import solve_kernel
from fgwot.kernels.solve_adjoint import solve_adjoint_kernel

KERNELS = {
    "contraction": contraction_kernel,
    "adjoint": adjoint_kernel,
    "factored": factored_kernel,
    "rows": rows_kernel,
    "columns": columns_kernel,
    "solve": solve_kernel,
    "solve_adjoint": solve_adjoint_kernel,
}
# Bytes of shared memory on a multiprocessor; a program may have all but 1024.
SHARED = {80: 164 * 1024, 90: 228 * 1024}
AnyVariant = Variant | ProductVariant | SweepVariant | PackVariant
_TOOLS = Path(nvidia.__file__).parent / "bin"
_SIZES = ("batch", "n", "m", "depth", "parts", "length", "max_iter")
_COUNTS = ("status", "n_iter")
_ACCUMULATED = ("linear", "quadratic", "out")
_NUMBERS = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.float64: "fp64"}


@dataclass(frozen=True)
class Resources:
    """Per thread: registers and bytes of stack and local memory. Per program: bytes of shared memory.

    `instructions` and `arithmetic` are per term of the sum: all instructions of the innermost loop, and those
    among them that work on floating-point numbers.
    """

    registers: int
    stack: int
    local: int
    shared: int
    instructions: float
    arithmetic: float

    def programs_per_multiprocessor(self, warps: int, capability: int) -> int:
        """Programs that fit at once; an A100 and an H100 hold 65536 registers, 64 warps and 32 programs."""
        registers_per_warp = -(-self.registers // 8) * 8 * 32
        reserved = 1024 if capability == 80 else 0  # on an H100 it is part of `shared`
        by_shared = SHARED[capability] // max(1, self.shared + reserved)
        return min(32, 64 // warps, 65536 // registers_per_warp // warps, by_shared)


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
            signature[name] = f"*{_NUMBERS[accumulator(variant.dtype) if name in _ACCUMULATED else variant.dtype]}"
        # Allocations are multiples of 16; padded rows, and so the distances between problems, as well.
        if name not in constants and (variant.aligned and not parameter.do_not_specialize if number else True):
            aligned[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=variant.tile.options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as binary:
        binary.write(compiled.asm["cubin"])
        binary.flush()
        usage = _run("cuobjdump", "--dump-resource-usage", binary.name)
        listing = _run("nvdisasm", "-c", binary.name)
    used = {key: int(value) for key, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", usage)}
    work = _work(variant, _innermost_loops(listing))
    terms = variant.terms / (32 * variant.tile.warps)
    return Resources(
        registers=used["REG"],
        stack=used["STACK"],
        local=used["LOCAL"] + len(re.findall(r"\b(?:LDL|STL)\b", listing)),
        shared=used["SHARED"] + compiled.metadata.shared,  # fixed at compilation, and asked for at the launch
        instructions=sum(len(lines) / passes for lines, passes in work) / terms,
        arithmetic=sum(sum(map(_is_arithmetic, lines)) / passes for lines, passes in work) / terms,
    )


def _is_arithmetic(line: str) -> bool:
    return re.search(r"\s(?:F(?!2|LO)|D(?!EPBAR))[A-Z0-9]+[. ]", line) is not None


def _work(variant: AnyVariant, loops: list[list[str]]) -> list[tuple[list[str], float]]:
    """Instructions of the loops that count, and how many passes over the terms they make."""
    if isinstance(variant, SweepVariant) and variant.op == "rows":
        # Two loops, of which the second one stores; the compiler may unroll them, with a loop for the rest.
        bits, tile = torch.finfo(variant.dtype).bits, variant.tile
        loaded_once = (tile.rows + 1) * tile.columns * bits / (32 * tile.warps)
        joined = [
            [line for loop in loops if ("STG" in "".join(loop)) == last for line in loop] for last in (False, True)
        ]
        return [(lines, sum(map(_bits_loaded, lines)) / loaded_once) for lines in joined]
    return [(max(loops, key=len, default=[]), 1)]


def _bits_loaded(line: str) -> int:
    load = re.search(r"LDG\.E(?:\.(64|128))?", line)
    return int(load[1] or 32) if load else 0


def _run(tool: str, *arguments: str) -> str:
    return subprocess.run([_TOOLS / tool, *arguments], capture_output=True, text=True, check=True).stdout  # noqa: S603


def _innermost_loops(listing: str) -> list[list[str]]:
    """Instructions of the loops that hold no other: from the target of a backward branch to the branch."""
    code: list[str] = []
    labels: dict[str, int] = {}
    loops: list[tuple[int, int]] = []
    for line in listing.splitlines():
        if label := re.match(r"(\.L\w+):", line):
            labels[label[1]] = len(code)
        elif re.match(r"\s+/\*[0-9a-f]{4,}\*/", line):
            code.append(line)
            target = re.search(r"BRA.*`\((\.L\w+)\)", line)
            if target and target[1] in labels:
                loops.append((labels[target[1]], len(code)))
    innermost = [a for a in loops if not any(b != a and b[0] >= a[0] and b[1] <= a[1] for b in loops)]
    return [code[start:end] for start, end in innermost if end - start > 1]  # programs end in a branch to itself
