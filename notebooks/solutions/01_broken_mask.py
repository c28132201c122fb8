# Mask 2 was made from one rectangle of class 2, resized with averaging. Its rim became class 1,
# a class that was never there: np.unique(suspects[2]) shows it, and so does the picture.
broken = 2
