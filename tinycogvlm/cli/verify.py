"""tinycogvlm verify: compare the model with the tensors and words that the original recorded."""
from ..verify import compare
from .say import echo, echo_json


def run(arguments):
    report = compare.verify(arguments.folder, arguments.device, arguments.kernels)
    if arguments.json:
        echo_json(report.to_dict())
    else:
        echo(report.table())
    return 0 if report.ok else 1
