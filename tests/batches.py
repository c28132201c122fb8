"""What the tests of metrics and losses share: random batches, and a watch for waits."""

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode


def random_batch(images, classes, size=7, seed=0, ignored=0.1):
    """Return logits (images, classes, size, size + 1) and a target with some pixels ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, classes, size, size + 1, generator=generator)
    target = torch.randint(max(2, classes), (images, size, size + 1), generator=generator)
    target[torch.rand(target.shape, generator=generator) < ignored] = 255
    return logits, target


some = settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


@st.composite
def batches(draw, most_classes=5, ignored=(0.0, 0.3)):
    """Draw logits and target: small images, classes that may be absent, perhaps ignored pixels."""
    channels = draw(st.integers(min(2, most_classes), most_classes))
    images, height, width = (draw(st.integers(least, 6)) for least in (2, 1, 1))
    occurring = draw(st.lists(st.integers(0, max(2, channels) - 1), min_size=1, unique=True))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    target = torch.tensor(occurring)[
        torch.randint(len(occurring), (images, height, width), generator=generator)
    ]
    logits = torch.randn(images, channels, height, width, generator=generator)
    logits[:, draw(st.integers(0, channels - 1))] += draw(st.sampled_from([-9.0, 0.0, 9.0]))
    hidden = torch.rand(target.shape, generator=generator) < draw(st.sampled_from(ignored))
    return logits, target.masked_fill(hidden, 255)


class NoWaiting(TorchDispatchMode):
    """Fail at any operation that makes the host wait for a GPU."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "bincount", "unique", "equal")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indexed = name == "index" and any(i.dtype == torch.bool for i in args[1] if i is not None)
        assert name not in self.WAITS and not indexed, f"{name} waits for the device"
        return func(*args, **(kwargs or {}))
