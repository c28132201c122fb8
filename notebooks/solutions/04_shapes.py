# down: (63 + 2 - 3) / 2 = 31, and 1 more is 32. So 63 rows become 32, and so would 64 rows.
# grow: doubles the 32 to 64, not to 63. An odd picture comes back one row too high.
# up keeps the size, because its padding makes up for its kernel. out has one channel a class.
# segkit's own DumbNet interpolates to the size of the picture instead, and returns 63 rows.
shapes = {
    "down": (4, 24, 32, 25),
    "grow": (4, 24, 64, 50),
    "up": (4, 24, 64, 50),
    "out": (4, 2, 64, 50),
}
