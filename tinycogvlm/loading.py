"""load(folder): a CogVLM from a folder as Hugging Face ships it."""
import math
from pathlib import Path

import numpy as np

from .errors import UserError
from .model.cogvlm import CogVLM
from .model.config import Config
from .model.decoder import Rotary
from .model.parts import COMPUTED, EMBEDDING, INV_FREQ
from .nn.arrays import converter, free_memory

ROTARY = ("auto", "stored", "stored-2byte", "base")


def load(folder=None, device="cpu", dtype="float32", stream=False, tokenizer=None, rotary="auto", image_size=None,
         kernels=False, memory=None, lora=None, check_finite=False):
    """The model in `folder`, ready to ask; by default the trained one that comes with the package.

    folder:     config.json, model.safetensors (or shards with their index) and the tokenizer's file.
    device:     "cpu", "cuda" or "cuda:1".
    dtype:      of the arithmetic, "float32" or "float64"; with kernels how matrices are stored, one of plan.DTYPES.
    stream:     keep only a few blocks in memory and read the others from the disk whenever they are used.
    tokenizer:  another place of tokenizer.json or tokenizer.model; CogVLM v1's own folder has none.
    rotary:     "stored": float32 tables from the checkpoint's inv_freq; "stored-2byte": tables in inv_freq's own type, as
                the original computes them; "base": from the family's base; "auto": stored if there, else base.
    image_size: pixels a side, if other than the checkpoint's; its position table is then interpolated.
    kernels:    compute by the CUDA kernels, an engine.Engine: always on a GPU, but in float64; on the CPU by the
                runner, for small models.
    memory:     bytes of the GPU's memory that plan.plan may use; by default all that are free.
    lora:       the folder of an adapter, train/lora.py, whose updates are added to the matrices.
    check_finite: test every tensor of an answer, slowly; the first that holds NaN or infinity is a UserError.

    Raises UserError naming the file and what is wrong with it.
    """
    from .storage.checkpoint import Checkpoint                          # safetensors and tokenizers load where they are used
    from .storage.leaves import Leaves
    from .inputs.tokenizer import Tokenizer
    folder = Path(folder) if folder else default_weights()
    config, checkpoint = Config.read(folder), Checkpoint(folder)
    checkpoint.check(config.shapes(), COMPUTED)
    if lora:
        from .storage.lora import changed, read
        checkpoint = changed(checkpoint, read(lora))
    if image_size is not None:
        config = config.resized(image_size)
    if tokenizer or any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
        tokenizer = Tokenizer.load(tokenizer or folder, config)
    rope = rotary_of(checkpoint, config, rotary)
    if dtype == "float64" or device == "cpu" and not kernels:
        leaves = Leaves(checkpoint, converter(device, dtype), stream, tables=(EMBEDDING,))
        return CogVLM(config, leaves, tokenizer, rope, check_finite)
    from .kernels.engine import Engine
    from .kernels.plan import Planned, plan
    to_device = converter(device)
    if memory is None:
        memory = math.inf if stream else free_memory(to_device(np.zeros(1, np.float32)))
    leaves = Planned(checkpoint, plan(config, dtype, memory), to_device, stream)
    return Engine(config, leaves, tokenizer, rope, check_finite)


def rotary_of(checkpoint, config, choice="auto"):
    """decoder.Rotary as `load` describes its choices."""
    if choice not in ROTARY:
        raise UserError(f"rotary {choice!r} is not one of {', '.join(ROTARY)}")
    stored = checkpoint.get(INV_FREQ)
    if choice == "base" or (choice == "auto" and stored is None):
        return Rotary.from_base(config.rope_base, config.head_size)
    if stored is None:
        raise UserError(f"rotary {choice!r} needs rotary_emb.inv_freq, which this checkpoint does not have; use 'base'")
    two_bytes = {"F16": "float16", "BF16": "bfloat16"}.get(stored.dtype)
    return Rotary(stored.numpy().astype(np.float32), two_bytes if choice == "stored-2byte" else None)


def default_weights():
    """The folder of the trained weights: inside an installed package, or beside it in a checkout."""
    here = Path(__file__).parent
    for folder in (here / "weights" / "tiny", here.parent / "weights" / "tiny"):
        if (folder / "config.json").exists():
            return folder
    raise UserError("no trained weights came with this installation: name a folder with --weights")
