"""What makes an update: the loop, hooks, gradients, phases without environment steps, batches."""
