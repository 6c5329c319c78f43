"""Vector instructions for numba: what its Python cannot say, written as LLVM code.

numba has no half precision on CPUs and decides itself what it vectorises. Here code is emitted
for vectors of `LANES` float32, which LLVM turns into AVX-512, AVX2 or NEON instructions. A function
of this module takes an llvmlite builder first and emits code where it stands.

Three types of numba stand for three number formats: float32 for float32, uint16 for float16, int16
for bfloat16 (numba and numpy have no bfloat16).
"""

import math
import platform
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm  # type: ignore[import-untyped]
import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as typed_intrinsic

Value = Any  # an LLVM value; llvmlite ships no types
intrinsic: Any = typed_intrinsic  # its type says that the caller passes the typing context


def cpu_features() -> dict[str, bool]:
    """What the processor can do that numba compiles for."""
    config: Any = numba.config
    if config.CPU_FEATURES is not None:
        return {each[1:]: each[0] == "+" for each in config.CPU_FEATURES.split(",") if each}
    if config.CPU_NAME == "generic":
        return {}
    try:
        return dict(llvm.get_host_cpu_features())
    except RuntimeError:  # LLVM cannot tell on this system
        return {}


FEATURES = cpu_features()
LANES = 16 if FEATURES.get("avx512f") else 8
DOT_BFLOAT16 = bool(FEATURES.get("avx512bf16")) and llvm.llvm_version_info >= (17,)
"""Whether LLVM has instructions for dot products of bfloat16 that add up in float32."""
HALF = platform.machine() not in ("x86_64", "AMD64") or bool(FEATURES.get("f16c"))
"""Whether there are instructions that convert float16."""

BYTE, SHORT, INT, LONG = (ir.IntType(bits) for bits in (8, 16, 32, 64))
FLOAT = ir.FloatType()
VECTOR = ir.VectorType(FLOAT, LANES)
INTS = ir.VectorType(INT, LANES)
ELEMENT = {types.float32: FLOAT, types.uint16: ir.HalfType(), types.int16: SHORT}
SIZE = {types.float32: 4, types.uint16: 2, types.int16: 2}  # bytes


