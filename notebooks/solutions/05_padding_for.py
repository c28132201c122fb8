# (n - 1) * stride + kernel - 2 * padding + output_padding = n * stride, so
# 2 * padding - output_padding = kernel - stride. Padding rounds up, output padding is the rest.
def padding_for(kernel_size, stride):
    """Return padding and output_padding, so that n becomes n * stride."""
    surplus = kernel_size - stride
    padding = (surplus + 1) // 2
    return padding, 2 * padding - surplus
