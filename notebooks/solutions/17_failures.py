# a: what is predicted is right, but half is missing, and so are components: cells were missed.
# b: hardly anything is missing, too much is predicted, in few components: cells were merged.
# c: what is predicted is right, some is missing, yet no component is: each is too small.
# d: hardly anything is missing, far too much is predicted, in components of its own: bubbles.
failures = {"a": 4, "b": 2, "c": 1, "d": 3}
