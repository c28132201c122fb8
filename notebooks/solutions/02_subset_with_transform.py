from torch.utils.data import Dataset


class TransformSubset(Dataset):
    """Chosen items of a dataset, each passed through a transform."""

    def __init__(self, dataset, indices, transform):
        self.dataset = dataset
        self.indices = indices
        self.transform = transform

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, i):
        image, mask = self.dataset[self.indices[i]]
        return self.transform(image, mask)


def subset_with_transform(dataset, indices, transform):
    """Return the chosen items of a dataset, each passed through `transform`."""
    return TransformSubset(dataset, indices, transform)
