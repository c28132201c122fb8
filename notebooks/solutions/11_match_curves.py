# A drops at unequal distances: whenever the loss was stuck. E drops at a third and two thirds.
# B rises in a straight line (a warm-up), D in a curve: one-cycle. C is nearly straight: poly.
match = {"A": "plateau", "B": "cosine", "C": "poly", "D": "one-cycle", "E": "step"}
