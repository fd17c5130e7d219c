"""One safetensors file: its header and tensors read, a file written, and what is said of a bad one."""
import errno
import gc
import json
import os
import re
import struct
import threading
import time
import warnings

import numpy as np
import pytest
import safetensors.numpy

from checkpoints import GOLDEN, float32, generated
from tinycogvlm.model.parts import COMPUTED, EMBEDDING
from tinycogvlm.storage import atomic
from tinycogvlm.errors import UserError
from tinycogvlm.nn.arrays import bfloat16, bfloat16_bits, bfloat16_bits_up, from_bfloat16_bits, round_to
from tinycogvlm.storage.checkpoint import Checkpoint
from tinycogvlm.storage.leaves import Leaves
from tinycogvlm.storage.safetensors_file import read_header, write_safetensors

TYPES = {"BOOL": bool, "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16, "U32": np.uint32,
         "I32": np.int32,
         "U64": np.uint64, "I64": np.int64, "F16": np.float16, "F32": np.float32, "F64": np.float64,
         "C64": np.complex64}


def header_only(path, shapes, dtype="BF16", itemsize=2):
    """A safetensors file of tensors of zeros that occupy no disk space: a header, and the rest a hole."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + int(np.prod(shape)) * itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        try:
            file.truncate(8 + len(text) + end)
        except OSError:
            pytest.skip("this file system has no sparse files")
    if os.name == "nt" or os.stat(path).st_blocks * 512 > 10 ** 7:
        pytest.skip("this file system has no sparse files")
    return end


def every_type(seed=0):
    """One array of each dtype and several shapes: scalars, empty ones, more axes."""
    rng = np.random.default_rng(seed)
    shapes = [(), (0,), (3,), (2, 5), (4, 0, 2), (2, 3, 4)]
    return {f"{code}.{i}": np.frombuffer(rng.bytes(int(np.prod(shape)) * np.dtype(kind).itemsize), kind).reshape(shape)
            if kind is not bool else np.asarray(rng.random(shape) < 0.5)
            for code, kind in TYPES.items() for i, shape in enumerate(shapes)}


def test_reads_the_package_s_files(tmp_path):
    arrays, path = every_type(), tmp_path / "x.safetensors"
    safetensors.numpy.save_file(arrays, path)
    tensors = read_header(path)
    assert set(tensors) == set(arrays)
    for name, expected in arrays.items():
        tensor, array = tensors[name], tensors[name].numpy()
        assert (tensor.name, tensor.path, tensor.nbytes) == (name, path, expected.nbytes)
        assert tensor.dtype == name.split(".")[0] and tensor.shape == array.shape == expected.shape
        assert array.dtype == expected.dtype and array.tobytes() == expected.tobytes()
        if expected.ndim:
            rows = [slice(1, 3), slice(None, None, 2), slice(-2, None), slice(5, 2), [], [-1] * (len(expected) > 0)]
            for chosen in [*rows, *range(len(expected)), np.arange(len(expected))[:, None]]:
                chosen = np.array(chosen, int) if isinstance(chosen, list) else chosen
                assert tensor[chosen].tobytes() == expected[chosen].tobytes()
                assert tensor[chosen].shape == expected[chosen].shape
            with pytest.raises(IndexError):
                tensor[[len(expected)]]


def test_bfloat16_is_read_exactly(tmp_path):
    """All 65536 patterns: NaNs with their payloads, subnormals, infinities; widened, they are the same numbers."""
    bits, path = np.arange(65536, dtype="<u2").reshape(256, 256), tmp_path / "x.safetensors"
    header = b'{"a":{"dtype":"BF16","shape":[256,256],"data_offsets":[0,131072]}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header + bits.tobytes())
    expected = np.frombuffer(b"".join(b"\0\0" + struct.pack("<H", b) for b in range(65536)), "<f4").reshape(256, 256)
    tensor = read_header(path)["a"]
    for rows in (..., 3, slice(7, 11), np.array([[5, 0], [255, 5]])):
        wide = tensor[rows].astype(np.float32)
        assert tensor[rows].dtype == bfloat16() and tensor[rows].tobytes() == bits[rows].tobytes()
        assert np.array_equal(wide, expected[rows], equal_nan=True) and wide.shape == expected[rows].shape
        assert from_bfloat16_bits(bits[rows]).tobytes() == expected[rows].tobytes()


def test_misaligned_data_is_aligned_when_used(tmp_path):
    header, path = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', tmp_path / "x.safetensors"
    header += b" " * ((1 - len(header)) % 4)
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<2f", 1.5, -2))
    array = read_header(path)["a"].numpy()
    assert array.flags.aligned and array.tolist() == [1.5, -2]


def test_written_file_is_the_package_s_byte_for_byte(tmp_path):
    arrays = every_type(1) | {'quo"te\n\x01ü\x7f': np.ones(3, np.float32)}
    write_safetensors(tmp_path / "x.safetensors", arrays)
    assert (tmp_path / "x.safetensors").read_bytes() == safetensors.numpy.save(arrays, {"format": "pt"})
    write_safetensors(tmp_path / "y.safetensors", read_header(tmp_path / "x.safetensors"))     # from Tensors
    assert (tmp_path / "y.safetensors").read_bytes() == (tmp_path / "x.safetensors").read_bytes()
    write_safetensors(tmp_path / "z.safetensors", {})
    assert (tmp_path / "z.safetensors").read_bytes() == safetensors.numpy.save({}, {"format": "pt"})


def test_writes_any_memory_order_and_byte_order(tmp_path):
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    write_safetensors(tmp_path / "x.safetensors", {"T": x.T, "step": x[::2, ::3], "big": x.astype(">f4"),
                                                   "neg": x[::-1]})
    tensors = read_header(tmp_path / "x.safetensors")
    for name, expected in {"T": x.T, "step": x[::2, ::3], "big": x, "neg": x[::-1]}.items():
        np.testing.assert_array_equal(tensors[name].numpy(), expected, strict=False)


def test_bfloat16_rounds_to_nearest_even(tmp_path):
    rng = np.random.default_rng(0)
    bits = [rng.standard_normal(5000, np.float32), rng.standard_normal(5000, np.float32) * np.float32(1e-39),
            rng.integers(0, 2 ** 32, 20000, np.uint32),
            rng.integers(0, 2 ** 16, 5000).astype(np.uint32) << 16 | 0x8000,            # ties
            np.float32([0.0, -0.0, np.inf, -np.inf, np.nan, 3.4028235e38, -3.4028235e38, 3.3895314e38]),
            np.uint32([0x7F800001, 0xFFFFFFFF, 0x7FFFFFFF, 0xFF800001])]            # NaNs of few and of all bits
    x = np.concatenate([part.view(np.uint32) for part in bits]).view(np.float32)
    with np.errstate(invalid="ignore"):                                         # NumPy warns of signalling NaNs
        y = round_to(x, "bfloat16")
        assert bfloat16_bits(x).tobytes() == (y.view(np.uint32) >> 16).astype("<u2").tobytes()
    np.testing.assert_array_equal(np.isnan(y), np.isnan(x))
    kept = ~np.isnan(x)
    a, b = x[kept].astype(np.float64), y[kept]
    # The two candidates around x are the truncated bits and one step away from zero; infinity counts as 2^128.
    low = (x[kept].view(np.uint32) & 0xFFFF0000).view(np.float32)
    high = (low.view(np.uint32) + np.where(np.isinf(low), 0, 0x10000).astype(np.uint32)).view(np.float32)
    wide_high = np.where(np.isinf(high), np.copysign(2.0 ** 128, high.astype(np.float64)), high.astype(np.float64))
    with np.errstate(invalid="ignore"):
        to_low, to_high = abs(a - low), abs(a - wide_high)
    odd = (low.view(np.uint32) >> 16 & 1).astype(bool)
    expected = np.where((to_high < to_low) | ((to_high == to_low) & odd), high, low)
    expected[np.isinf(a)] = a[np.isinf(a)]
    assert b.tobytes() == expected.tobytes()
    fits = np.isfinite(y) | ~np.isfinite(x)
    write_safetensors(tmp_path / "x.safetensors", {"x": x[fits]}, dtype="BF16")
    theirs = dict(safetensors.deserialize((tmp_path / "x.safetensors").read_bytes()))["x"]
    assert theirs["dtype"] == "BF16" and bytes(theirs["data"]) == bfloat16_bits(y[fits]).tobytes()
    up = from_bfloat16_bits(bfloat16_bits_up(x[kept]))                          # away from zero: never smaller than x
    np.testing.assert_array_equal(up, np.where(low == x[kept], low, high))


@pytest.mark.parametrize("dtype, kind", [("F16", np.float16), ("F32", np.float32), ("F64", np.float64)])
def test_dtype_changes_floating_point_tensors_only(dtype, kind, tmp_path):
    arrays = {"f": np.array([1.00048828125, -3e-6, 65504, np.inf], np.float64), "h": np.float16([1, 2]),
              "i": np.arange(3), "b": np.ones(2, bool)}
    write_safetensors(tmp_path / "x.safetensors", arrays, dtype)
    expected = arrays | {"f": arrays["f"].astype(kind), "h": arrays["h"].astype(kind)}
    tensors = read_header(tmp_path / "x.safetensors")
    for name in arrays:
        assert tensors[name].numpy().dtype == expected[name].dtype
        assert tensors[name].numpy().tobytes() == expected[name].tobytes()


@pytest.mark.parametrize("number, dtype", [(65520, "F16"), (-1e30, "F16"), (1e39, "F32"), (3.4e38, "BF16")])
def test_a_number_that_would_become_infinite_is_refused(number, dtype, tmp_path):
    """65519 rounds to float16's largest number, 65504; 65520 would be infinite."""
    write_safetensors(tmp_path / "x.safetensors", {"a": np.array([65519.0, np.inf, np.nan])}, dtype)
    said = re.escape(f"tensor 'w' holds {number:.3g}, which is too large for {dtype}; ") + ".* can hold it"
    with pytest.raises(UserError, match=said):
        write_safetensors(tmp_path / "x.safetensors", {"w": np.array([1, number, np.inf])}, dtype)
    assert read_header(tmp_path / "x.safetensors").keys() == {"a"}


