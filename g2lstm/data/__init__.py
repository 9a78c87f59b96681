"""Corpora: where they come from (sources), how text becomes tokens (text), English without files (builtin)."""
