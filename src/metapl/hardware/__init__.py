"""What a run computes on: the device, the precision, and the processes that share its work."""