def test_what_cannot_be_written_is_refused(tmp_path):
    for arrays, dtype, words in (({"a": np.ones(2)}, "F8_E4M3", "F8_E4M3"),
                                 ({"a": np.ones(2, complex)}, None, "complex128"),
                                 ({"a": np.array(["x"])}, None, "<U1"),
                                 ({"__metadata__": np.ones(2)}, None, "__metadata__")):
        with pytest.raises(UserError, match=words):
            write_safetensors(tmp_path / "x.safetensors", arrays, dtype)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="missing.x.safetensors: cannot be written"):
        write_safetensors(tmp_path / "missing" / "x.safetensors", {"a": np.ones(2)})


@pytest.mark.skipif(os.name == "nt", reason="Windows does not replace files that are open")
def test_a_file_can_be_written_from_its_own_tensors(tmp_path):
    path, arrays = tmp_path / "x.safetensors", generated({"a": (300, 70), "b": (1000,)})
    write_safetensors(path, arrays)
    old = read_header(path)
    write_safetensors(path, {"b": old["b"], "a": old["a"].numpy()[::-1]})
    assert read_header(path)["a"].numpy().tobytes() == arrays["a"][::-1].tobytes()
    assert old["a"].numpy().tobytes() == arrays["a"].tobytes()                  # the old file is still open


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"a": np.ones(3)})
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    def in_use(source, target):
        raise PermissionError(errno.EACCES, "being used by another process")

    for target, failure in (("fsync", full), ("replace", in_use), ("rename", in_use)):
        with monkeypatch.context() as patch:
            patch.setattr(atomic.os, target, failure)
            with pytest.raises(UserError, match="x.safetensors: cannot be (written|replaced)"):
                write_safetensors(path, {"a": np.zeros(100)})
        assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]

    def stop(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic.os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        write_safetensors(path, {"a": np.zeros(100)})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"a": np.ones(3)})
    before, (soft, hard) = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match="x.safetensors: cannot be written"):
            write_safetensors(path, {"a": np.zeros(10 ** 6)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content, words", [
    (b"", "not a safetensors file"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4976698672\n", "Git LFS pointer"),
    (b"PK\x03\x04\0\0\x08\x08" + b"\0" * 40, "PyTorch file"),
    (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M" + b"\0" * 40, "PyTorch file"),     # torch.save before 1.6
    (b"\x80\x02}q\x00" + b"\0" * 40, "PyTorch file"),
    (b"<!DOCTYPE html><html></html>", "not a safetensors file but a web page"),
    (struct.pack("<Q", 2 ** 63) + b"{}", "not a safetensors file"),
    (struct.pack("<Q", 100) + b"{}", "truncated"),
    (struct.pack("<Q", 2) + b"[]", "not a JSON object"),
    (struct.pack("<Q", 2) + b"{]", "not valid JSON"),
    (struct.pack("<Q", 2) + b"{}x", "11 bytes long, but its tensors end at byte 10"),
    *((struct.pack("<Q", len(header)) + header + b"\0" * 8, words) for header, words in [
        (b'{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}',
         "tensor 'a' ends at byte 75, but the file is truncated to 71"),
        (b'{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}',
         "tensor 'a' of dtype F32 and shape .3,. cannot fill 8 bytes"),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
         "tensor 'b' lies at bytes 0 to 8 of the data, but the one before it ends at 4"),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', "tensor 'a' lies at bytes 4 to 8"),
        (b'{"a":{"dtype":"F31","shape":[1],"data_offsets":[0,8]}}', "tensor 'a' has dtype 'F31', which cannot be read"),
        (b'{"a":{"dtype":"F8_E5M2","shape":[8],"data_offsets":[0,8]}}',
         "tensor 'a' has dtype F8_E5M2, which cannot be read here"),
        (b'{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}',
         "tensor 'a': shape is not a list of whole numbers"),
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}}', "tensor 'a': data_offsets must be two numbers"),
        (b'{"a":{"dtype":"F32","shape":[2]}}', "tensor 'a' must have dtype, shape and data_offsets"),
        (b'{"a":[]}', "tensor 'a' must have dtype, shape and data_offsets"),
        (b'{"a":{"dtype":"U8","shape":[8,1099511627776,1099511627776],"data_offsets":[0,8]}}',
         "tensor 'a' has the impossible shape"),
        (b'{"__metadata__":{"a":1}}', "__metadata__ must map strings to strings"),
        (b'{"__metadata__":null,"__metadata__":null}', "duplicate field `__metadata__`")])])
