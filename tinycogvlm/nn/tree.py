"""Parameters and their gradients by path: `p.self_attn.vision_expert_dense.weight` IS the checkpoint's tensor name."""
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import lru_cache

from .swap import op


class Params:
    """A view into `leaves`, a mapping {tensor name: array}, below one prefix.

        p = Params(leaves)
        p.model.layers[3].input_layernorm.weight      the array "model.layers.3.input_layernorm.weight"
        p["lm_head"].get("bias")                      None: the checkpoint has no such tensor

    A path that leads to no parameter raises AttributeError (KeyError by [...]) at its first wrong step.
    """

    def __init__(self, leaves):
        self._leaves, self._node = leaves, _tree(tuple(leaves))

    def __getattr__(self, name):
        if name.startswith("_"):                        # copy, pickle and NumPy ask for protocols, not for tensors
            raise AttributeError(name)
        child = self._node.get(name)
        if child is None:
            raise AttributeError(_unknown(self._node, name))
        return self._at(child)

    def __getitem__(self, name):
        child = self._node.get(str(name))
        if child is None:
            raise KeyError(_unknown(self._node, name))
        return self._at(child)

    @property
    def path(self):
        """The prefix: "model.layers.3.mlp." """
        return self._node["."]

    def get(self, name):
        """The array, or None if the checkpoint has no such tensor."""
        child = self._node.get(name)
        return None if child is None else self._at(child)

    def _at(self, child):
        if child.__class__ is str:
            return self._leaves[child]
        group = object.__new__(Params)
        group._leaves, group._node = self._leaves, child
        return group


@lru_cache(maxsize=16)
def _tree(names):
    """{step: subtree of the same kind, or the name of the tensor}, and under "." the path of the subtree"""
    root = {".": ""}
    for name in names:
        node, *steps, last = root, *name.split(".")
        for step in steps:
            node = node.setdefault(step, {".": f"{node['.']}{step}."})
        node[last] = name
    return root


def _unknown(node, name):
    """What to say of a step that a subtree does not have"""
    steps = [step for step in node if step != "."]
    near = [*get_close_matches(str(name), steps, cutoff=0.3), *steps, "nothing"]
    return f"no parameter or group {node['.']}{name}; did you mean {near[0]}?"


def below(prefix, shapes):
    """{name: shape} with every name below `prefix`: {"prefix.name": shape}"""
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


def matches(name, patterns):
    """Whether a tensor's name matches one of the shell-style patterns, such as "model.vision.*"."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


class Gradients:
    """Where the backward pass puts the gradients of parameters: the mirror image of Params.

    `g.add("weight", lambda: dy.T @ x)` adds to the gradient of the parameter at this path. The function of a frozen
    parameter is never called, so it costs nothing; a parameter used twice gets the sum. A path that is not one of `names`
    raises KeyError.

    names:   the parameters' names.
    frozen:  patterns such as "model.vision.*" (shell-style); what they match is not trained.
    """

    def __init__(self, names, frozen=()):
        self.leaves, self.names = {}, dict.fromkeys(names)
        self.trained = dict.fromkeys(name for name in names if not matches(name, frozen))
        self._prefix = ""

    def __getitem__(self, name):
        node = object.__new__(Gradients)
        node.leaves, node.names, node.trained = self.leaves, self.names, self.trained
        node._prefix = f"{self._prefix}{name}."
        return node

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    @op
    def add(self, name, gradient):
        path = self._prefix + name
        if path not in self.names:
            near = [*get_close_matches(path, self.names, cutoff=0.3), *self.names, "nothing"]
            raise KeyError(f"no parameter {path} that has a gradient; did you mean {near[0]}?")
        if path in self.trained:
            value = gradient()
            self.leaves[path] = self.leaves[path] + value if path in self.leaves else value

    def trains(self, *parts):
        """Whether a parameter below this path, or below one of its `parts`, is trained."""
        starts = tuple(f"{self._prefix}{part}" for part in parts) or self._prefix
        return any(name.startswith(starts) for name in self.trained)
