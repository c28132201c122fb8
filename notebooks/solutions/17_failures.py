# a: what is marked is right, but half is missing, and so are patches: cells were not seen.
# b: hardly anything is missing, too much is marked, and there are few patches: they ran together.
# c: what is marked is right, some is missing, yet no patch is: each is too small.
# d: hardly anything is missing, much too much is marked, in patches of its own: bubbles.
failures = {"a": 4, "b": 2, "c": 1, "d": 3}
