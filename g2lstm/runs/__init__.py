"""Runs: what they are asked to do (config), their folder and what is made of it (run), starting, recording, measuring."""
