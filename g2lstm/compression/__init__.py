"""Compressing the gates of a trained LSTM: operators, what they cost in bits, and which blocks of a model they treat."""

from g2lstm.compression.methods import Method
from g2lstm.compression.targets import Block, Compressed, Target, compress, compressed_copy, find_blocks

__all__ = ["Block", "Compressed", "Method", "Target", "compress", "compressed_copy", "find_blocks"]
