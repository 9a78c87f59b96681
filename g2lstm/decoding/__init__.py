"""What is done with a trained model's predictions: the continuous cache pointer, and beam search."""
