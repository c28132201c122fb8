from itertools import product


def add_runs(done):
    """Return the fewest runs that complete a square of down and up with one loss."""
    lacking = []
    for loss in ("bce", "dice"):
        square = product(("maxpool", "strided"), ("transposed", "nearest"), [loss])
        lacking.append([run for run in square if run not in done])
    return min(lacking, key=len)
