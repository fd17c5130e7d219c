"""Every kernel compiles for every architecture, spills nothing, and keeps its registers; see nvrtc.py.

It takes no GPU. Architectures: 75 Turing, 80 and 86 Ampere, 89 Ada, 90 Hopper, 100 and 120 Blackwell.
"""
import re
from dataclasses import dataclass
from itertools import product

import pytest

import nvrtc
from tinycogvlm.kernels import library
from tinycogvlm.kernels.runner import source

ARCHITECTURES = 75, 80, 86, 89, 90, 100, 120
BY_DEFAULT = 80                                             # the first with every kernel, by default in its last template
WHOLE = 80,                                                 # --slow: here every template, on the others a share of them

FLOAT, HALF, BFLOAT = "float", "half", "__nv_bfloat16"
FLOATS, HALVES = (FLOAT, HALF, BFLOAT), (HALF, BFLOAT)


def each(*choices):
    """Template arguments: every combination, "float, 1", "float, 8" ..."""
    return tuple(", ".join(map(str, chosen)) for chosen in product(*choices))


# What every thread has of an SM's 65536 registers when as many threads as it can hold (1024, 2048 or 1536) live on it:
# up to here a register costs nothing.
FREE = {75: 64, 80: 32, 86: 40, 89: 40, 90: 32, 100: 32, 120: 40}
# Of these architectures alone, a larger limit of registers
LARGER = {("expert_matmul_v4", 86): 104, ("expert_matmul_v4", 89): 104, ("expert_matmul_v4", 120): 112}
# Bytes that these spill on Blackwell alone, where their threads (256 twice, 1024) leave them 128 and 64 registers
SPILLED = {("expert_matmul_v5<__nv_bfloat16>", 100): 32, ("sample_v3<float>", 120): 36}


@dataclass(frozen=True)
class Row:
    """What is expected of a kernel."""
    kernel: str
    registers: int                                          # of a thread at most, if FREE does not allow more
    templates: tuple = FLOATS                               # all arguments that launchers compile it for
    wide: bool | None = False                               # it loads 16 bytes at once: LDG.E.128, LDGSTS for cp.async;
                                                            # or stores them: STG.E.128. None: some templates do
    tensor: bool = False                                    # it uses tensor cores: HMMA
    since: int = 75                                         # the first architecture
    why: str = ""                                           # it is not for those before

    @property
    def names(self):
        return [f"{self.kernel}<{template}>" if template else self.kernel for template in self.templates]


CP_ASYNC = "mma.m16n8k16 and cp.async came with sm_80; sm_75 stops at the version before"
HEADS, DECODED_HEADS = (128, 112, 64, 32), (128, 64, 32)    # sizes of attention.cu and attention_decode.cu: the last
                                                            # compiles soonest
