# 0 is learned: JPEG leaves small values around edges, and `> 0` makes them foreground.
# 1 stops: Image.open looks inside the file, and raises an error.
# 2 is learned: the names agree, so nothing can notice.
# 3 is harmless here: `> 0` gives the same mask for 1 as for 255.
# 4 flatters the score: the test shows a patient that the network has seen.
# 5 is harmless: `.convert("RGB")` repeats the grey channel.
silent_faults = {0, 2, 4}
