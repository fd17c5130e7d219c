"""tinycogvlm quantise: write a model with its matrices in 4 or 8 bits."""
from ..errors import UserError
from ..inputs.tokenizer import FILES
from ..loading import named
from ..model.config import Config
from ..model.parts import COMPUTED, matrices
from ..storage import atomic, lora
from ..storage.checkpoint import Checkpoint, refuse_used, save
from ..storage.codes import METHOD, Codes
from ..storage.quantise import BITS, GROUP
from ..storage.reading import read_bytes
from .say import progress, say


def run(arguments):
    """Every matrix as the kernels would store it, bit for bit; embedding and head stay, so that a plan can choose."""
    folder, out, kind = named(arguments.folder), arguments.out, arguments.dtype
    config = Config.read(folder)
    if not config.vision:
        raise UserError(f"{folder}: a language model, which is not written anew but quantised whenever it is loaded: "
                        f"ask --kernels --dtype {kind}")
    checkpoint = Checkpoint(folder)
    checkpoint.check(config.shapes(), COMPUTED)
    refuse_used(out)
    if arguments.lora is not None:
        checkpoint = lora.changed(checkpoint, lora.read(arguments.lora))
    tensors, names = dict(checkpoint), matrices(config.shapes())
    progress(f"quantising {len(names)} matrices ...")
    method = {"quant_method": METHOD, "bits": BITS[kind], "group_size": GROUP}
    save(out, tensors | {name: Codes(tensors[name], kind) for name in names}, config,
         more_fields={"quantization_config": method})
    for name in FILES:
        if (folder / name).exists():
            atomic.write(out / name, read_bytes(folder / name))
    say(f"{out}: {len(names)} matrices in {kind}, all else as in {folder}")
    return 0
