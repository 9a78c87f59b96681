"""What stands around the recurrence: regularisation and the output layer."""
