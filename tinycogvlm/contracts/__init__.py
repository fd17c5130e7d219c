"""One contract per op: what every implementation of it must compute.

A contract is a specification in plain Python loops over float64 numbers, inputs that include the edges, and a
tolerance. `contract.check(implementation, dtype)` runs one implementation through it: the package, a learner's
exercise, a CUDA kernel. An implementation takes the case's arguments by name, as the package's op does, and returns the
output array.

    from tinycogvlm import contracts
    contracts.CONTRACTS["rms_norm"].check(my_rms_norm, "float32")
"""
from .contract import Broken, Contract, cast, close, over, random
from .ops import CONTRACTS, package

__all__ = ["CONTRACTS", "Broken", "Contract", "cast", "close", "over", "package", "random"]
