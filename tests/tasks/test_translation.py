"""The translation task by itself: losses, batches, what an evaluation reads and what it depends on."""

from dataclasses import replace

import pytest
import sacrebleu
import torch

from g2lstm.data.batching import padded
from g2lstm.decoding.beam import Hypothesis
from g2lstm.errors import UserError
from g2lstm.gates import SigmoidGate
from g2lstm.models.translation import PAD
from g2lstm.runs.compose import compose
from g2lstm.schema import checked
from g2lstm.tasks.translation import TranslationTask
from g2lstm.tasks.translation_config import TranslationConfig
from tests.end_to_end.test_translation import SIZES, write_corpus

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> TranslationConfig:
    folder = write_corpus(tmp_path_factory.mktemp("pairs"))
    values = compose(
        ["task=parallel", f"data.dir={folder}", "data.languages=[xx,yy]", *(f"{k}={v}" for k, v in SIZES.items())]
    )
    own = {name: values[name] for name in TranslationConfig.__dataclass_fields__}
    return checked(own, TranslationConfig)


@pytest.fixture(scope="module")
def task(config) -> TranslationTask:
    return TranslationTask.from_config(config, gate=SigmoidGate(), device=CPU)


def model_of(task: TranslationTask):
    torch.manual_seed(1)
    return task.build_model().eval()


def test_the_loss_of_a_sentence_is_its_sum_and_that_of_a_word_the_mean(task):
    model, item = model_of(task), [0, 3, 5]
    plain = replace(task, config=replace(task.config, label_smoothing=0.0))
    by_word = plain.loss(model, item, None)
    by_sentence = replace(plain, config=replace(plain.config, loss_per="sentence")).loss(model, item, None)
    batch = padded(task.corpus.train, item)
    features = model(batch.source, batch.source_lengths, batch.inputs)
    total = model.loss(features, batch.targets, reduction="sum")
    torch.testing.assert_close(by_sentence.objective, total / 3)
    torch.testing.assert_close(by_word.objective, total / by_word.count)
    assert by_word.count == by_sentence.count == int((batch.targets != PAD).sum())
    torch.testing.assert_close(by_sentence.loss, by_word.loss)


def test_an_epoch_has_each_pair_once_and_is_drawn_again_alike(task):
    first, second = (task.plan(torch.Generator().manual_seed(seed)) for seed in (1, 2))
    assert sorted(index for batch in first for index in batch) == list(range(len(task.corpus.train)))
    assert first == task.plan(torch.Generator().manual_seed(1)) != second


def test_the_losses_of_references_are_those_of_each_pair_alone(task):
    model = model_of(task)
    found = task.evaluate(model, "valid", "forced")
    for index in (0, 4, 13):
        batch = padded(task.corpus.valid, [index])
        with torch.no_grad():
            features = model(batch.source, batch.source_lengths, batch.inputs)
            alone = model.loss(features, batch.targets, reduction="none").sum()
        assert found.losses[index].item() == pytest.approx(alone.item(), abs=1e-4)
    steps = int(task.corpus.valid.lengths[:, 1].sum()) + len(task.corpus.valid)
    assert found.metrics["loss"] == pytest.approx(found.losses.sum().item() / steps)
    assert "bleu" not in found.metrics


def test_a_limit_reads_the_first_pairs_and_names_another_evaluation(task):
    model = model_of(task)
    few = task.evaluate(model, "test", limit=4)
    assert few.losses.equal(task.evaluate(model, "test", "forced").losses[:4])
    assert few.statistics.shape == (4, 10)
    limited = replace(task, config=replace(task.config, eval=replace(task.config.eval, limit=4)))
    assert limited.evaluate(model, "test").metrics == few.metrics
    assert task.size("test", 4).startswith("4 pairs")
    digests = {task.digest("test"), task.digest("test", 4), task.digest("valid"), limited.digest("test")}
    assert len(digests) == 4


