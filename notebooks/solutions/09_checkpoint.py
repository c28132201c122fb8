import torch


def save_checkpoint(path, model, optimizer, scheduler, epoch):
    """Write all that a resumed training needs."""
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "random": torch.get_rng_state(),
        "epoch": epoch,
    }
    torch.save(state, path)


def load_checkpoint(path, model, optimizer, scheduler):
    """Restore it; return the number of the next epoch."""
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    torch.set_rng_state(state["random"])
    return state["epoch"] + 1


checkpoint = {"save": save_checkpoint, "load": load_checkpoint}
