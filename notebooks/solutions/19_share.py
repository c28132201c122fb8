def share(n, rank, ranks):
    """Return the numbers, from 0 to n - 1, of the images that process `rank` judges."""
    return list(range(rank, n, ranks))  # dealt out like cards
