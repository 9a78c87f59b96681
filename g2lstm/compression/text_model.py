"""A language model with its words: continues a text and scores one. It needs no corpus."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from g2lstm import runtime
from g2lstm.compression.deploy import Deployed
from g2lstm.compression.model_file import load_model
from g2lstm.compression.readers import NativeReader, Reader, TorchReader, token_losses
from g2lstm.data.text import EOS, Vocabulary
from g2lstm.decoding.sampling import sample
from g2lstm.errors import UserError
from g2lstm.models.language_model import LanguageModel


@dataclass(frozen=True)
class TextModel:
    """A language model that reads and writes words between white space; a text begins as a line of its corpus does."""

    vocabulary: Vocabulary
    reader: Reader

    @classmethod
    def of(cls, deployed: Deployed) -> "TextModel":
        """A compressed language model, in the runtime where that can be compiled.

        Raises:
            UserError: it is of another kind, or has no vocabulary.
        """
        files = deployed.notes.get("files", {})
        if deployed.kind != LanguageModel.kind or "vocabulary.json" not in files:
            lacks = "has no vocabulary" if deployed.kind == LanguageModel.kind else f"is a {deployed.kind} model"
            raise UserError(f"it {lacks}, and writes no text: name a language model that was made from a run")
        vocabulary = Vocabulary.parse(files["vocabulary.json"])
        if runtime.problem() is None:
            return cls(vocabulary, NativeReader(deployed.open()))
        model = deployed.model(engine="torch")
        assert isinstance(model, LanguageModel)
        return cls(vocabulary, TorchReader(model))

    @classmethod
    def load(cls, path: Path) -> "TextModel":
        """The same of a file; errors as in `load_model`, too."""
        if runtime.problem() is None and (model := runtime.open(path)).words:  # without a detour over tensors
            return cls(Vocabulary(model.words), NativeReader(model))
        try:
            return cls.of(load_model(path))
        except UserError as error:
            raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from None

    def unknown(self, text: str) -> list[str]:
        """Words of a text that are read as `<unk>`, each once."""
        return [word for word in dict.fromkeys(text.split()) if word not in self.vocabulary.index]

    def generate(
        self, prompt: str, *, words: int = 50, temperature: float = 1.0, top_k: int = 40, seed: int = 1
    ) -> Iterator[str]:
        """So many words after those of the prompt, `<eos>` where a line ends, each as it is drawn.

        Args:
            prompt, words: the text before, and how many words come after it.
            temperature, top_k, seed: as in `sample`; the step is the number of the word.

        Raises:
            UserError: the prompt has no words, or one that the vocabulary can't take, or an option is out of range.
        """
        known, text = len(self.vocabulary), prompt.split()
        if not text:
            raise UserError("the prompt has no words: set prompt='the company said'")
        if not 0 < temperature < float("inf"):
            raise UserError(f"temperature must be a number above 0, got {temperature:g}")
        if not 1 <= top_k <= known:
            raise UserError(f"top_k must be from 1 to the {known:,} words of the vocabulary, got {top_k}")
        end = self.vocabulary.index[EOS]
        before = [end, *self.vocabulary.encode(prompt, where="the prompt")[:-1]]
        return self._generate(before, words, {"temperature": temperature, "top_k": top_k, "seed": seed})

    def _generate(self, before: list[int], words: int, options: dict[str, Any]) -> Iterator[str]:
        logits, state = self.reader(np.array(before).reshape(-1, 1), None)
        for step in range(words):
            token = sample(logits[-1, 0], step=step, **options)
            yield self.vocabulary.tokens[token]
            if step + 1 < words:
                logits, state = self.reader(np.array([[token]]), state)

    def losses(self, tokens: list[int]) -> np.ndarray:
        """(N,) nats of each of N words, the first after the end of a line."""
        stream = np.array([self.vocabulary.index[EOS], *tokens]).reshape(-1, 1)
        return token_losses(self.reader, stream)[:, 0]


def joined(prompt: str, words: Iterator[str]) -> Iterator[str]:
    """The text of a prompt and the words after it, piece by piece: white space between words, a line ends at `<eos>`."""
    yield " ".join(prompt.split())
    gap = " "
    for word in words:
        yield "\n" if word == EOS else gap + word
        gap = "" if word == EOS else " "
    yield "\n"
