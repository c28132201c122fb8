# 100 = 6 * 16 + 4: six full batches, and one of the four images that remain. With drop_last=True
# these four are left out; shuffling leaves out other ones in each epoch.
answer = {
    "batches": 7,
    "images in the last batch": 4,
    "batches with drop_last": 6,
}
