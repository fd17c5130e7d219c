"""tinycogvlm quantise: write a model with its matrices in 4 or 8 bits."""
from ..errors import UserError
from ..inputs.tokenizer import copy_files
from ..loading import found
from ..model.config import Config
from ..model.parts import COMPUTED, matrices
from ..storage import lora
from ..storage.checkpoint import Checkpoint, refuse_used, save
from ..storage.codes import METHOD, Codes
from ..storage.quantise import BITS, GROUP
from .say import progress, say


def run(arguments):
    """Every matrix as the kernels would store it, bit for bit; embedding and head stay, so that a plan can choose."""
    folder, out, kind = found(arguments.folder), arguments.out, arguments.dtype
    config, checkpoint = Config.read(folder), Checkpoint(folder)
    if checkpoint.path.suffix == ".gguf":
        raise UserError(f"{folder}: quantise takes a folder, not a .gguf file; --kernels --dtype {kind} quantises it when "
                        "it is loaded, and the folder that it was made of can be quantised here")
    stored_as = config.stored_as()
    checkpoint.renamed(stored_as).check(config.shapes(), COMPUTED)
    refuse_used(out)
    if arguments.lora is not None:
        checkpoint = lora.changed(checkpoint, lora.read(arguments.lora))
    tensors = dict(checkpoint)
    names = [stored for name in matrices(config.shapes()) for stored in stored_as.get(name, (name,))]
    progress(f"quantising {len(names)} matrices ...")
    method = {"quant_method": METHOD, "bits": BITS[kind], "group_size": GROUP}
    save(out, tensors | {name: Codes(tensors[name], kind) for name in names}, config,
         more_fields={"quantization_config": method})
    copy_files(folder, out)
    say(f"{out}: {len(names)} matrices in {kind}, all else as in {folder}")
    return 0
