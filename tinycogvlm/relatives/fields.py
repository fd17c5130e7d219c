"""Fields of a config.json, each read with its default and checked: a wrong one is a UserError that names it."""
import numpy as np

from ..errors import UserError
from ..storage.reading import short


class Fields:
    """The object of a config.json at `path`; `inside` is what messages put before a field's name: "text_config."."""

    def __init__(self, values, path="config.json", inside=""):
        if not isinstance(values, dict):
            raise UserError(f"{path}: {inside.rstrip('.') or 'what it holds'} is not a JSON object")
        self.values, self.path, self.inside = values, path, inside

    def __contains__(self, name):
        return self.values.get(name) is not None

    def get(self, name, default=None):
        """The field as it is; `default` where it is missing or null."""
        value = self.values.get(name)
        return default if value is None else value

    def group(self, name):
        """The object of that name, empty if there is none."""
        return Fields(self.get(name, {}), self.path, f"{self.inside}{name}.")

    def whole(self, name, default=None, low=1, high=10 ** 9):
        value = self._required(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.refuse(name, value, f"a whole number from {low} to {high}")
        return value

    def number(self, name, default=None, low=0.0, high=1e9):
        value = self._required(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            self.refuse(name, value, f"a number from {low:g} to {high:g}")
        return float(value)

    def layers(self, name, default=None):
        return self.whole(name, default, 0, 1000)

    def one_of(self, name, known, default=None):
        value = self._required(name, default)
        if not isinstance(value, str) or value not in known:
            self.refuse(name, value, f"one of {', '.join(known)}")
        return value

    def numbers(self, name, default=None, whole=True):
        """A list of numbers as a tuple; a single number counts as a list of one."""
        value = self._required(name, default)
        value = value if isinstance(value, (list, tuple)) else [value]
        kinds = int if whole else (int, float)
        if not value or any(isinstance(one, bool) or not isinstance(one, kinds) or not 0 < one <= 10 ** 9
                            for one in value):
            self.refuse(name, value, f"{'whole ' * whole}numbers above 0")
        return tuple(value)

    def colour(self, name, default):
        """Three numbers, one for each of red, green and blue, as an array."""
        value = self.numbers(name, default.tolist(), whole=False)
        if len(value) != 3:
            self.refuse(name, list(value), "three numbers")
        return np.array(value, default.dtype)

    def only(self, name, usual):
        """Refuse any value but the usual one, which is all that is known here; a missing field counts as usual."""
        if self.get(name, usual) != usual:
            self.refuse(name, self.get(name), f"{usual!r}, which is all that is known here")

    def no_others(self, *known):
        """Refuse a field that is set and not among these: it could make another function of the same tensors."""
        for name, value in self.values.items():
            if value and name not in known:
                self.refuse(name, value, "left out, which is all that is known here")

    def refuse(self, name, value, wanted):
        raise UserError(f"{self.path}: {self.inside}{name} is {short(value)}, not {wanted}")

    def _required(self, name, default):
        value = self.get(name, default)
        if value is None:
            raise UserError(f"{self.path}: {self.inside}{name} is missing")
        return value
