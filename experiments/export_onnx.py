"""A trained or compressed model as ONNX: python experiments/export_onnx.py run=RUN_DIR out=model.onnx."""

import signal
from pathlib import Path

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports shows no traceback

from g2lstm import cli
from g2lstm.compression.methods import Method
from g2lstm.compression.model_file import load_model
from g2lstm.compression.onnx_export import export
from g2lstm.compression.onnx_runtime import largest_difference, quantize_dynamically
from g2lstm.errors import UserError
from g2lstm.results import deploy_run
from g2lstm.training.rundir import RunDirectory

LENGTHS = (1, 35)


def export_onnx(arguments: list[str]) -> int:
    parser = cli.OptionParser(prog="experiments/export_onnx.py", description="Writes a model as ONNX and checks the file.")
    parser.add_argument("--run", required=True, metavar="RUN_DIR", help="a run directory, or a model.g2 of compress.py")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="as model.onnx")
    parser.add_argument("--int8", type=cli.flag, default=False, help="true: quantised by onnxruntime")
    options = parser.parse_options(arguments)
    path = Path(options.run)
    try:
        deployed = load_model(path) if path.is_file() else deploy_run(RunDirectory.open(path), Method())
        size = export(options.out, deployed, tied=not options.int8)
    except ValueError as error:
        raise UserError(str(error)) from None
    if options.int8:
        size = quantize_dynamically(options.out, options.out)
    print(f"{options.out}: {size / 1e6:.2f} MB")
    difference = largest_difference(options.out, deployed, LENGTHS)
    lengths = " and ".join(map(str, LENGTHS))
    print(f"largest difference of a logit in onnxruntime, over sequences of {lengths} words: {difference:.1e}")
    return 0


if __name__ == "__main__":
    cli.main(export_onnx)