def test_scores_are_of_each_sentence_beside_its_own_reference(task, monkeypatch):
    """Every second translation is right, the others are words that are never said."""
    pairs, references = task.corpus.test, task.corpus.lines["test"][1]
    asked = [pairs.source(index).tolist() for index in range(len(pairs))]
    right = {tuple(source): pairs.target(index).tolist() for index, source in enumerate(asked) if index % 2 == 0}
    wrong = task.subwords.encode_target(["da da da da"])[0]
    texts = [references[index] if tuple(source) in right else "da da da da" for index, source in enumerate(asked)]

    def search(self, models, sources, options):
        return [[Hypothesis(right.get(tuple(source.tolist()), wrong), 0.0)] for source in sources]

    monkeypatch.setattr(TranslationTask, "search", search)
    found = task.evaluate(model_of(task), "test")
    assert found.metrics["bleu"] == pytest.approx(sacrebleu.corpus_bleu(texts, [references], tokenize="none").score)
    assert 10 < found.metrics["bleu"] < 90
    assert found.metrics["chrf"] == pytest.approx(sacrebleu.corpus_chrf(texts, [references]).score)
    whole = [texts[index] == reference for index, reference in enumerate(references)]
    assert [bool(row[2:6].equal(row[6:])) for row in found.statistics] == whole  # each n-gram is matched
    numbers = replace(task, config=replace(task.config, data=replace(task.config.data, name="numbers")))
    numbers.__dict__["corpus"] = task.corpus
    assert numbers.evaluate(model_of(task), "test").metrics["exact_match"] == pytest.approx(100 * sum(whole) / len(whole))


def test_gates_see_no_padding(task):
    seen = []
    task.evaluate(model_of(task), "valid", "forced", reading=seen.append)
    assert all((words != PAD).all() for words in seen)
    assert sum(words.numel() for words in seen) == int(task.corpus.valid.lengths[:, 1].sum()) + len(task.corpus.valid)


def test_a_run_keeps_what_it_needs_to_translate_without_its_text(task, config):
    bare = replace(config, data=replace(config.data, dir="/nowhere"))
    again = TranslationTask.from_config(bare, gate=SigmoidGate(), device=CPU, files=task.files())
    (found,), (expected,) = (one.translate([model_of(task)], ["da de bo"], config.eval) for one in (again, task))
    assert [text for text, _ in found] == [text for text, _ in expected]
    with pytest.raises(UserError, match="no parallel corpus"):
        again.evaluate(model_of(task), "test")


def reopened(task, config, **options) -> TranslationTask:
    own = replace(config, data=replace(config.data, **options))
    return TranslationTask.from_config(own, gate=SigmoidGate(), device=CPU, files=task.files())


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_run_goes_on_with_its_own_texts_alone(task, config, tmp_path, split):
    write_corpus(tmp_path)
    again = reopened(task, config, dir=str(tmp_path))
    assert again.files() == task.files()
    again.plan(torch.Generator())
    for language in ("xx", "yy"):
        path = tmp_path / f"{split}.{language}"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(UserError, match=rf"the {split} text has changed .* run began \(parallel under .*\): put it back"):
        reopened(task, config, dir=str(tmp_path)).plan(torch.Generator())


def test_a_run_that_kept_the_digest_of_train_alone_goes_on(task, config):
    older = replace(task, text={"train": task.text["train"]})
    again = reopened(older, config)
    assert again.files() == older.files() != task.files()
    again.plan(torch.Generator())


@pytest.mark.parametrize("option", [{"lowercase": True}, {"vocabulary_size": 35}, {"joint": False}])
def test_what_a_run_was_trained_with_stays(task, config, option):
    with pytest.raises(UserError, match=rf"data.{next(iter(option))}=\w+, but the run was trained with \w+: leave it out"):
        reopened(task, config, **option)


def test_the_files_at_hand_may_have_other_tokens_and_endings(task, config):
    again = reopened(task, config, tokenised=not task.form.tokenised, languages=("aa", "bb"))
    assert (again.form.tokenised, again.form.languages) == (not task.form.tokenised, ("aa", "bb"))
    assert reopened(task, config, languages=None).form == task.form


