"""A trained or compressed model as ONNX: python experiments/export_onnx.py run=RUN_DIR out=model.onnx."""

import math
import tempfile
from pathlib import Path

import interrupts  # noqa: F401 first of all

from g2lstm import cli
from g2lstm.compression.methods import Method
from g2lstm.compression.model_file import load_model
from g2lstm.compression.onnx_files import export, largest_difference, package, quantize_dynamically
from g2lstm.compression.stored import deploy_run
from g2lstm.errors import UserError
from g2lstm.files import folder_made
from g2lstm.runs.run import Run

LENGTHS = (1, 35)
LARGEST_DIFFERENCE = 1e-3  # of a logit in float32


def export_onnx(arguments: list[str]) -> int:
    parser = cli.OptionParser(prog="experiments/export_onnx.py", description="Writes a model as ONNX and checks the file.")
    parser.add_argument("--run", required=True, metavar="RUN_DIR", help="a run directory, or a model.g2 of compress.py")
    parser.add_argument("--out", type=cli.file, required=True, metavar="FILE", help="as model.onnx")
    parser.add_argument("--int8", type=cli.flag, default=False, help="true: quantised by onnxruntime")
    options = parser.parse_options(arguments)
    for name in ("onnx", "onnxruntime"):
        package(name)
    path = Path(options.run)
    try:
        deployed = load_model(path) if path.is_file() else deploy_run(Run.open(path), Method())
        around = folder_made(options.out.parent)
        with around, tempfile.TemporaryDirectory(dir=options.out.parent, prefix=".export") as folder:  # until it is checked
            file = Path(folder) / "model.onnx"
            export(file, deployed, tied=not options.int8)
            if options.int8:
                quantize_dynamically(file, file)
            difference = largest_difference(file, deployed, LENGTHS)
            if not difference < (math.inf if options.int8 else LARGEST_DIFFERENCE):
                raise UserError(f"onnxruntime's numbers differ by {difference:.1e} from the model's: nothing is written")
            file.replace(options.out)
    except ValueError as error:
        raise UserError(str(error)) from None
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.2f} MB")
    lengths = " and ".join(map(str, LENGTHS))
    print(f"largest difference of a logit in onnxruntime, over sequences of {lengths} words: {difference:.1e}")
    return 0


if __name__ == "__main__":
    cli.main(export_onnx)
