"""Damaged and strange .safetensors files: what the safetensors package reads is read, others are refused politely."""
import json
import random
import struct
import time

import numpy as np
import pytest
from safetensors import SafetensorError, deserialize, safe_open

from tinycogvlm.errors import UserError
from tinycogvlm.storage.safetensors_file import numpy_dtype, read_header

SIZES = {"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64, "F16": 16,
         "BF16": 16, "F32": 32, "F64": 64, "C64": 64, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E5M2FNUZ": 8,
         "F8_E4M3FNUZ": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}                     # bits
READABLE = list(SIZES)[:14]
FOREIGN = list(SIZES)[14:]
NUMPY = {"BOOL": "?", "BF16": "<u2", "C64": "<c8", **{c: f"<{c[0].lower()}{int(c[1:]) // 8}" for c in READABLE
                                                     if c not in ("BOOL", "BF16", "C64")}}
NAMES = ["a", "model.layers.0.weight", "lm_head.weight", "", "ü", "\U0001f600", "with space", 'quo"te', "a\\b",
         "\u0000", "\x7f", "dtype", "shape"]
TOKENS = ["0", "1", "2", "4", "8", "-1", "-0", "1.0", "1e0", "1e400", "-1e400", "1e-400", "0e999", "NaN", "Infinity",
          "-Infinity", "18446744073709551615", "18446744073709551616", "9223372036854775807", "9223372036854775808",
          "9" * 30, "9" * 400, "9" * 5000, "01", "+1", "1.", ".5", "0x10", "true", "false", "null", "[]", "{}", "[0]",
          "[1]", "[0,0]", "[0,4]", "[4,0]", "[0,4,8]", "[1099511627776,1099511627776]",
          "[0,1099511627776,1099511627776]", "[1099511627776,1099511627776,0]", "[" + "1," * 70 + "0]",
          "[" + "1," * 20 + "1]", '""', '"a"', '"F32"', '"F33"', '"f32"', '"F16"', '"F8_E4M3"', '"F4"', '{"F32":null}',
          '{"F16":null}', '{"F32":{}}', '{"F32":null,"F32":null}', '["F32"]', '"__metadata__"', '"dtype"', '"shape"',
          '"data_offsets"', '"\\ud800"', '"\\ud83d\\ude00"', '"\\ude00\\ud83d"', '"\\u0000"', '"\\u00e9"', '"\\/"',
          '"\\x"', '"\t"', '"\\t"', "'a'", "//", "\ufeff", "\u00a0", "\x0b", "\x00", "[" * 100 + "]" * 100,
          "[" * 126 + "]" * 126, "[" * 130, '{"a":' * 124 + "1" + "}" * 124, "[" * 20000 + "]" * 20000, ",", ":", "{",
          "}", "[", "]", '"', " ", "\n", ""]