def test_raw_text_is_tokenised_where_a_run_of_tokens_is_evaluated_on_it(task, config, tmp_path):
    raw = {}
    for split in ("train", "valid", "test"):
        sides = [tmp_path / f"{split}.{side}" for side in ("xx", "yy")]
        for path in sides:
            path.write_text("".join(f"da{path.suffix[1:]}, {word}.\n" for word in ("da", "de", "du")))
        raw[split] = tuple(map(str, sides))
    trained = replace(task, form=replace(task.form, tokenised=True))
    data = replace(config.data, name="iwslt14", dir=None, files=raw, extra=True, tokenised=None)  # extra: as it was trained
    read = TranslationTask.from_config(replace(config, data=data), gate=SigmoidGate(), device=CPU, files=trained.files())
    assert read.form.tokenised
    assert not read.corpus.form.tokenised
    assert read.corpus.test.target(0).tolist() == read.subwords.encode_target(["dayy , da ."])[0]


def test_the_papers_values_are_those_of_its_direction_and_split_alone(task):
    def values(form=task.form, **data):
        options = replace(task.config, data=replace(task.config.data, **{"files": None} | data))
        return replace(task, config=options, form=form).published

    german, english = (replace(task.form, languages=pair) for pair in (("de", "en"), ("en", "de")))
    assert values(german, name="iwslt14")["sigmoid"] == {"test_bleu": 31.00}
    assert values(english, name="wmt14")["gumbel"] == {"test_bleu": 22.43}
    others = (
        values(english, name="iwslt14"), values(german, name="wmt14"), values(german, name="iwslt14", split="fairseq"),
        values(german, name="iwslt14", files={"train": ("a",)}), values(name="parallel"), values(name="numbers"),
    )  # fmt: skip
    assert not any(others)


def test_one_embedding_for_two_vocabularies_is_refused(config):
    apart = replace(
        config, data=replace(config.data, joint=False, vocabulary_size=24), model=replace(config.model, tied="all")
    )
    with pytest.raises(UserError, match=r"model.tied=all .* data.joint=false .*: set data.joint=true, or"):
        TranslationTask.from_config(apart, gate=SigmoidGate(), device=CPU).build_model()
    target = replace(apart, model=replace(config.model, tied="target"))
    TranslationTask.from_config(target, gate=SigmoidGate(), device=CPU).build_model()


def test_raw_text_gets_the_tokens_of_the_corpus(task):
    lines, own = ["Und usw.", "Ja.", "So ...", "am 3."], {"languages": ("de", "en"), "tokenised": True}

    def read(name: str, **form: object) -> list[str]:
        config = replace(task.config, data=replace(task.config.data, name=name))
        return replace(task, config=config, form=replace(task.form, **own | form)).read_by_model(lines)

    assert read("iwslt14") == ["Und usw .", "Ja .", "So ...", "am 3 ."]
    assert read("parallel")[0] == read("iwslt14", tokenised=False)[0] == "Und usw."


def test_sources_that_are_too_long_to_translate_are_counted(task, monkeypatch):
    assert task.facts["held_out_not_translated"] == 0
    monkeypatch.setattr("g2lstm.tasks.translation.LONGEST_LINE", 0)
    assert task.facts["held_out_not_translated"] == 14 + 9
    one = replace(task, config=replace(task.config, eval=replace(task.config.eval, limit=1)))
    one.__dict__["corpus"] = task.corpus
    assert one.facts["held_out_not_translated"] == 2


@pytest.mark.parametrize("sizes", [{"batch_tokens": None}, {"batch_size": 3}])
def test_a_batch_has_one_size(config, sizes):
    with pytest.raises(UserError, match="set batch_tokens or batch_size"):
        TranslationTask.from_config(replace(config, **sizes), gate=SigmoidGate(), device=CPU)