ROWS = 1, 2, 3, 4                                           # of x that gemv.cu takes at once
CODES = "half, Int4", "half, Int8"
ON_TENSOR_CORES = dict(wide=None, tensor=True, since=80, why=CP_ASYNC)
WEIGHTS = tuple(f"{T}, {W}" for T in FLOATS for W in dict.fromkeys((T, BFLOAT, "Int8", "Int4")))
TABLE = {
    "attention.cu": (
        Row("attention_v1", 168, each(FLOATS, HEADS)),
        Row("attention_v2", 200, each(FLOATS, HEADS)),
        Row("attention_v3", 232, each(HALVES, HEADS), wide=True, tensor=True, since=80, why=CP_ASYNC)),
    "attention_decode.cu": (
        Row("attention_decode_split", 184, each(FLOATS, DECODED_HEADS, (1, 2, 3, 4)), wide=True),
        Row("attention_decode_combine", 32)),
    "column_sum.cu": (Row("column_sum", 32),),
    "expert_matmul.cu": (
        Row("expert_matmul_v1", 32), Row("expert_matmul_v2", 32), Row("expert_matmul_v3", 64),
        Row("expert_matmul_v4", 88, HALVES, wide=True, tensor=True, since=80, why=CP_ASYNC),
        Row("expert_matmul_v5", 128, HALVES, wide=True, tensor=True, since=80, why=CP_ASYNC),
        Row("expert_matmul_v6", 128, each(HALVES, ("Int8", "Int4")), wide=True, tensor=True, since=80, why=CP_ASYNC)),
    "expert_matmul_backward.cu": (
        Row("expert_dweight_v1", 48), Row("expert_dweight_v2", 64),
        Row("expert_dweight_v3", 96, HALVES, wide=True, tensor=True, since=80, why=CP_ASYNC)),
    "gelu.cu": (
        Row("gelu_v1", 32), Row("gelu_v2", 56, wide=True),
        Row("gelu_backward_v1", 32), Row("gelu_backward_v2", 48, wide=True)),
    "gemv.cu": (
        Row("gemv_v1", 48, WEIGHTS), Row("gemv_v2", 40, WEIGHTS, wide=True),
        Row("gemv_fused", 128, each(WEIGHTS, ROWS, ("Version3",), (FLOAT,)) + tuple(
            f"{weights}, {rows}, Version3, {weights.partition(',')[0]}" for weights in WEIGHTS for rows in ROWS
            if not weights.startswith(FLOAT)), wide=True),
        Row("gemv_fused", 64, each(CODES, ROWS, ("Version4",), (FLOAT, HALF)), **ON_TENSOR_CORES),
        Row("gate_up_swiglu", 128, each(WEIGHTS, ROWS, ("Version3",)), wide=True),
        Row("gate_up_swiglu", 64, each(CODES, ROWS, ("Version4",)), **ON_TENSOR_CORES),
        Row("qkv_rotary_append", 128, each(WEIGHTS, ROWS, ("Version3",)), wide=True),
        Row("qkv_rotary_append", 64, each(CODES, ROWS, ("Version4",)), **ON_TENSOR_CORES)),
    "layernorm.cu": (
        Row("layer_norm_v1", 32), Row("layer_norm_v2", 32),
        Row("layer_norm_v3", 168, each(FLOATS, (1, 2, 4, 8, 16)), wide=True),
        Row("layer_norm_backward_v1", 32), Row("layer_norm_dweight_v1", 32), Row("layer_norm_backward_v2", 40)),
    "patch_embed.cu": (Row("patch_embed_v1", 32), Row("patch_embed_v2", 32), Row("patch_embed_v3", 64)),
    "rmsnorm.cu": (
        Row("rms_norm_v1", 32), Row("rms_norm_v2", 32), Row("rms_norm_v3", 32, wide=True),
        Row("rms_norm_backward_v1", 32), Row("rms_norm_dweight_v1", 32), Row("rms_norm_backward_v2", 32)),
    "quantise.cu": (Row("quantise", 48, each(FLOATS, (8, 4))),),
    "residual.cu": (Row("residual", 32, wide=True),),
    "rotary.cu": (Row("rotary_v1", 40, each(FLOATS, (FLOAT, HALF))), Row("rotary_v2", 40, each(FLOATS, (FLOAT, HALF))),
                  Row("append", 40, (*FLOATS, *(f"Pack<{T}>" for T in FLOATS)), wide=None)),
    "rows.cu": (Row("rows", 40, WEIGHTS, wide=True),
                Row("advance", 32, ("",))),
    "sample.cu": (Row("argmax_v1", 32), Row("argmax_v2", 32), Row("sample_v1", 32),
                  Row("sample_v2", 64), Row("sample_v3", 64)),
    "softmax_cross_entropy.cu": (
        Row("cross_entropy_v1", 32), Row("cross_entropy_v2", 32), Row("cross_entropy_v3", 32, wide=True)),
    "swiglu.cu": (
        Row("swiglu_v1", 32), Row("swiglu_v2", 32, wide=True),
        Row("swiglu_backward_v1", 32), Row("swiglu_backward_v2", 32, wide=True)),
}


def test_the_table_has_every_kernel():
    files = {path.name: list(source.kernels(source.read(path))) for path in source.HERE.glob("*.cu")}
    assert {file: list(dict.fromkeys(row.kernel for row in rows)) for file, rows in TABLE.items()} == files


def test_every_kernel_has_its_launcher():
    """As the docstring of kernels/library lists them: a file belongs to one module, which loads it."""
    listed = dict(re.findall(r"^    (\w+\.py) +(.*)", library.__doc__, re.MULTILINE))
    files = {module: re.findall(r"\w+\.cu\b", line) for module, line in listed.items()}
    assert sorted(sum(files.values(), [])) == sorted(TABLE)
    assert set(listed) == {path.name for path in source.HERE.glob("*.py")} - {"__init__.py"}
    for module, names in files.items():
        assert all(f'"{name}"' in source.read(source.HERE / module) for name in names), module


def test_every_exclusion_has_a_reason():
    assert all((row.since == min(ARCHITECTURES)) == (row.why == "") for rows in TABLE.values() for row in rows)


needs_nvrtc = pytest.mark.skipif(nvrtc.why_not() is not None, reason=str(nvrtc.why_not()))


def last(names, arch):
    return names[-1:]


def spread(names, arch):
    """All names, or those that are this architecture's turn: each comes on one or two of those that are not WHOLE."""
    turn = ARCHITECTURES.index(arch)
    return names if arch in WHOLE else names[turn % len(names)::4]


