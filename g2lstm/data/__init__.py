"""Corpora: where they come from (sources, parallel), how text becomes tokens (text; lines, subwords, pairs, batching),
and text that needs no files (builtin, numbers)."""
