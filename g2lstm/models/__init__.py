"""Models built on `G2LSTM`."""

from typing import Any

from g2lstm.models.classifier import Classifier
from g2lstm.models.forecaster import Forecaster
from g2lstm.models.language_model import LanguageModel
from g2lstm.models.translation import Translator

# What a stored model's `kind` is built by, from its `options`.
MODELS: dict[str, Any] = {model.kind: model for model in (LanguageModel, Translator, Classifier, Forecaster)}
