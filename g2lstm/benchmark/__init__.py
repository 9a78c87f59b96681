"""Speed and memory beside `nn.LSTM`: cases, their steps, measuring, rows. `experiments/speed.py` runs it."""