class BFloat(ir.types.Type):
    """LLVM's bfloat, which llvmlite lacks."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BFloat)

    def __hash__(self) -> int:
        return hash(BFloat)


def floats(value: float) -> Value:
    """The constant in all lanes."""
    return ir.Constant(VECTOR, [value] * LANES)


def ints(value: int) -> Value:
    """The constant in all lanes."""
    return ir.Constant(INTS, [value] * LANES)


def call(b: Any, name: str, returns: Any, *arguments: Value) -> Value:
    """Call an LLVM intrinsic."""
    kind = ir.FunctionType(returns, [argument.type for argument in arguments])
    return b.call(cgutils.get_or_insert_function(b.module, kind, name), arguments)


def fma(b: Any, x: Value, y: Value, z: Value) -> Value:
    """x * y + z in all lanes, rounded once."""
    return call(b, f"llvm.fma.v{LANES}f32", VECTOR, x, y, z)


def maximum(b: Any, x: Value, y: Value) -> Value:
    """The larger one in all lanes; a number wins over NaN."""
    return call(b, f"llvm.maxnum.v{LANES}f32", VECTOR, x, y)


def dot_bfloat16(b: Any, total: Value, x: Value, y: Value) -> Value:
    """total[i] + x[2i] y[2i] + x[2i+1] y[2i+1] in float32; x and y have 2 x LANES bfloat16."""
    pairs = ir.VectorType(BFloat(), 2 * LANES)
    x, y = b.bitcast(x, pairs), b.bitcast(y, pairs)
    return call(b, "llvm.x86.avx512bf16.dpbf16ps.512", VECTOR, total, x, y)


def splat(b: Any, scalar: Value) -> Value:
    """The scalar in all lanes."""
    empty = ir.Constant(ir.VectorType(scalar.type, LANES), ir.Undefined)
    return b.shuffle_vector(b.insert_element(empty, scalar, INT(0)), empty, ints(0))


def prefetch(b: Any, address: Value) -> None:
    """Ask for a cache line in L2."""
    arguments = (address, INT(0), INT(2), INT(1))  # read; not as near as L1; data
    call(b, "llvm.prefetch.p0", ir.VoidType(), *arguments)


# -- memory -----------------------------------------------------------------------------------


def pointer(b: Any, address: Value, kind: Any) -> Value:
    """An address, which is an integer, as a pointer to elements of a format."""
    return b.inttoptr(address, ELEMENT[kind].as_pointer())


def load_raw(b: Any, kind: Any, address: Value, lanes: int, live: Value | None = None) -> Value:
    """Vector of elements as they lie there; with `live`, only that many are read, then zeros."""
    element, vector = ELEMENT[kind], ir.VectorType(ELEMENT[kind], lanes)
    if live is None:
        return b.load(b.bitcast(address, vector.as_pointer()), align=SIZE[kind])
    buffer = cgutils.alloca_once(b, vector)
    b.store(ir.Constant(vector, None), buffer)
    cells = b.bitcast(buffer, element.as_pointer())
    with cgutils.for_range(b, live, intp=LONG) as loop:
        b.store(b.load(b.gep(address, [loop.index])), b.gep(cells, [loop.index]))
    return b.load(buffer)


def load(b: Any, kind: Any, address: Value, live: Value | None = None) -> Value:
    """`LANES` elements of any format as float32."""
    return widen(b, kind, load_raw(b, kind, address, LANES, live), VECTOR, INTS)


def store(b: Any, vector: Value, address: Value) -> None:
    """Store float32 lanes at a float32 address that need not be aligned."""
    b.store(vector, b.bitcast(address, vector.type.as_pointer()), align=4)


def widen(b: Any, kind: Any, raw: Value, floating: Any, integer: Any) -> Value:
    """Elements, or one, as float32."""
    if kind == types.float32:
        return raw
    if kind == types.uint16:
        return b.fpext(raw, floating)
    sixteen = ir.Constant(integer, 16 if integer is INT else [16] * LANES)
    return b.bitcast(b.shl(b.zext(raw, integer), sixteen), floating)


def narrow(b: Any, kind: Any, value: Value) -> Value:
    """One float32 in another format, rounded to nearest even."""
    if kind == types.float32:
        return value
    if kind == types.uint16:
        return b.fptrunc(value, ELEMENT[kind])
    bits = b.bitcast(value, INT)
    odd = b.and_(b.lshr(bits, INT(16)), INT(1))
    rounded = b.add(b.add(bits, INT(0x7FFF)), odd)
    quiet = b.or_(bits, INT(0x400000))  # else rounding could turn NaN into infinity
    bits = b.select(b.fcmp_unordered("uno", value, value), quiet, rounded)
    return b.trunc(b.lshr(bits, INT(16)), SHORT)


@intrinsic
def get(typing: Any, address: Any, kind: Any, index: Any) -> Any:
    """Element number `index` from an address on, as float32; the type of `kind` is its format."""

    def emit(context: Any, b: Any, signature: Any, arguments: Any) -> Value:
        cell = b.gep(pointer(b, arguments[0], kind), [arguments[2]])
        return widen(b, kind, b.load(cell), FLOAT, INT)

    return types.float32(types.intp, kind, types.intp), emit


@intrinsic
def put(typing: Any, address: Any, kind: Any, index: Any, value: Any) -> Any:
    """Write a float32 there, rounded to the format."""

    def emit(context: Any, b: Any, signature: Any, arguments: Any) -> Value:
        cell = b.gep(pointer(b, arguments[0], kind), [arguments[2]])
        b.store(narrow(b, kind, arguments[3]), cell)
        return context.get_dummy_value()

    return types.void(types.intp, kind, types.intp, types.float32), emit


# -- arithmetic -------------------------------------------------------------------------------


def exp2(b: Any, x: Value) -> Value:
    """2^x in all lanes: 0 below -126, NaN of NaN; not for x above 127.

    2^x = 2^n 2^r with n the nearest integer. The Taylor series of 2^r to the power 7 is off by
    less than (ln(2) / 2)^8 / 8! = 5e-9 for |r| <= 1/2.
    """
    n = call(b, f"llvm.rint.v{LANES}f32", VECTOR, x)
    r = b.fsub(x, n)
    series = [floats(math.log(2) ** k / math.factorial(k)) for k in range(8)]
    total = series[-1]
    for coefficient in reversed(series[:-1]):
        total = fma(b, total, r, coefficient)
    exponent = b.shl(b.add(b.fptosi(n, INTS), ints(127)), ints(23))
    power = b.fmul(total, b.bitcast(exponent, VECTOR))
    return b.select(b.fcmp_ordered("<", x, floats(-126.0)), floats(0.0), power)


def across(b: Any, vector: Value, combine: Callable[[Any, Value, Value], Value]) -> Value:
    """All lanes combined into one scalar."""
    half = LANES // 2
    while half:
        mask = [*range(half, 2 * half), *[0] * (LANES - half)]
        other = b.shuffle_vector(vector, vector, ir.Constant(INTS, mask))
        vector, half = combine(b, vector, other), half // 2
    return b.extract_element(vector, INT(0))


def sums_of(b: Any, vectors: Sequence[Value]) -> Value:
    """Lane i is the sum of the lanes of vector i; there are `LANES` vectors.

    Pairs of vectors are halved into one, so that a sum costs two shuffles and one addition. The
    first two rounds stay within quarters of 128 bits, which is cheap on x86.
    """
    quarters = LANES // 4
    unpack = [4 * q + k + other for q in range(quarters) for k in (0, 1) for other in (0, LANES)]
    pair = [4 * q + k + other for q in range(quarters) for other in (0, LANES) for k in (0, 1)]
    vectors = halved(b, vectors, unpack, [i + 2 for i in unpack])
    vectors = halved(b, vectors, pair, [i + 2 for i in pair])
    even = [4 * q + k for q in range(0, 2 * quarters, 2) for k in range(4)]
    while len(vectors) > 1:
        vectors = halved(b, vectors, even, [i + 4 for i in even])
    return vectors[0]


def halved(b: Any, vectors: Sequence[Value], one: list[int], two: list[int]) -> list[Value]:
    """Each pair of vectors as the sum of two selections of their lanes."""
    first, second = ir.Constant(INTS, one), ir.Constant(INTS, two)
    return [
        b.fadd(b.shuffle_vector(x, y, first), b.shuffle_vector(x, y, second))
        for x, y in zip(vectors[::2], vectors[1::2], strict=True)
    ]
