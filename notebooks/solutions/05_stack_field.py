def stack_field(layers):
    """Return the receptive field of a list of (kernel, stride, dilation)."""
    field = jump = 1
    for kernel, stride, dilation in layers:
        field += (kernel - 1) * dilation * jump
        jump *= stride
    return field
