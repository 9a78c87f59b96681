"""What people do with a layer: G2LSTM behaves as nn.LSTM does, or better. T time, B batch, D input, H hidden units."""

import copy
import io
import multiprocessing
import pickle
import threading
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrizations, parametrize, prune, stateless
from torch.optim.swa_utils import AveragedModel

from g2lstm import G2LSTM, GumbelGate, SigmoidGate
from tests.processor import needs_bfloat16

T, B, D, H = 5, 3, 4, 6


def x() -> Tensor:
    return torch.randn(T, B, D, generator=torch.Generator().manual_seed(0))


def output(rnn: nn.LSTM, given: Tensor | None = None) -> Tensor:
    return rnn(x() if given is None else given)[0]


def gradients(rnn: nn.LSTM) -> list[Tensor]:
    rnn.zero_grad()
    output(rnn).square().sum().backward()
    return [torch.zeros(()) if parameter.grad is None else parameter.grad.clone() for parameter in rnn.parameters()]


def saved(rnn: nn.LSTM) -> nn.LSTM:
    file = io.BytesIO()
    torch.save(rnn, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def traced(rnn: nn.LSTM) -> Tensor:
    return torch.jit.trace(rnn, (x(),))(torch.cat([x(), x()], 1))[0]


def exported(rnn: nn.LSTM) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return output(torch.export.export(rnn, (x(),)).module())


def in_graph(rnn: nn.LSTM) -> Tensor:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = rnn

        def forward(self, given: Tensor) -> Tensor:
            return self.rnn(given)[0] * 2

    return torch.fx.symbolic_trace(Model())(x())


def seen_by_hooks(rnn: nn.LSTM) -> list[Any]:
    seen: list[Any] = []
    rnn.register_forward_pre_hook(lambda *given: seen.append(given[1][0].shape))
    rnn.register_forward_hook(lambda *given: seen.append(given[2][1][1].shape))
    rnn.register_full_backward_hook(lambda *given: seen.append(len(given[2])))
    output(rnn, x().requires_grad_()).sum().backward()
    return seen


def in_threads(rnn: nn.LSTM) -> Tensor:
    found: list[Tensor] = []
    threads = [threading.Thread(target=lambda: found.append(output(rnn))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return torch.stack(found)


def _send(rnn: nn.LSTM, pipe: Any) -> None:
    torch.set_num_threads(1)
    pipe.send(output(rnn).detach().tolist())


def in_a_fork(rnn: nn.LSTM) -> Tensor:
    output(rnn)
    ours, theirs = multiprocessing.Pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks in a process with threads
        process = multiprocessing.get_context("fork").Process(target=_send, args=(rnn, theirs))
        process.start()
    assert ours.poll(60)
    found = ours.recv()
    process.join()
    return torch.tensor(found)


def with_nan(rnn: nn.LSTM) -> Tensor:
    given = x()
    given[1, 2, 0] = float("nan")
    return output(rnn, given)


def frozen(rnn: nn.LSTM) -> tuple[bool, list[Tensor]]:
    rnn.requires_grad_(False)
    given = x().requires_grad_()
    output(rnn, given).square().sum().backward()
    assert given.grad is not None
    return output(rnn).requires_grad, [given.grad]


def partly_frozen(rnn: nn.LSTM) -> list[Tensor]:
    rnn.get_parameter("weight_hh_l0").requires_grad_(False)
    return gradients(rnn)


def replaced_weight(rnn: nn.LSTM) -> list[Tensor]:
    rnn.weight_ih_l0 = nn.Parameter(torch.ones(4 * H, D) / 3)
    return [output(rnn), *gradients(rnn)]


def optimized(rnn: nn.LSTM) -> Tensor:
    optimizer = torch.optim.Adam(rnn.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        output(rnn).square().sum().backward()
        nn.utils.clip_grad_norm_(rnn.parameters(), 0.1)
        optimizer.step()
    return output(rnn)


def averaged(rnn: nn.LSTM) -> Tensor:
    model = AveragedModel(rnn)
    model.update_parameters(rnn)
    return output(model.module)


def checkpointed(rnn: nn.LSTM) -> list[Tensor]:
    torch.utils.checkpoint.checkpoint(output, rnn, x(), use_reentrant=False).square().sum().backward()
    return [parameter.grad for parameter in rnn.parameters()]


def functional_gradients(rnn: nn.LSTM) -> list[Tensor]:
    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(rnn, parameters, (x(),))[0].square().sum()

    return list(torch.func.grad(loss)(dict(rnn.named_parameters())).values())


def under_fake_tensors(rnn: nn.LSTM) -> torch.Size:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        return output(rnn, mode.from_tensor(x())).shape


def under_autocast(rnn: nn.LSTM) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return output(rnn)


def within(mode: Callable[[], Any]) -> Callable[[nn.LSTM], Any]:
    def use(rnn: nn.LSTM) -> Any:
        with mode():
            found = output(rnn)
        return found.requires_grad, found.clone()

    return use


USES: dict[str, Callable[[nn.LSTM], Any]] = {
    "forward": output,
    "gradients": gradients,
    "gradients twice": lambda rnn: [gradients(rnn), gradients(rnn)],
    "copy": lambda rnn: output(copy.copy(rnn)),
    "deepcopy": lambda rnn: output(copy.deepcopy(rnn)),
    "deepcopy after a pass": lambda rnn: [gradients(rnn), output(copy.deepcopy(rnn))],
    "pickle": lambda rnn: output(pickle.loads(pickle.dumps(rnn))),
    "torch.save": lambda rnn: output(saved(rnn)),
    "double": lambda rnn: output(rnn.double(), x().double()),
    "bfloat16": lambda rnn: output(rnn.bfloat16(), x().bfloat16()),
    "half": lambda rnn: output(rnn.half(), x().half()),
    "to a dtype and back": lambda rnn: output(rnn.to(torch.float64).to(torch.float32)),
    "meta": lambda rnn: output(rnn.to("meta"), x().to("meta")).shape,
    "to_empty": lambda rnn: output(rnn.to("meta").to_empty(device="cpu")).shape,
    "share_memory": lambda rnn: output(rnn.share_memory()),
    "half under autocast": lambda rnn: under_autocast(rnn).dtype,
    "no_grad": within(torch.no_grad),
    "inference_mode": within(torch.inference_mode),
    "default device": within(lambda: torch.device("cpu")),
    "detect_anomaly": within(lambda: torch.autograd.detect_anomaly(check_nan=True)),
    "saved tensor hooks": within(lambda: torch.autograd.graph.save_on_cpu()),
    "hooks": seen_by_hooks,
    "parametrization": lambda rnn: gradients(parametrizations.weight_norm(rnn, "weight_hh_l0")),
    "parametrization removed": lambda rnn: output(
        parametrize.remove_parametrizations(parametrizations.weight_norm(rnn, "weight_hh_l0"), "weight_hh_l0")
    ),
    "spectral norm": lambda rnn: output(parametrizations.spectral_norm(rnn, "weight_ih_l0", n_power_iterations=9)).shape,
    "pruning": lambda rnn: output(prune.ln_structured(rnn, "weight_ih_l0", 0.5, 2, 1)),
    "functional_call": lambda rnn: torch.func.functional_call(
        rnn, {name: parameter * 2 for name, parameter in rnn.named_parameters()}, (x(),)
    )[0],
    "stateless": lambda rnn: stateless._functional_call(rnn, {"weight_hh_l0": torch.zeros(4 * H, H)}, (x(),))[0],
    "func.grad": functional_gradients,
    "state_dict": lambda rnn: list(rnn.state_dict()),
    "strict loading": lambda rnn: str(rnn.load_state_dict(nn.LSTM(D, H).state_dict(), strict=False)),
    "assigned state": lambda rnn: (
        rnn.load_state_dict({n: t * 2 for n, t in rnn.state_dict().items()}, assign=True) and output(rnn)
    ),
    "flat parameters": lambda rnn: [parameter for weights in rnn.all_weights for parameter in weights],
    "flatten_parameters": lambda rnn: [rnn.flatten_parameters(), output(rnn)][1],
    "reset_parameters": lambda rnn: [torch.manual_seed(3), rnn.reset_parameters(), output(rnn)][2],
    "apply": lambda rnn: output(rnn.apply(lambda m: [nn.init.constant_(p, 0.1) for p in m.parameters()] and m)),
    "replaced weight": replaced_weight,
    "weight tied to another's": lambda rnn: [setattr(rnn, "bias_hh_l0", rnn.bias_ih_l0), gradients(rnn)][1],
    "requires_grad_(False)": frozen,
    "one frozen weight": partly_frozen,
    "zero_grad(set_to_none=False)": lambda rnn: [gradients(rnn), rnn.zero_grad(False), rnn.bias_hh_l0.grad][2],
    "optimizer": optimized,
    "averaging": averaged,
    "checkpointing": checkpointed,
    "Sequential": lambda rnn: output(nn.Sequential(nn.Identity(), rnn)),
    "threads": in_threads,
    "fork": in_a_fork,
    "NaN": with_nan,
    "infinite input": lambda rnn: output(rnn, x() * float("inf")),
    "empty batch": lambda rnn: output(rnn, torch.zeros(T, 0, D)),
    "keyword": lambda rnn: rnn(input=x(), hx=None)[0],
    "transposed input": lambda rnn: output(rnn, x().permute(2, 1, 0).contiguous().permute(2, 1, 0)),
    "expanded input": lambda rnn: output(rnn, x()[:1].expand(T, B, D)),
    "fake tensors": under_fake_tensors,
}
EVALUATION_USES = {
    "jit.trace": traced,
    "export": exported,
    "fx": in_graph,
}


def assert_same(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, equal_nan=True) if isinstance(theirs, Tensor) else None
    if isinstance(theirs, list | tuple) and not isinstance(theirs, torch.Size):
        for left, right in zip(ours, theirs, strict=True):
            assert_same(left, right)
    elif not isinstance(theirs, Tensor):
        assert ours == theirs


@pytest.mark.parametrize(
    "use",
    [
        *(pytest.param(use, marks=[needs_bfloat16] if use == "half under autocast" else []) for use in USES),
        *EVALUATION_USES,
    ],
)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:Anomaly", "ignore:The tensor", "ignore:`torch.jit")
def test_a_layer_is_used_as_nn_lstm(use, training):
    """In training with a gate that changes nothing, so that it runs on engines of this package."""
    if training and use in EVALUATION_USES:
        pytest.skip("nn.LSTM's own way is kept in evaluation")
    if use == "export" and not training and torch.__version__.startswith("2.9."):
        pytest.skip("torch 2.9 can't export its own nn.LSTM")
    torch.manual_seed(0)
    lstm = nn.LSTM(D, H).train(training)
    rnn = G2LSTM.from_lstm(lstm, SigmoidGate() if training else GumbelGate())
    action = (USES | EVALUATION_USES)[use]
    tolerance = {"bfloat16": 2e-2, "half": 2e-3}.get(use)
    ours, theirs = action(rnn), action(lstm)
    if tolerance is None:
        assert_same(ours, theirs)
    else:
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_an_output_changed_in_place_raises_as_backward_needs_it():
    rnn = G2LSTM(D, H, gate=SigmoidGate())
    with pytest.raises(RuntimeError, match="modified"):  # noqa: PT012
        y = output(rnn)
        y.mul_(2)
        y.sum().backward()


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_states_may_be_views_though_cudnn_takes_none(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def strict(lstm: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            hx = next(part for part in arguments if isinstance(part, tuple | list) and len(part) == 2)
            assert all(part.is_contiguous() for part in hx)
            seen.append(hx)
            return lstm(*arguments)

        return called

    seen: list[Any] = []
    monkeypatch.setattr(torch.nn.modules.rnn._VF, "lstm", strict(torch._VF.lstm))
    monkeypatch.setattr(torch, "lstm", strict(torch.lstm))
    rnn, x = G2LSTM(3, 4, gate=SigmoidGate()).train(training), torch.randn(5, 2, 3)
    h, c = torch.randn(2, 2, 4).unbind(1)  # (2, 4) each, not contiguous
    views, copies = ((part.unsqueeze(0) for part in pair) for pair in ((h, c), (h.clone(), c.clone())))
    with nullcontext() if training else torch.no_grad():
        assert torch.equal(rnn(x, tuple(views))[0], rnn(x, tuple(copies))[0])
    assert seen or training
