"""Parameters and their gradients by path: `p.self_attn.vision_expert_dense.weight` IS the checkpoint's tensor name."""
from fnmatch import fnmatchcase


class Params:
    """A view into `leaves`, a mapping {tensor name: array}, below one prefix.

        p = Params(leaves)
        p.model.layers[3].input_layernorm.weight      the array "model.layers.3.input_layernorm.weight"
        p["lm_head"].get("bias")                      None: the checkpoint has no such tensor
    """

    def __init__(self, leaves, prefix=""):
        self._leaves, self._prefix = leaves, prefix

    def __getitem__(self, name):
        path = f"{self._prefix}{name}"
        if path in self._leaves:
            return self._leaves[path]
        return Params(self._leaves, path + ".")

    def __getattr__(self, name):
        if name.startswith("__"):                       # copy, pickle and NumPy ask for protocols, not for tensors
            raise AttributeError(name)
        if name in ("weight", "bias") and f"{self._prefix}{name}" not in self._leaves:
            raise AttributeError(f"no parameter {self._prefix}{name}")
        return self[name]

    def get(self, name):
        """The array, or None where the checkpoint has no such tensor."""
        return self._leaves.get(f"{self._prefix}{name}")


def below(prefix, shapes):
    """{name: shape} with every name below `prefix`: {"prefix.name": shape}"""
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


def matches(name, patterns):
    """Whether a tensor's name matches one of the shell-style patterns, such as "model.vision.*"."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


class Gradients:
    """Where pullbacks leave the gradients of parameters: the mirror image of Params.

    `g.add("weight", lambda: dy.T @ x)` adds to the gradient of the parameter at this path. A frozen parameter's function
    is never called, so it costs nothing; one used twice gets the sum.

    names:   the parameters' names.
    frozen:  patterns such as "model.vision.*" (shell-style); what they match is not trained.
    """

    def __init__(self, names, frozen=()):
        self.leaves = {}
        self.trained = dict.fromkeys(name for name in names if not matches(name, frozen))
        self._prefix = ""

    def __getitem__(self, name):
        node = object.__new__(Gradients)
        node.leaves, node.trained, node._prefix = self.leaves, self.trained, f"{self._prefix}{name}."
        return node

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def add(self, name, gradient):
        path = self._prefix + name
        if path in self.trained:
            value = gradient()
            self.leaves[path] = self.leaves[path] + value if path in self.leaves else value

    def trains(self, *parts):
        """Whether a parameter below this path, or below one of its `parts`, is trained."""
        starts = tuple(f"{self._prefix}{part}" for part in parts) or self._prefix
        return any(name.startswith(starts) for name in self.trained)
