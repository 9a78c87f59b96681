"""Layers under torch.compile, torch.func and torch.fx. T time, B batch, D input, H hidden units."""

import pytest
import torch
from torch import Tensor, nn

from g2lstm import G2LSTM, G2LSTMCell, GumbelGate, SharpenedGate
from g2lstm.engines import ENGINES, compiled
from tests.engines import fresh

T, B, D, H = 5, 3, 4, 6


def x() -> Tensor:
    return torch.randn(T, B, D, generator=torch.Generator().manual_seed(0))


FIRST_PASSES = """
import gc, os, sys, torch
gc.disable()
import torch._dynamo.convert_frame  # once, before the forks
from g2lstm import G2LSTM
from g2lstm.engines import compiled
from torch._subclasses.fake_tensor import FakeTensorMode

def fake():
    with FakeTensorMode():
        G2LSTM(4, 6)(torch.zeros(5, 3, 4))

def functional(rnn):
    loss = lambda parameters: torch.func.functional_call(rnn, parameters, (x,))[0].sum()
    torch.func.grad(loss)(dict(rnn.named_parameters()))

def within(mode):
    with mode:
        rnn(x)

rnn, x = G2LSTM(4, 6), torch.zeros(5, 3, 4)
torch._dynamo.config.allow_rnn = True
passes = {
    "compile": lambda: torch.compile(lambda y: rnn(y)[0], backend="eager", fullgraph=True)(x),
    "fake tensors": fake,
    "vmap": lambda: torch.vmap(lambda y: rnn(y)[0], randomness="different")(x.unsqueeze(0)),
    "func.grad": lambda: functional(rnn),
    "jit.trace": lambda: torch.jit.trace(rnn, (x,), check_trace=False),
    "autocast": lambda: within(torch.autocast("cpu", torch.bfloat16)),
    "inference": lambda: within(torch.inference_mode()),
    "meta": lambda: G2LSTM(4, 6, device="meta")(x.to("meta")),
    "double": lambda: [torch.set_default_dtype(torch.float64), rnn(x)],
}
for name, first in passes.items():
    child = os.fork()
    if child == 0:
        first()
        print(name, compiled.problem(), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.skipif(compiled.problem() is not None, reason=f"the native engine {compiled.problem()}")
def test_a_first_pass_in_any_mode_leaves_the_kernel_on(tmp_path):
    out, errors = fresh.start(FIRST_PASSES, tmp_path).communicate()
    assert errors == ""
    lines = out.splitlines()
    assert len(lines) == FIRST_PASSES.count(": lambda:") + 1
    assert [line for line in lines if not line.endswith(" None")] == []


@pytest.fixture
def layers_can_be_compiled():
    with torch._dynamo.config.patch(allow_rnn=True):  # as docs/layer.md says
        torch._dynamo.reset()
        yield


ONE_LAYER = {"num_layers": 1, "bidirectional": False, "dropout": 0.0}  # compiles in half a second


@pytest.mark.parametrize(
    ("engine", "gate", "options"),
    [
        ("native", GumbelGate(), {}),
        ("native", GumbelGate(hard=True), ONE_LAYER),
        ("native", SharpenedGate(), ONE_LAYER),
        ("bptt", GumbelGate(), ONE_LAYER),  # whose graph has each step
        ("native", GumbelGate(), {"recurrent_dropout": 0.3, "zoneout": (0.2, 0.1)} | ONE_LAYER),
    ],
    ids=["native", "native-hard", "native-sharpened", "bptt", "native-masked"],
)
def test_a_training_pass_is_one_graph_with_the_same_numbers(gate, engine, options, layers_can_be_compiled):
    if engine == "native" and compiled.problem() is not None:
        pytest.skip("no kernel")
    if torch.__version__.startswith(("2.9.", "2.11.")) and engine == "native" and isinstance(gate, GumbelGate):
        pytest.skip("a graph of torch 2.9 and 2.11 draws other noise")
    shape = {"num_layers": 2, "bidirectional": True, "dropout": 0.2}
    rnn = G2LSTM(D, H, gate=gate, engine=engine, weight_dropout=0.3, **(shape | options))
    graph = torch.compile(rnn, backend="aot_eager", fullgraph=True)
    found = []
    for module in (rnn, graph):
        torch.manual_seed(5)
        y, (_, c_n) = module(x()[:2])
        found.append([y, *torch.autograd.grad(y.square().sum() + c_n.sum(), list(rnn.parameters()))])
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
    assert gate == SharpenedGate() or not torch.equal(
        graph(x()[:2])[0], graph(x()[:2])[0]
    )  # noise is no constant of the graph


@pytest.mark.parametrize("engine", ["auto", *(name for name in ENGINES if name in ("bptt", "reference"))])
def test_functional_gradients_in_training_are_autograds(engine):
    rnn = G2LSTM(D, H, 2, engine=engine)
    noise, parameters = rnn.draw_noise(T, B), dict(rnn.named_parameters())

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(rnn, parameters, (x(),), {"noise": noise})[0].square().sum()

    found = torch.func.grad(loss)(parameters)
    loss(parameters).backward()
    for name, parameter in parameters.items():
        torch.testing.assert_close(found[name], parameter.grad)


def test_gradients_of_each_sequence_by_vmap_are_those_of_each_alone():
    rnn = G2LSTM(D, H, gate=SharpenedGate())
    parameters = {name: parameter.detach() for name, parameter in rnn.named_parameters()}

    def gradient(given: Tensor) -> dict[str, Tensor]:
        return torch.func.grad(lambda p: torch.func.functional_call(rnn, p, (given,))[0].square().sum())(parameters)

    each = torch.vmap(gradient, 1)(x())
    for b in range(B):
        for name, alone in gradient(x()[:, b]).items():
            torch.testing.assert_close(each[name][b], alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_vmap_runs_a_batch_of_batches_which_nn_lstm_can_not(training):
    rnn = G2LSTM(D, H, gate=SharpenedGate() if training else GumbelGate()).train(training)
    found = torch.vmap(lambda given: rnn(given)[0])(torch.stack([x(), x() * 2]))
    torch.testing.assert_close(found, torch.stack([rnn(given)[0] for given in (x(), x() * 2)]))


def test_a_cell_is_a_leaf_of_a_traced_graph():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = G2LSTMCell(D, H)

        def forward(self, given: Tensor, h: Tensor, c: Tensor) -> Tensor:
            return self.cell(given, (h, c))[0]

    model, state = Model().eval(), (torch.zeros(B, H), torch.zeros(B, H))
    graph = torch.fx.symbolic_trace(model)
    assert torch.equal(graph(x()[0], *state), model(x()[0], *state))
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"] == ["cell"]
