import pytest
import torch
from batches import random_batch
from torch import distributed, multiprocessing

from segkit.metrics import Counts, counts

IMAGES, CLASSES = 5, 3  # five images over two processes: unequal shares


def one_process(rank, folder):
    """Count this process's share; exchange totals by summing, images by gathering."""
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    torch.set_num_threads(1)
    logits, target = random_batch(IMAGES, CLASSES)
    mine = counts(logits[rank::2], target[rank::2])
    total = mine.total().stacked()
    distributed.all_reduce(total)
    gathered = [None, None]
    distributed.all_gather_object(gathered, mine)
    torch.save({"total": total, "images": Counts.cat(gathered)}, f"{folder}/{rank}")
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not distributed.is_available(), reason="torch without distributed")
def test_two_processes_count_the_same_integers_as_one(tmp_path):
    multiprocessing.start_processes(one_process, (tmp_path,), 2, start_method="fork")
    whole = counts(*random_batch(IMAGES, CLASSES))
    order = torch.tensor([0, 2, 4, 1, 3])
    for rank in range(2):
        found = torch.load(tmp_path / str(rank), weights_only=False)
        assert torch.equal(found["total"], whole.total().stacked())
        assert torch.equal(found["images"].stacked(), whole[order].stacked())
        total = Counts(*found["total"])
        assert total.dice("macro") == whole.dice("macro")
