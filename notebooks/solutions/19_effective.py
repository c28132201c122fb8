def effective(processes, own, accumulate, base_batch, base_rate):
    """Return (images that go into one step, learning rate for it)."""
    batch = processes * own * accumulate
    return batch, base_rate * batch / base_batch
