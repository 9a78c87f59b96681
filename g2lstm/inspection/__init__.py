"""Reading a trained network's gates."""
