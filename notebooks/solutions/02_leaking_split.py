# In split 2 patients 4 and 7 are on both sides, which set arithmetic finds:
#
# for number, (known, held) in enumerate(four_splits):
#     print(number, {patients[i] for i in known} & {patients[i] for i in held})
#
# splits.leakage(four_splits[2], groups=patients) says the same. Splits 1 and 3 have odd sizes, but
# a size is no leak.
leaking = 2
