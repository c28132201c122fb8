# A sigmoid exactly once: in the network (d), or in the loss (a, e). A logit of 0 is a
# probability of 0.5 (g); b and f squash twice, c never, and h calls every pixel object.
fitting_pairs = {"a", "d", "e", "g"}
