"""Record every intermediate of a forward pass by name: `lm/layer0/q`, `vit/patch_embed`, `adapter/out`, ...

    with trace.recording() as records:
        model.logits(inputs)
    records["lm/layer3/attn_out"]                       (B, T, D)

The model says `record("q", q)` where a value is made and `with scope("layer0")` around a part; outside of `recording`
both do nothing.
"""
from contextlib import contextmanager
from contextvars import ContextVar

from ..errors import UserError
from .arrays import namespace, wide

_active = ContextVar("trace", default=None)             # (records, prefix) of the recording under way


@contextmanager
def recording(records=None):
    """A dict that every `record` inside the `with` fills: {name: array}; by default a new one."""
    records = {} if records is None else records
    token = _active.set((records, ""))
    try:
        yield records
    finally:
        _active.reset(token)


class FiniteOnly(dict):
    """Records for `recording` that are not kept: the first array with NaN or infinity is a UserError that names it."""

    def __setitem__(self, name, array):
        if not namespace(array).isfinite(wide(array)).all():
            raise UserError(f"{name} is the first tensor that is not finite: it holds NaN or infinity")


@contextmanager
def scope(name):
    """Names recorded inside begin with `name/`."""
    active = _active.get()
    if active is None:
        yield
        return
    token = _active.set((active[0], f"{active[1]}{name}/"))
    try:
        yield
    finally:
        _active.reset(token)


def is_recording():
    return _active.get() is not None


def record(name, array):
    active = _active.get()
    if active is not None:
        active[0][active[1] + name] = array