def test_a_bad_file_is_named_in_one_sentence(content, words, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    for opened in (path, tmp_path):
        with pytest.raises(UserError, match=words) as error:
            Checkpoint(opened)
        assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize("length", [640, 66176, 0x4000280])
def test_a_header_whose_length_begins_like_a_pickle(length, tmp_path):
    """640 is the bytes 80 02, with which a pickle begins too."""
    path, header = tmp_path / "x.safetensors", b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    content = struct.pack("<Q", length) + header + b" " * (length - len(header)) + struct.pack("<f", 1.5)
    path.write_bytes(content)
    assert content[:2] == b"\x80\x02" and read_header(path)["a"].numpy().tolist() == [1.5]
    path.write_bytes(content[:600])
    with pytest.raises(UserError, match="truncated: 600 bytes"):
        read_header(path)


@pytest.mark.parametrize("change", ["cut", "overwritten", "replaced", "removed"])
@pytest.mark.parametrize("positions", [True, False])
def test_a_file_that_changes_while_it_is_in_use(change, positions, tmp_path, monkeypatch):
    """In place, that is said; a file that took its place is not read. No signal ends the process."""
    if not positions:                                                           # as on Windows
        monkeypatch.delattr(os, "preadv", raising=False)
    path, array = tmp_path / "x.safetensors", np.arange(5000, dtype=np.float32)
    write_safetensors(path, {"a": array})
    tensor = read_header(path)["a"]
    assert tensor[7:9].tolist() == [7, 8]
    if change in ("cut", "overwritten"):
        with open(path, "r+b") as file:
            file.truncate(9000) if change == "cut" else file.write(b"new")
        os.utime(path, (1, 1))
        with pytest.raises(UserError, match="x.safetensors: was changed on the disk while it was in use"):
            tensor.numpy()
        return
    if os.name == "nt":
        pytest.skip("Windows does not replace files that are open")
    if change == "replaced":
        write_safetensors(path, {"b": np.zeros(3)})
    else:
        path.unlink()
    assert tensor.numpy().tobytes() == array.tobytes()


def test_files_are_closed_when_nobody_holds_a_tensor(tmp_path):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"a": np.ones(3), "b": np.ones(3)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = read_header(path)["a"]
        gc.collect()
        file = tensor.file._file
        assert tensor.numpy().tolist() == [1, 1, 1] and not file.closed
        del tensor
        gc.collect()
        assert file.closed


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_file_is_read_by_threads_and_forks_at_once(tmp_path):
    path, array = tmp_path / "x.safetensors", np.arange(60_000, dtype=np.float32).reshape(60, 1000)
    write_safetensors(path, {"a": array})
    tensor, wrong = read_header(path)["a"], []

    def work():
        for i in range(300):
            row = i * 7 % 60
            if tensor[row:row + 3].tobytes() != array[row:row + 3].tobytes():
                wrong.append(row)

    child = os.fork()
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not child:
        os._exit(len(wrong))
    assert os.waitpid(child, 0)[1] == 0 and not wrong


@pytest.mark.parametrize("shape, held", [([0, 2 ** 40], True), ([2 ** 40, 0, 3], True), ([0, 2 ** 62], False),
                                         ([1] * 32 + [0], False), ([1] * 31 + [0], True)])
def test_empty_tensors_of_odd_shapes(shape, held, tmp_path):
    """NumPy limits the number of axes, and the lengths beside a 0 as well."""
    path = tmp_path / "x.safetensors"
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    if held:
        assert read_header(path)["a"].numpy().shape == tuple(shape)
    else:
        with pytest.raises(UserError, match="tensor 'a' has a shape that NumPy cannot hold"):
            read_header(path)


@pytest.mark.skipif(os.name == "nt", reason="Windows has neither")
def test_a_pipe_and_a_forbidden_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(UserError, match="is not a file"):                       # and no waiting for a writer
        Checkpoint(tmp_path / "pipe.safetensors")
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"a": np.ones(2)})
    path.chmod(0)
    if not os.access(path, os.R_OK):                                            # root may read everything
        with pytest.raises(UserError, match="x.safetensors: cannot be read .Permission denied"):
            Checkpoint(path)


@pytest.mark.parametrize("family", [1, 2])
def test_a_real_checkpoint_opens_without_reading_the_weights(family, tmp_path):
    """35 and 39 GB, as a file that is one hole behind its header."""
    shapes = json.loads((GOLDEN / f"real_shapes_cogvlm{family}.json").read_text(encoding="utf-8"))
    path = tmp_path / "model.safetensors"
    assert header_only(path, shapes) > 35e9
    start = time.process_time()
    checkpoint = Checkpoint(path)
    checkpoint.check(shapes, COMPUTED)
    streamed = Leaves(checkpoint, float32, stream=True, tables=(EMBEDDING,))
    assert streamed["model.embed_tokens.weight"][np.array([[7, 31999]])].shape == (1, 2, 4096)
    assert streamed["model.layers.31.post_attention_layernorm.weight"].tobytes() == bytes(4 * 4096)
    assert time.process_time() - start < 2
    with pytest.raises(UserError, match=r"tensor 'lm_head.weight' has the shape"):
        checkpoint.check(shapes | {"lm_head.weight": (1, 4096)}, COMPUTED)
