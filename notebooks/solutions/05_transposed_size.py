# Kernel 4 with stride 2 doubles the size with padding 1: (n - 1) * 2 + 4 - 2 = 2 * n.
def transposed_size(n, kernel, stride, padding=0, output_padding=0):
    """Return the side of the result for an input side of n."""
    return (n - 1) * stride + kernel - 2 * padding + output_padding
