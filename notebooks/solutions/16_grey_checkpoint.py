def grey_checkpoint(state):
    """Return the checkpoint of a colour network as one for grey images."""
    grey = state["conv1.weight"].sum(dim=1, keepdim=True)  # (out, 3, h, w) to (out, 1, h, w)
    return state | {"conv1.weight": grey}
