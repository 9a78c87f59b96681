"""The forecaster against nn.LSTM and a linear head."""

import torch
from torch import nn
from torch.testing import assert_close

from g2lstm.gates import SigmoidGate
from g2lstm.models.forecaster import Forecaster


def test_it_is_an_lstm_and_a_linear_head_at_the_last_steps_with_the_present_value_added_or_not() -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 2, 3)
    model = Forecaster(3, 2, 4, hidden_size=5, num_layers=2, residual=False, gate=SigmoidGate())
    lstm = nn.LSTM(3, 5, 2)
    lstm.load_state_dict(model.rnn.state_dict())
    expected = model.head(lstm(x)[0][-5:]).view(5, 2, 4, 2)
    assert_close(model(x, 5), expected)
    residual = Forecaster(3, 2, 4, hidden_size=5, num_layers=2, gate=SigmoidGate())
    residual.load_state_dict(model.state_dict())
    assert_close(residual(x, 5), expected + x[2:, :, None, :2])


def test_dropout_acts_between_layers_in_training() -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 2, 3)
    model = Forecaster(3, 2, 4, num_layers=2, dropout=0.5, gate=SigmoidGate())
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert_close(model(x), model(x), rtol=0, atol=0)
