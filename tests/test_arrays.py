"""Devices and dtypes of arrays, with a stand-in for CuPy: what is sent to which GPU, and how."""
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from tinycogvlm.errors import UserError
from tinycogvlm.nn.arrays import bfloat16, bfloat16_bits, converter, namespace, place


class Device:
    """CuPy's: each thread has a current one, `use` sets it, `with` sets it for a while."""
    local = threading.local()

    def __init__(self, number):
        self.id = number

    def use(self):
        self.local.number = self.id

    def __enter__(self):
        self.before = getattr(self.local, "number", 0)
        self.use()

    def __exit__(self, *_):
        self.local.number = self.before


class GpuArray(np.ndarray):
    @property
    def device(self):
        return SimpleNamespace(id=self.number)


@pytest.fixture
def cupy(monkeypatch):
    sent = []                                               # (dtype, GPU) of what went over the bus

    def asarray(array):
        sent.append((array.dtype.name, getattr(Device.local, "number", 0)))
        found = array.view(GpuArray)
        found.number = sent[-1][1]
        return found
    runtime = SimpleNamespace(getDeviceCount=lambda: 2, CUDARuntimeError=RuntimeError)
    module = SimpleNamespace(ndarray=GpuArray, asarray=asarray, cuda=SimpleNamespace(Device=Device, runtime=runtime))
    monkeypatch.setitem(sys.modules, "cupy", module)
    return SimpleNamespace(module=module, sent=sent)


def test_a_converter_keeps_to_its_gpu_in_every_thread(cupy):
    """And bfloat16, which CuPy does not know, is sent as its 16 bits, half of what float32 would be."""
    first, second = converter("cuda:0"), converter("cuda:1", "float64")
    numbers = np.array([1.5, -3e38, 2 ** -120], np.float32).astype(bfloat16())
    found = []

    def work():
        found.extend([first(np.float16([1, 2])), second(numbers)])

    for run in (work, lambda: [thread.start() or thread.join() for thread in [threading.Thread(target=work)]]):
        cupy.sent.clear(), found.clear()
        run()
        assert cupy.sent == [("float16", 0), ("uint16", 1)]
        assert found[0].dtype == np.float32 and found[0].tolist() == [1, 2]
        assert found[1].dtype == np.float64 and found[1].tolist() == numbers.astype(np.float64).tolist()


def test_the_place_of_an_array_tells_gpus_apart(cupy):
    arrays = [cupy.module.asarray(np.zeros(1)) for number in (0, 1) if Device(number).use() is None]
    assert [place(array) for array in arrays] == [(cupy.module, 0), (cupy.module, 1)]
    assert place(np.zeros(1)) == (np, None) and namespace(arrays[0]) is cupy.module


def test_devices_that_are_not_there(cupy):
    for device, said in (("cuda:2", r"this machine has 2 GPU\(s\)"), ("cuda:x", "is not cpu, cuda or cuda:N"),
                         ("gpu", "is not cpu, cuda or cuda:N"), (None, "is not cpu, cuda or cuda:N")):
        with pytest.raises(UserError, match=said):
            converter(device)


def test_bits_of_bfloat16_are_those_of_the_numbers():
    numbers = np.array([1.0, -2.0, 1.00390625, 1.01171875], np.float32)         # the last two are ties: to even
    assert [hex(bits) for bits in bfloat16_bits(numbers)] == ["0x3f80", "0xc000", "0x3f80", "0x3f82"]
    already = numbers.astype(bfloat16())
    assert bfloat16_bits(already).tobytes() == already.tobytes() and np.shares_memory(bfloat16_bits(already), already)
