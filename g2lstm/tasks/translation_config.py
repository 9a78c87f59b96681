"""What a translation run can be told: the options of `data`, `model` and `eval`, and its own."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from g2lstm.decoding.beam import MOST_BEAM
from g2lstm.schema import Count, EngineName, Folder, NotNegative, Positive, Share, section

# Norwegian is False in YAML.
Language = Annotated[str, BeforeValidator(lambda value: "no" if value is False else value)]


@section
class DataConfig:
    """`data`: which pairs, and their sub-words; None leaves an option to the corpus."""

    name: Literal["iwslt14", "wmt14", "parallel", "numbers"]
    dir: Folder | None = None
    download: bool = True
    files: dict[Literal["train", "valid", "test"], tuple[str, ...]] | None = None
    languages: tuple[Language, Language] | None = None
    split: Literal["mixer", "fairseq"] = "mixer"
    extra: bool = False
    tokenised: bool | None = None
    lowercase: bool | None = None
    vocabulary_size: Count
    joint: bool
    longest: Count


@section
class ModelConfig:
    """`model`: the options of `g2lstm.models.translation.Translator`."""

    decoder: Literal["conditional", "stacked"]
    attention: Literal["dot", "additive"]
    input_feeding: bool
    tied: Literal["none", "target", "all"]
    embedding_size: Count
    hidden_size: Count
    encoder_layers: Count
    decoder_layers: Count
    dropout: Share
    readout_dropout: Share | None
    word_dropout: Share
    forget_bias: NotNegative
    embedding_scale: Positive | None = None
    engine: EngineName = "auto"


Penalty = Annotated[float, Field(ge=0, le=10)]


@section
class EvalConfig:
    """`eval`: how much of valid and test is read, and how translations are searched."""

    limit: Count | None = None
    beam: Annotated[int, Field(ge=1, le=MOST_BEAM)]
    length_penalty: Penalty
    coverage_penalty: Penalty


@section
class TranslationConfig:
    """What a translation run adds to the options of any run."""

    data: DataConfig
    model: ModelConfig
    batch_tokens: Count | None
    batch_size: Count | None
    loss_per: Literal["word", "sentence"]
    label_smoothing: Share
    eval: EvalConfig
