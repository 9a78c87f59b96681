"""From a case to a step that can be called again and again.

T time, B batch, D input, H hidden units, V vocabulary.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from g2lstm.benchmark import cases
from g2lstm.benchmark.cases import LOOP, LSTM, LSTM_WITHOUT_ONEDNN, Case
from g2lstm.benchmark.deployed import deployed_step
from g2lstm.benchmark.peers import DroppedLSTM, StepLoop
from g2lstm.data.text import EOS, TextCorpus, Vocabulary
from g2lstm.engines.products import product
from g2lstm.gates import GumbelGate
from g2lstm.layers.output import linear_cross_entropy
from g2lstm.lstm import G2LSTM
from g2lstm.models.language_model import LanguageModel
from g2lstm.models.translation import EOS as END
from g2lstm.models.translation import Translator
from g2lstm.runs.compose import compose
from g2lstm.runs.config import Config
from g2lstm.schema import values_of
from g2lstm.tasks.language_model import LanguageModelTask
from g2lstm.training.optim import build_optimizer

Step = Callable[[], object]
GATE = GumbelGate(tau=0.9, noise_p=0.2)


def prepare(case: Case, device: torch.device) -> Step:
    """The step of `case`, with its own weights and data, the same ones each time."""
    torch.manual_seed(1)
    step = STEPS[case.task](case, device)
    return _without_onednn(step) if case.engine == LSTM_WITHOUT_ONEDNN else step


def _without_onednn(step: Step) -> Step:
    def native() -> None:
        before = torch._C._get_mkldnn_enabled()
        torch._C._set_mkldnn_enabled(False)  # the public `flags` would take as long as a part of a short step
        try:
            step()
        finally:
            torch._C._set_mkldnn_enabled(before)

    return native


def _layer_step(case: Case, device: torch.device) -> Step:
    """One layer: its forward pass, and in training its backward pass to the weights and the input."""
    time, batch, inputs, hidden = case.size
    training = case.mode == "train"
    layer = _layer(case.engine, inputs, hidden).to(device).train(training)
    x = torch.randn(time, batch, inputs, device=device, requires_grad=training)
    grad = torch.randn(time, batch, hidden, device=device)
    grads = {dtype: grad.to(dtype) for dtype in (*cases.DTYPES.values(), torch.float16)}  # cuDNN's under any autocast

    def step() -> None:
        with torch.set_grad_enabled(training), _autocast(case, device):
            output, _ = layer(x)
        if training:
            output.backward(grads[output.dtype])
            x.grad = None
            layer.zero_grad(set_to_none=True)

    return step


def _layer(engine: str, inputs: int, hidden: int) -> nn.Module:
    if engine in (LSTM, LSTM_WITHOUT_ONEDNN):
        return nn.LSTM(inputs, hidden)
    if engine == LOOP:
        return StepLoop(inputs, hidden, tau=GATE.tau, noise_p=GATE.noise_p)
    if engine in cases.MASKED:
        return G2LSTM(inputs, hidden, gate=GATE, **cases.MASKED[engine])
    return G2LSTM(inputs, hidden, gate=GATE, engine=engine)


def _loss_step(case: Case, device: torch.device) -> Step:
    """The output layer and its loss, forward and backward."""
    time, batch, inputs, vocabulary = case.size
    x = torch.randn(time * batch, inputs, device=device, requires_grad=True)
    weight = torch.empty(vocabulary, inputs, device=device).uniform_(-0.1, 0.1).requires_grad_()
    bias = torch.zeros(vocabulary, device=device, requires_grad=True)
    targets = torch.randint(vocabulary, (time * batch,), device=device)

    def train() -> None:
        with _autocast(case, device):
            if case.engine == cases.CHUNKED_LOSS:
                value = linear_cross_entropy(x, weight, bias, targets)
            else:
                value = F.cross_entropy(F.linear(x, weight, bias), targets)
        value.backward()
        x.grad = weight.grad = bias.grad = None

    return train


def _ptb_step(case: Case, device: torch.device) -> Step:
    """A training step of `task=ptb` as the training loop makes it."""
    config, task = _ptb(case, device)
    settings, model = config.settings, task.build_model()
    if case.engine in (LSTM, LOOP):  # other layers of the same sizes in the place of the model's own
        kind = DroppedLSTM if case.engine == LSTM else StepLoop
        layers = [layer for layer in model.layers if isinstance(layer, G2LSTM)]
        model.layers = nn.ModuleList(kind(layer.input_size, layer.hidden_size, layer.weight_dropout) for layer in layers)
    model = model.to(device).train()
    optimizer = build_optimizer(settings.optimizer, model, lr=settings.lr, weight_decay=settings.weight_decay)
    carried = None

    def step() -> None:
        nonlocal carried
        with _autocast(case, device):
            result = task.loss(model, (0, case.size[0]), carried)
        result.objective.backward()
        carried = result.carried
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _translation_step(case: Case, device: torch.device) -> Step:
    """A training step of `experiment=iwslt14_cpu` on random sub-words, T on both sides of B pairs."""
    time, batch, embedding, hidden = case.size
    options = [f"precision={case.dtype}", f"model.embedding_size={embedding}", f"model.hidden_size={hidden}"]
    config = Config.parse(compose(["experiment=iwslt14_cpu", "gate=gumbel", *options]))
    settings, vocabulary = config.settings, config.task.data.vocabulary_size
    model = Translator(vocabulary, vocabulary, **values_of(config.task.model), gate=config.gate).to(device).train()
    optimizer = build_optimizer(settings.optimizer, model, lr=settings.lr, weight_decay=settings.weight_decay)
    source, inputs, targets = torch.randint(END + 1, vocabulary, (3, time, batch), device=device)
    lengths = torch.full((batch,), time)
    parts = inputs.split(1 if case.engine == cases.STEP_BY_STEP else time)

    def step() -> None:
        features: list[Tensor] = []
        with _autocast(case, device):
            memory = model.encode(source, lengths)
            state = model.start(memory)
            for part in parts:
                found, _, state = model.decode(part, state, memory)
                features.append(found)
            loss = model.loss(torch.cat(features), targets, smoothing=config.task.label_smoothing)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _evaluation_step(case: Case, device: torch.device) -> Step:
    """An evaluation of T words in each of B streams, or the products in it alone."""
    config, task = _ptb(case, device)
    model = task.build_model().to(device).eval()
    if case.engine in (cases.EVALUATION, cases.EVALUATION_WITH_CACHE):
        return lambda: task.evaluate(model, "test", "" if case.engine == cases.EVALUATION else "cache")
    return _products_step(case, model, config.task.eval.bptt)


def _ptb(case: Case, device: torch.device) -> tuple[Config, LanguageModelTask]:
    """`task=ptb` at the sizes of a case, on random words, as many different ones as the Penn Treebank has."""
    time, batch, embedding, hidden = case.size
    sizes = {"model.embedding_size": embedding, "model.hidden_size": hidden, "bptt": time}
    sizes |= dict.fromkeys(("batch_size", "eval.valid_batch_size", "eval.test_batch_size"), batch)
    options = [f"{name}={size}" for name, size in sizes.items()]
    config = Config.parse(compose(["task=ptb", "gate=gumbel", "random_length=false", f"precision={case.dtype}", *options]))
    vocabulary = Vocabulary((EOS, *(f"w{number}" for number in range(1, cases.VOCABULARY))))
    words = torch.randint(len(vocabulary), (batch * (time + 1),))
    corpus = TextCorpus(vocabulary, words, words, words, "random words")
    return config, LanguageModelTask(corpus, config.gate, device, config.task)


def _products_step(case: Case, model: LanguageModel, segment: int) -> Step:
    """Layer by layer, and in a layer step by step, as an evaluation has to; the other products a segment at a time."""
    time, batch = case.size[:2]
    layers = [layer for layer in model.layers if isinstance(layer, G2LSTM)]
    batched = [*(layer.weight_ih_l0.detach() for layer in layers), model.decoder_weight.detach()]
    pairs = [(weight, weight.new_ones(segment * batch, weight.shape[1])) for weight in batched]
    recurrent = [layer.weight_hh_l0.detach() for layer in layers]
    states = [(weight, weight.new_ones(batch, weight.shape[1])) for weight in recurrent]

    def multiply() -> None:
        for start in range(0, time, segment):
            length = min(segment, time - start)
            for weight, state in states:
                for _ in range(length):
                    if case.engine == cases.RECURRENT_PRODUCTS:
                        torch.mv(weight, state[0])
                    else:
                        product(state, weight)
            if case.engine == cases.ALL_PRODUCTS:
                for weight, x in pairs:
                    product(x[: length * batch], weight)

    return multiply


def _autocast(case: Case, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=case.dtype == "bfloat16")


STEPS = {
    "layer": _layer_step, "loss": _loss_step, "ptb": _ptb_step, "evaluation": _evaluation_step, "deploy": deployed_step,
    "translation": _translation_step,
}  # fmt: skip