matrix = pytest.mark.parametrize("file, arch, templates", [
    *(pytest.param(file, BY_DEFAULT, last, id=f"{file}-sm_{BY_DEFAULT}") for file in TABLE),
    *(pytest.param(file, arch, spread, id=f"{file}-sm_{arch}-spread",
                   marks=[pytest.mark.slow, pytest.mark.xdist_group(f"{file}-sm_{arch}")])   # compiled once for both
      for arch in ARCHITECTURES for file in TABLE)])


def expected(file, arch, templates):
    """-> {name: Row} of the kernels that a file has for an architecture, and what nvrtc's functions take"""
    rows = {name: row for row in TABLE[file] if row.since <= arch for name in templates(row.names, arch)}
    return rows, (source.HERE / file, tuple(rows), f"sm_{arch}")


@needs_nvrtc
@matrix
def test_compiles_without_spills_within_its_registers(file, arch, templates):
    rows, program = expected(file, arch, templates)
    found = nvrtc.compiled(*program).resources
    most = {name: LARGER.get((name.partition("<")[0], arch), max(row.registers, FREE[arch])) for name, row in rows.items()}
    wrong = [f"{name}: {found[name]}, at most {most[name]} registers" for name in rows
             if found[name].spilled > SPILLED.get((name, arch), 0) or found[name].registers > most[name]
             or (found[name].stack and (name, arch) not in SPILLED)]
    assert not wrong, "\n".join(wrong)


@needs_nvrtc
@pytest.mark.skipif(nvrtc.disassembler() is None, reason="needs nvdisasm: pip install -e '.[compile-test]'")
@matrix
def test_loads_and_tensor_cores_are_those_that_are_meant(file, arch, templates):
    rows, program = expected(file, arch, templates)
    instructions = nvrtc.instructions(*program)
    for name, row in rows.items():
        text = "\n".join(instructions[name])
        assert re.search(r"\bEXIT\b", text), name
        assert bool(re.search(r"\b(LDG|LDGSTS|STG)\.\S*\b128\b", text)) == row.wide or row.wide is None, name
        assert bool(re.search(r"\bHMMA\.", text)) == row.tensor, name


# {kernel: (tensor cores' instructions in its inner loop, all instructions in it at most)}: what the ledger counts
INNER_LOOPS = {"expert_matmul_v4": (16, 84), "expert_matmul_v5": (32, 88), "expert_matmul_v6": (32, 244)}


@needs_nvrtc
@pytest.mark.skipif(nvrtc.disassembler() is None, reason="needs nvdisasm: pip install -e '.[compile-test]'")
@pytest.mark.parametrize("arch, templates", [(80, last), pytest.param(90, spread, marks=[
    pytest.mark.slow, pytest.mark.xdist_group("expert_matmul.cu-sm_90")])])
def test_inner_loops_feed_the_tensor_cores(arch, templates):
    rows, program = expected("expert_matmul.cu", arch, templates)
    loops = nvrtc.loops(*program)
    for name, row in rows.items():
        if row.tensor:
            [loop] = [loop for loop in loops[name] if any("HMMA" in line for line in loop)]
            products, most = INNER_LOOPS[row.kernel]
            assert sum("HMMA" in line for line in loop) == products and len(loop) <= most, (name, len(loop))
            loads = sum(bool(re.match(r"(@!?U?P\d )?LD[GL]\b", line)) for line in loop)
            assert loads == (row.kernel == "expert_matmul_v6"), name        # all comes by cp.async, but a scale of codes


# {file: {kernel: (weights in an iteration of its longest innermost loop, instructions a weight at most)}}
A_WEIGHT = {"gemv.cu": {"gate_up_swiglu<half, Int4, 1, Version4>": (128, 2.2),
                        "gate_up_swiglu<half, Int8, 1, Version4>": (64, 2.6)},
            "rows.cu": {"rows<half, Int4>": (8, 7.5), "rows<half, Int8>": (8, 8.2), "rows<half, __nv_bfloat16>": (8, 3.3)}}


@needs_nvrtc
@pytest.mark.slow
@pytest.mark.skipif(nvrtc.disassembler() is None, reason="needs nvdisasm: pip install -e '.[compile-test]'")
@pytest.mark.parametrize("file", A_WEIGHT)
def test_instructions_a_weight(file):
    """On an H200, as benchmarks/README.md has them."""
    loops = nvrtc.loops(source.HERE / file, tuple(A_WEIGHT[file]), "sm_90")
    for name, (weights, most) in A_WEIGHT[file].items():
        whole = "HMMA" if file == "gemv.cu" else "STG.E.128"
        instructions = min(len(loop) for loop in loops[name] if any(whole in line for line in loop))
        assert most - 0.5 < instructions / weights <= most, (name, instructions)
