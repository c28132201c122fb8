def freeze(module):
    """Stop training `module`: no gradients, and evaluation mode for good."""
    module.requires_grad_(False)
    module.eval()
    # net.train() calls train() of every part; this part now stays as it is
    module.train = lambda mode=True: module
