"""tinycogvlm verify: compare the model with the tensors and words that the original recorded."""
from ..errors import UsageError
from ..verify import compare, components
from .say import echo, echo_json


def run(arguments):
    if components.found(arguments.folder):
        if arguments.kernels:
            raise UsageError("--kernels goes with a case of CogVLM, not with components.json")
        report = components.verify(arguments.folder, arguments.case, arguments.device)
    elif arguments.case is not None:
        raise UsageError(f"--case chooses among the cases of a components.json, which {arguments.folder} does not have")
    else:
        report = compare.verify(arguments.folder, arguments.device, arguments.kernels)
    if arguments.json:
        echo_json(report.to_dict())
    else:
        echo(report.table())
    return 0 if report.ok else 1
