"""Speed and memory beside `nn.LSTM`: cases, their steps, measuring, the report. `experiments/speed.py` runs it."""
