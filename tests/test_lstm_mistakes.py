"""What nn.LSTM refuses, G2LSTM refuses with the same words. T time, B batch, D input, H hidden units."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from g2lstm import G2LSTM

T, B, D, H = 5, 3, 4, 6
LENGTHS = torch.tensor([2, 5, 4])


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


def packed(width: int = D, dtype: torch.dtype = torch.float32, enforce_sorted: bool = False) -> PackedSequence:
    lengths = LENGTHS.sort(descending=True).values if enforce_sorted else LENGTHS
    return pack_padded_sequence(torch.zeros(T, B, width, dtype=dtype), lengths, enforce_sorted=enforce_sorted)


STATE = (1, B, H)
BAD_ARGUMENTS = {
    "no dimension": lambda: (torch.tensor(1.0),),
    "one dimension": lambda: (zeros(D),),
    "four dimensions": lambda: (zeros(T, B, D, 1),),
    "wrong size": lambda: (zeros(T, B, D + 1),),
    "wrong size unbatched": lambda: (zeros(T, D - 1),),
    "wrong size packed": lambda: (packed(D + 1),),
    "double": lambda: (zeros(T, B, D).double(),),
    "integers": lambda: (zeros(T, B, D).long(),),
    "complex": lambda: (torch.zeros(T, B, D, dtype=torch.complex64),),
    "double packed": lambda: (packed(dtype=torch.float64),),
    "other device": lambda: (torch.zeros(T, B, D, device="meta"),),
    "no steps": lambda: (zeros(0, B, D),),
    "no steps unbatched": lambda: (zeros(0, D),),
    "no steps, no sequences": lambda: (zeros(0, 0, D),),
    "not a tensor": lambda: ([1.0, 2.0],),
    "packed in three dimensions": lambda: (PackedSequence(zeros(4, 2, D), torch.tensor([2, 2])),),
    "h of another batch": lambda: (zeros(T, B, D), (zeros(1, B + 1, H), zeros(*STATE))),
    "c of another batch": lambda: (zeros(T, B, D), (zeros(*STATE), zeros(1, B + 1, H))),
    "h of another size": lambda: (zeros(T, B, D), (zeros(1, B, H + 1), zeros(*STATE))),
    "c of another size": lambda: (zeros(T, B, D), (zeros(*STATE), zeros(1, B, H + 1))),
    "states of two layers": lambda: (zeros(T, B, D), (zeros(2, B, H), zeros(2, B, H))),
    "unbatched states for a batch": lambda: (zeros(T, B, D), (zeros(1, H), zeros(1, H))),
    "unbatched h for a batch": lambda: (zeros(T, B, D), (zeros(1, H), zeros(*STATE))),
    "unbatched c for a batch": lambda: (zeros(T, B, D), (zeros(*STATE), zeros(1, H))),
    "batched states, unbatched input": lambda: (zeros(T, D), (zeros(1, 1, H), zeros(1, 1, H))),
    "unbatched h of another size": lambda: (zeros(T, D), (zeros(1, H + 1), zeros(1, H))),
    "unbatched c of another size": lambda: (zeros(T, D), (zeros(1, H), zeros(1, H - 1))),
    "double states": lambda: (zeros(T, B, D), (zeros(*STATE).double(), zeros(*STATE).double())),
    "double c": lambda: (zeros(T, B, D), (zeros(*STATE), zeros(*STATE).double())),
    "double states packed": lambda: (packed(), (zeros(*STATE).double(), zeros(*STATE).double())),
    "states elsewhere": lambda: (zeros(T, B, D), (zeros(*STATE).to("meta"), zeros(*STATE).to("meta"))),
    "packed h too small": lambda: (packed(), (zeros(1, 1, H), zeros(*STATE))),
    "packed h of another size": lambda: (packed(), (zeros(1, B, H + 1), zeros(*STATE))),
    "packed and sorted, h of another batch": lambda: (packed(enforce_sorted=True), (zeros(1, B + 1, H), zeros(*STATE))),
    "packed, unbatched states": lambda: (packed(), (zeros(B, H), zeros(B, H))),
    "one tensor as states": lambda: (zeros(T, B, D), zeros(2, 1, B, H)),
    "one state": lambda: (zeros(T, B, D), (zeros(*STATE),)),
    "three states": lambda: (zeros(T, B, D), (zeros(*STATE),) * 3),
}


def error(module: nn.LSTM, given: tuple) -> tuple[type, str]:
    with pytest.raises(Exception) as raised:  # noqa: PT011
        module(*given)
    return raised.type, str(raised.value)


@pytest.mark.parametrize("given", BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_bad_arguments_raise_what_nn_lstm_raises(given):
    expected = error(nn.LSTM(D, H), given())
    for engine in ("auto", "reference", "bptt"):
        rnn = G2LSTM(D, H, engine=engine)
        assert error(rnn, given()) == expected
        assert error(rnn.eval(), given()) == expected


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ({"batch_first": True}, lambda: (zeros(B, 0, D),)),
        ({"batch_first": True}, lambda: (zeros(B, T, D), (zeros(1, T, H), zeros(1, T, H)))),
        ({"proj_size": 2}, lambda: (zeros(T, B, D), (zeros(*STATE), zeros(*STATE)))),
        ({"proj_size": 2}, lambda: (zeros(T, B, D), (zeros(1, B, 2), zeros(1, B, 2)))),
        ({"bidirectional": True}, lambda: (zeros(T, B, D), (zeros(*STATE), zeros(*STATE)))),
        ({"num_layers": 2}, lambda: (zeros(T, D), (zeros(1, H), zeros(1, H)))),
    ],
)
def test_bad_arguments_of_other_options_raise_what_nn_lstm_raises(options, given):
    assert error(G2LSTM(D, H, **options), given()) == error(nn.LSTM(D, H, **options), given())


@pytest.mark.parametrize("index", [0, 1])
def test_states_for_more_sequences_than_are_packed_are_refused(index):
    """nn.LSTM reads the first ones and says nothing; here it is an error."""
    hx = [zeros(*STATE), zeros(*STATE)]
    hx[index] = zeros(1, B + 1, H)
    with pytest.raises(RuntimeError, match=rf"Expected hidden\[{index}\] size \(1, 3, 6\), got \[1, 4, 6\]"):
        G2LSTM(D, H)(packed(), tuple(hx))


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ((0, H), {}),
        ((D, 0), {}),
        ((D, 2.5), {}),
        ((D, H), {"num_layers": 0}),
        ((D, H), {"dropout": 1.5}),
        ((D, H), {"dropout": True}),
        ((D, H), {"bias": 1}),
        ((D, H), {"batch_first": None}),
        ((D, H), {"proj_size": H}),
        ((D, H), {"proj_size": -1}),
    ],
)
def test_bad_constructor_arguments_raise_what_nn_lstm_raises(given, options):
    """Some of them nothing: torch 2.9 takes no inputs, and flags that are none."""

    def raised(module: type[nn.LSTM]) -> tuple[type, str] | None:
        try:
            module(*given, **options)
        except (ValueError, TypeError) as error:
            return type(error), str(error)
        return None

    assert raised(G2LSTM) == raised(nn.LSTM)


def test_dropout_without_a_second_layer_warns_as_in_nn_lstm():
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last"):
        G2LSTM(D, H, dropout=0.5)