class Case:
    """A safetensors file as its parts, each open to damage: header entries (key, text of the value), then the data."""

    def __init__(self, rng):
        self.rng, self.entries, self.data = rng, [], b""
        for name in rng.sample(NAMES, rng.choice((0, 1, 1, 2, 2, 3, 4, 5))):
            dtype = rng.choice(READABLE if rng.random() < 0.97 else FOREIGN)
            shape = [rng.choice((0, 1, 1, 2, 3, 4, 8)) for _ in range(rng.choice((0, 1, 1, 2, 2, 3)))]
            if dtype in FOREIGN:
                shape = [8] + shape                                             # whole bytes
            nbytes = int(np.prod(shape, dtype=object)) * SIZES[dtype] // 8
            self.add(name, dtype, shape, [len(self.data), len(self.data) + nbytes])
            self.data += rng.randbytes(nbytes)
        if rng.random() < 0.4:
            self.entries.append(("__metadata__", {k: json.dumps(v) for k, v in {"format": "pt", "ü": "\n"}.items()}))
        rng.shuffle(self.entries)

    def add(self, name, dtype, shape, offsets):
        fields = [("dtype", json.dumps(dtype)), ("shape", json.dumps(shape)), ("data_offsets", json.dumps(offsets))]
        self.entries.append((name, dict(self.rng.sample(fields, 3))))

    def header(self):
        def text(value):
            if isinstance(value, dict):
                value = list(value.items())
            if isinstance(value, list):
                return "{" + ",".join(json.dumps(k) + ":" + text(v) for k, v in value) + "}"
            return value
        return text(self.entries)

    def mutate_entries(self):
        """Damage that is still JSON: shapes, offsets, dtypes, keys that come twice or are unknown, other spellings."""
        rng = self.rng
        kind = rng.choice(["number", "number", "dtype", "twice-field", "twice-name", "unknown", "list", "spelling",
                           "metadata", "swap", "drop", "value"])
        if not self.entries:
            self.entries.append((rng.choice(NAMES + ["__metadata__"]), rng.choice(TOKENS)))
            return
        i = rng.randrange(len(self.entries))
        name, info = self.entries[i]
        info = list(info.items()) if isinstance(info, dict) else info if isinstance(info, list) else [("dtype", '"U8"')]
        fields = dict(info)
        if kind == "number":
            key = rng.choice(("shape", "data_offsets"))
            try:
                numbers = json.loads(fields.get(key, "[]")) or [0]
                j = rng.randrange(len(numbers))
                numbers[j] = max(0, numbers[j] + rng.choice((-8, -4, -1, 1, 4, 8, 2 ** 40, 2 ** 64 - 1)))
                fields[key] = json.dumps(numbers)
            except (ValueError, TypeError):
                fields[key] = "[0,0]"
            info = list(fields.items())
        elif kind == "dtype":
            fields["dtype"] = json.dumps(rng.choice(list(SIZES) + ["F33", "C128", "", "f32"]))
            info = list(fields.items())
        elif kind == "twice-field":
            info.insert(rng.randrange(len(info) + 1), rng.choice(info + [("dtype", '"F32"'), ("shape", "[1]")]))
        elif kind == "twice-name":
            self.entries.insert(rng.randrange(len(self.entries) + 1),
                                (name, info if rng.random() < 0.4 else rng.choice(self.entries)[1]))
        elif kind == "unknown":
            info.insert(rng.randrange(len(info) + 1), (rng.choice(NAMES + ["extra"]), rng.choice(TOKENS)))
        elif kind == "list":                                                    # the package takes a list of the three
            values = [fields.get(key, "null") for key in ("dtype", "shape", "data_offsets")]
            info = "[" + ",".join(v if isinstance(v, str) else "0" for v in values[:rng.choice((2, 3, 3, 3))]) + "]"
        elif kind == "spelling":                                                # and {"F32": null} for "F32"
            fields["dtype"] = f"{{{fields.get('dtype')}:{rng.choice(('null', 'null', 'null', '1', '{}'))}}}"
            info = list(fields.items())
        elif kind == "metadata":
            value = rng.choice(["null", "{}", '{"a":"b"}', '{"a":"b","a":"c"}', '{"a":1}', '{"a":null}', "[]", '""',
                                "1", '{"a":["b"]}', '{"a":{"b":"c"}}', '{"a":"\\ud800"}', rng.choice(TOKENS)])
            self.entries.insert(rng.randrange(len(self.entries) + 1), ("__metadata__", value))
            return
        elif kind == "swap":
            j = rng.randrange(len(self.entries))
            self.entries[j], info = (self.entries[j][0], info), self.entries[j][1]
        elif kind == "drop":
            if rng.random() < 0.5:
                del self.entries[i]
                return
            info = [pair for pair in info if pair[0] != rng.choice(("dtype", "shape", "data_offsets"))]
        elif kind == "value":
            info = rng.choice(TOKENS)
        self.entries[i] = name, info

    def file(self):
        rng = self.rng
        kinds = rng.choice((["none"], ["entries"], ["entries"], ["entries", "entries"], ["text"], ["text", "text"],
                            ["bytes"], ["length"], ["cut"], ["entries", "space"], ["space"],
                            ["entries", "text", "bytes"]))
        for kind in kinds:
            if kind == "entries":
                self.mutate_entries()
        text = self.header()
        for kind in kinds:
            if kind == "text":                                                  # a piece replaced by a token
                at = rng.randrange(len(text) + 1)
                if rng.random() < 0.5:                                          # from one mark of JSON to the next
                    marks = [j for j, c in enumerate(text) if c in '{}[]:,'] or [0]
                    at = rng.choice(marks) + rng.choice((0, 1))
                end = min([j for j, c in enumerate(text) if c in '{}[]:,' and j > at] or [at])
                text = text[:at] + rng.choice(TOKENS) + text[rng.choice((at, at + 1, end)):]
            if kind == "space":
                pad = rng.choice(" \n\t\r\x00\x0c\u00a0\ufeff") * rng.choice((1, 3, 8, 64))
                text = text + pad if rng.random() < 0.6 else pad + text
        header = text.encode()
        for kind in kinds:
            if kind == "bytes" and header:
                header = bytearray(header)
                for _ in range(rng.choice((1, 1, 2, 8))):
                    byte = rng.choice((rng.randrange(256), rng.choice(b'{}[],:"0123456789 ')))
                    header[rng.randrange(len(header))] = byte
                header = bytes(header)
        length = len(header)
        if "length" in kinds:
            length = rng.choice((0, 1, length - 1, length + 1, length + 8, length + len(self.data), 10 ** 8,
                                 10 ** 8 + 1, 2 ** 32, 2 ** 63, 2 ** 64 - 1, 2 ** 64 - 8,
                                 rng.randrange(2 ** 64))) % 2 ** 64
        blob = struct.pack("<Q", length) + header + self.data
        if "cut" in kinds:
            blob = rng.choice((blob[:rng.randrange(len(blob))], blob[:rng.randrange(20)], blob[:-1], blob + b"\0",
                               blob + blob, b"", blob[rng.randrange(len(blob)):]))
        return blob


