"""The file of a compressed model: safetensors with JSON in its metadata, no pickle, checked by a CRC-32 of all in it."""

from pathlib import Path

from g2lstm.compression.deploy import MODEL_FILE, Deployed
from g2lstm.compression.forms import unpack_form
from g2lstm.files import write_atomically
from g2lstm.training.checkpoint import load_checkpoint


def save_model(path: Path, deployed: Deployed) -> int:
    """Writes a compressed model atomically. The bytes of the file."""
    content = deployed.file()
    write_atomically(path, content)
    return len(content)


def load_model(path: Path) -> Deployed:
    """The compressed model that `save_model` wrote; `.model()` runs it. A UserError where the file is no such one."""
    tree = load_checkpoint(path, kind=MODEL_FILE)
    forms = {name: [unpack_form(form) for form in packed] for name, packed in tree["forms"].items()}
    return Deployed(**tree | {"forms": forms})
