# up: a 2 × 2 kernel for each pair of channels, and a bias for each channel that is made.
# decoder: 48 channels, half of them from the skip, to 24, and 24 to 24; no bias, but two numbers
# of batch normalisation for each channel. out: 24 channels to three classes, and three biases.
weights = {
    "up": 2 * 2 * 48 * 24 + 24,
    "decoder": 9 * 48 * 24 + 2 * 24 + 9 * 24 * 24 + 2 * 24,
    "out": 24 * 3 + 3,
}
