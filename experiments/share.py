"""A model as people share them: python experiments/share.py run=model.g2 out=DIR, or repository=USER/NAME for the Hub."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import interrupts  # noqa: F401 first of all

from g2lstm import cli
from g2lstm.commands.evaluate import find_model
from g2lstm.compression.methods import Method
from g2lstm.compression.stored import StoredModel, deploy_run, running
from g2lstm.errors import UserError
from g2lstm.runs.device import build_device
from g2lstm.runs.record import evaluate_model
from g2lstm.runs.run import blamed


def share(arguments: list[str]) -> int:
    options = _parser().parse_options(arguments)
    try:
        from g2lstm.compression.hub import HubModel, check_own, said
    except ImportError:
        raise UserError("the package huggingface_hub is not installed: pip install 'g2lstm[hub]'") from None
    if (options.out is None) == (options.repository is None):
        raise UserError("set out=DIR to write a folder, or repository=USER/NAME to upload it: one of the two")
    if options.private and options.repository is None:
        raise UserError("private=true is of a repository: set repository=USER/NAME, or leave it out")
    if options.out is not None:
        check_own(options.out)
    found = find_model(options.run, cli.overrides(options))
    with blamed(found):
        model: Any = found.deployed if isinstance(found, StoredModel) else deploy_run(found, Method())
        if options.evaluate:
            task = found.task()
            evaluated = evaluate_model(task, running(model, task, build_device(found.config.run.device)), ("valid", "test"))
            model = replace(model, notes=model.notes | {"evaluated": evaluated})
    card = {"name": options.repository or options.out.absolute().name, "license": options.license}
    if options.out is not None:
        own = options.out / "README.md"
        stays = _said_of(own, options.license) if own.exists() else ""
        HubModel.of(model).save_pretrained(options.out, model_card_kwargs=card)
        print(f"wrote {options.out}: model.g2{' and' if stays else ','} config.json", end="")
        print(f"\n{stays}" if stays else " and README.md, the model card")
        return 0
    try:
        place = HubModel.of(model).push_to_hub(options.repository, private=options.private, model_card_kwargs=card)
    except Exception as error:  # without a network those of the HTTP client, whichever the package has
        raise UserError(f"can't upload to {options.repository} ({said(error)}): see hf auth login, or out=DIR") from None
    print(f"uploaded to {place}")
    return 0


def _said_of(card: Path, license: str) -> str:
    """A line on a card that is not replaced, and on its licence where that is another."""
    from huggingface_hub import ModelCard

    try:
        own = ModelCard.load(card, ignore_metadata_errors=True).data.license
    except (OSError, ValueError):
        own = None
    other = f"; its license is {repr(own) if own else 'not said'}, not {license!r}" if own != license else ""
    return f"{card} was there and stays as it is{other}: remove it for a new model card"


def _parser() -> cli.OptionParser:
    parser = cli.OptionParser(
        ("data.dir", "device"),
        prog="experiments/share.py",
        description="Writes or uploads a model with a card: what it is, its scores, its size, how to load it.",
    )
    add = parser.add_argument
    add("--run", required=True, metavar="RUN", help="a model.g2, or a run's folder for its weights as they are")
    add("--out", type=cli.folder, metavar="DIR", help="a folder, as to be looked at; a README.md in it stays")
    add("--repository", metavar="USER/NAME", help="on the Hugging Face Hub, where hf auth login has let you in")
    add("--private", type=cli.flag, default=False, help="true: only you see a new repository")
    add("--evaluate", type=cli.flag, default=False, help="true: the card has its scores in this form, on valid and test")
    add("--license", default="mit", metavar="NAME", help="of the weights, as the Hub calls it; mit without it")
    return parser


if __name__ == "__main__":
    cli.main(share)
