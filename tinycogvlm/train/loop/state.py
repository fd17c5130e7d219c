"""Everything that a run's next step depends on, as arrays and JSON that a checkpoint can hold."""
from ...errors import UserError
from ...nn.arrays import namespace
from ...nn.tree import matches
from . import checkpoint, clock
from .optimizer import adamw, adaptively_clipped, decays, follow, group_factor, muon, nesterov, orthogonal, unpacked
from .process import blas_threads


class State:
    """Parameters, their moments and moving average, the number of steps done, the seconds, and sums for the log.

    Only parameters that have had a gradient are copied and change; the other arrays are the caller's.
    """

    def __init__(self, leaves, recipe):
        self.given, self.leaves, self.recipe = leaves, dict(leaves), recipe
        self.m, self.v, self.average = {}, {}, {}           # {name: array} of what is trained; AdamW alone has a v
        self.step, self.sums, self.noted = 0, {}, 0
        self.seconds_before, self.started = 0.0, clock.now()

    @property
    def seconds(self):
        """Of training alone: without measuring on the way, and without the time between being stopped and resumed"""
        return self.seconds_before + clock.now() - self.started

    def update(self, gradients, rate, scale, spread):
        """One step of AdamW, SGD or Muon for every parameter that has a gradient."""
        recipe = self.recipe
        for name in gradients:
            if name not in self.m:
                w = self.leaves[name] = self.leaves[name].copy()
                self.m[name] = namespace(w).zeros_like(w)
                if not (recipe.momentum or (recipe.muon and orthogonal(name, w))):
                    self.v[name] = namespace(w).zeros_like(w)
                if recipe.ema:
                    self.average[name] = w.copy()
        self.step += 1

        def one(name):
            w, g, m = self.leaves[name], gradients[name], self.m[name]
            own_rate = rate * group_factor(name, recipe.groups)
            decay = recipe.decay if decays(name, w) else 0.0
            if recipe.adaptive and not matches(name, recipe.unclipped):
                g = adaptively_clipped(w, g, recipe.adaptive)
            if name in self.v:
                adamw(w, g, m, self.v[name], self.step, own_rate, recipe.betas, decay=decay, scale=scale)
            elif recipe.momentum:
                nesterov(w, g, m, own_rate, recipe.momentum, decay, scale)
            else:
                for matrix in zip(*(unpacked(name, array) for array in (w, g, m))):
                    muon(*matrix, own_rate * recipe.muon / recipe.peak, scale=scale)
            if recipe.ema:
                follow(self.average[name], w, self.step, recipe.ema)
        list(spread(one, gradients))

    def result(self):
        """{name: array} as the stage hands them on; these arrays change with the next step."""
        return {**self.leaves, **self.average}

    def note(self, numbers):
        """Add to the sums for the log. Checkpoints hold the sums, so that a killed run writes the same log."""
        self.noted += 1
        for name, number in numbers.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(number)

    def means(self):
        """The means of what was noted since the last call"""
        means = {name: float(f"{total / self.noted:.6g}") for name, total in self.sums.items()}
        self.sums, self.noted = {}, 0
        return means

    # In a checkpoint

    def tensors(self):
        kinds = {"leaf": {name: self.leaves[name] for name in self.m}, "m": self.m, "v": self.v, "ema": self.average}
        return {f"{kind}/{name}": array for kind, arrays in kinds.items() for name, array in arrays.items()}

    def facts(self):
        return {"step": self.step, "seconds": self.seconds, "sums": self.sums, "noted": self.noted,
                "frozen": self.frozen(), "settings": self.recipe.to_dict(), "blas": blas_threads()}

    def frozen(self):
        """A digest of the parameters that are not trained"""
        frozen = {name: array for name, array in self.given.items() if name not in self.m}
        return bytes(checkpoint.digest(frozen)).hex()

    def restore(self, tensors, facts):
        self.step, self.sums, self.noted = facts["step"], facts["sums"], facts["noted"]
        self.seconds_before, self.started = facts["seconds"], clock.now()
        for kind, arrays in {"leaf": self.leaves, "m": self.m, "v": self.v, "ema": self.average}.items():
            start = f"{kind}/"
            arrays |= self.on_device({name.removeprefix(start): array for name, array in tensors.items()
                                      if name.startswith(start)})
        if self.frozen() != facts["frozen"]:
            raise UserError("the checkpoint belongs to other initial parameters: those that are frozen differ")

    def on_device(self, arrays):
        """(name, array) of NumPy arrays, moved to where the caller's are: in memory or on the GPU"""
        for name, array in arrays.items():
            given = self.given.get(name)
            if given is None or given.shape != array.shape:
                raise UserError(f"the checkpoint belongs to another model: its {name} has the shape {array.shape}, "
                                f"not {None if given is None else given.shape}")
            yield name, namespace(given).asarray(array, dtype=given.dtype)
