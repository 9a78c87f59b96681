"""Compressed models at run time: a C++ library that reads a `model.g2` and runs it in the form that it is stored in.

`g2.h` is what it offers to C, `model` the same to Python. It needs neither torch's headers nor what trains and evaluates.
"""

from g2lstm.runtime.model import Model, instructions, open, problem, sample

__all__ = ["Model", "instructions", "open", "problem", "sample"]
