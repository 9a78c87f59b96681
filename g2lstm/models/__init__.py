"""Models built on `G2LSTM`."""
