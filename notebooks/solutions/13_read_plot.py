# Max-pool has 0.70 and 0.74, mean 0.72; strided has 0.80 and 0.72, mean 0.76: a is true.
# At nearest, strided has 0.72 and max-pool 0.74: b is false.
# Transposed has a mean of 0.75, nearest 0.73: c is false.
# The lines are not parallel, they even cross: d is true.
# Strided and transposed are better on average, and their pair has 0.80: e is true.
# From max-pool one goes to nearest (0.74), where strided is worse (0.72), and stays: f is false.
read_plot = {"a", "d", "e"}
