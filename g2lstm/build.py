"""From a run's config to its objects. Only commands and this module see a config."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from g2lstm.data.text import TextCorpus, Vocabulary, load_corpus
from g2lstm.errors import UserError
from g2lstm.gates import GATES, Gate, GumbelGate, SharpenedGate, TemperatureSchedule
from g2lstm.models.language_model import LanguageModel
from g2lstm.training.settings import Settings
from g2lstm.training.tasks import CacheSettings, LanguageModelTask


def build_gate(config: DictConfig) -> Gate:
    """The gate that `config.gate` describes.

    Raises:
        UserError: a value is out of range.
    """
    options: dict[str, Any] = {}
    if config.name in ("sharpened", "gumbel"):
        options |= {"tau": config.tau, "gates": tuple(config.gates)}
    if config.name == "gumbel":
        options |= {"noise_p": config.noise_p, "noise_scope": config.noise_scope, "eps": config.eps}
    try:
        return GATES[config.name](**options)
    except ValueError as error:
        raise UserError(f"gate: {error}") from None


def build_temperature(config: DictConfig, gate: Gate) -> TemperatureSchedule | None:
    """The gate's temperature over the run, or None where the gate has none."""
    if not isinstance(gate, GumbelGate | SharpenedGate):
        return None
    if (config.tau_schedule == "constant") != (config.tau_end is None):
        given = f"gate.tau_schedule={config.tau_schedule} and gate.tau_end={config.tau_end}"
        raise UserError(f"{given} do not go together: set both, or neither")
    try:
        return TemperatureSchedule(config.tau, config.tau_end, config.tau_schedule)
    except ValueError as error:
        raise UserError(f"gate: {error}") from None


def build_corpus(config: DictConfig, vocabulary: Vocabulary | None = None) -> TextCorpus:
    """The text of `config.data`, in a given vocabulary or its own."""
    return load_corpus(
        config.name,
        data_dir=config.dir,
        download=config.download,
        min_count=config.min_count,
        max_vocabulary=config.max_vocabulary,
        vocabulary=vocabulary,
    )


def build_language_model(config: DictConfig, vocabulary_size: int) -> LanguageModel:
    """The model of `config`, with the gate of `config`."""
    model = config.model
    try:
        return LanguageModel(
            vocabulary_size,
            model.embedding_size,
            model.hidden_size,
            model.num_layers,
            tied=model.tied,
            dropout_input=model.dropout_input,
            dropout_hidden=model.dropout_hidden,
            dropout_output=model.dropout_output,
            dropout_embedding=model.dropout_embedding,
            dropout_scale=model.get("dropout_scale", 1.0),
            weight_dropout=model.weight_dropout,
            gate=build_gate(config.gate),
            engine=model.engine,
        )
    except ValueError as error:
        raise UserError(f"model: {error}") from None


def build_task(config: DictConfig, corpus: TextCorpus, device: torch.device) -> LanguageModelTask:
    """The task of `config` on a corpus."""
    return LanguageModelTask(
        corpus=corpus,
        make_model=lambda vocabulary_size: build_language_model(config, vocabulary_size),
        device=device,
        batch_size=config.batch_size,
        valid_batch_size=config.eval.valid_batch_size,
        test_batch_size=config.eval.test_batch_size,
        bptt=config.bptt,
        random_length=config.random_length,
        eval_bptt=config.eval.bptt,
        alpha=config.model.alpha,
        beta=config.model.beta,
    )


def build_cache(config: DictConfig) -> CacheSettings:
    """The cache pointer of `config.eval.cache`."""
    return CacheSettings(config.window, config.theta, config["lambda"])


def build_settings(config: DictConfig) -> Settings:
    """How `config` trains."""
    return Settings(
        epochs=config.epochs,
        finetune_epochs=config.finetune_epochs if config.finetune else 0,
        max_steps=config.max_steps,
        optimizer=config.optimizer.name,
        lr=config.optimizer.lr,
        weight_decay=config.optimizer.weight_decay,
        betas=tuple(config.optimizer.betas),
        schedule=config.optimizer.schedule,
        warmup=config.optimizer.warmup,
        clip=config.optimizer.clip,
        average=config.optimizer.average,
        nonmonotone=config.optimizer.nonmonotone,
        accumulate=config.accumulate,
        bfloat16=config.precision == "bfloat16",
        seed=config.seed,
        checkpoint_minutes=config.checkpoint_minutes,
        temperature=build_temperature(config.gate, build_gate(config.gate)),
        log_every=config.log_every,
    )


def build_device(name: str) -> torch.device:
    """The device called `name`; "auto" is a GPU where there is one.

    Raises:
        UserError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device={name} can't be used ({reason}): use device=cpu or device=auto") from None
    return device


def vocabulary_of(run: Path) -> Vocabulary:
    """The vocabulary a run was trained with."""
    return Vocabulary.load(run / "vocabulary.json")