def package_reads(blob, path):
    """{name: (dtype, shape, bytes)}; None if the package rejects the file."""
    try:
        tensors = {name: (info["dtype"], tuple(info["shape"]), bytes(info["data"])) for name, info in deserialize(blob)}
    except SafetensorError:
        with pytest.raises(SafetensorError):
            safe_open(path, "np")
        return None
    with safe_open(path, "np") as file:
        assert set(file.keys()) == set(tensors)
    return tensors


def numpy_holds(dtype, shape, data):
    """Whether the package's own NumPy side can give the array: it has limits on axes and on lengths beside a 0."""
    try:
        np.frombuffer(data, NUMPY[dtype]).reshape(shape)
    except (ValueError, OverflowError):
        return False
    return True


def hold_to_package(blob, path):
    """Read one file with our reader and with the package; returns what both do with it."""
    path.write_bytes(blob)
    theirs = package_reads(blob, path)
    foreign = sorted({dtype for dtype, _, _ in theirs.values()} & set(FOREIGN)) if theirs else []
    held = theirs is not None and not foreign and all(numpy_holds(*tensor) for tensor in theirs.values())
    if not held:
        with pytest.raises(UserError) as error:
            read_header(path)
        sentence = str(error.value)
        assert str(path) in sentence and len(sentence) < 1000 and "\n" not in sentence
        assert not foreign or any(dtype in sentence for dtype in foreign)
        return "rejected" if theirs is None else "NumPy cannot"
    ours = read_header(path)
    assert {n: (t.dtype, t.shape, t.numpy().tobytes()) for n, t in ours.items()} == theirs
    assert all(t.numpy().shape == t.shape and t.numpy().dtype == numpy_dtype(t.dtype) for t in ours.values())
    return "read"


def mutate(number, seed, path):
    counts = {"read": 0, "rejected": 0, "NumPy cannot": 0}
    for i in range(number):
        blob = Case(random.Random(f"{seed} {i}")).file()
        try:
            counts[hold_to_package(blob, path)] += 1
        except BaseException:
            print(f"mutation {seed} {i}: {blob[:2000]}")
            raise
    return counts


def test_500_mutations(tmp_path):
    counts = mutate(500, "default", tmp_path / "x.safetensors")
    assert counts["read"] >= 75 and counts["rejected"] >= 200 and counts["NumPy cannot"] >= 5, counts


@pytest.mark.slow
def test_20000_mutations(tmp_path):
    counts = mutate(20000, "slow", tmp_path / "x.safetensors")
    assert counts["read"] >= 3000 and counts["rejected"] >= 8000 and counts["NumPy cannot"] >= 200, counts


@pytest.mark.parametrize("header", ["[" * 1_000_000, '{"a":' * 1_000_000, "9" * 1_000_000,
                                    '{"a":' + "9" * 1_000_000 + "}", '{"' + "a" * 1_000_000,
                                    "{" + '"a":[],' * 200_000 + '"a":[]}', " " * 1_000_000,
                                    '{"a":"' + "\\ud800" * 200_000 + '"}'])
def test_hostile_header_is_rejected_quickly(header, tmp_path):
    path = tmp_path / "x.safetensors"
    start = time.process_time()
    assert hold_to_package(struct.pack("<Q", len(header)) + header.encode(), path) == "rejected"
    assert time.process_time() - start < 5
