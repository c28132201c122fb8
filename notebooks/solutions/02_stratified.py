import numpy as np


def stratified(labels, share, seed):
    """Return training and validation indices; validation gets `share` of each label."""
    labels, rng = np.asarray(labels), np.random.default_rng(seed)
    train, val = [], []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        cut = round(share * len(members))
        val.extend(members[:cut])
        train.extend(members[cut:])
    return np.sort(train), np.sort(val)
