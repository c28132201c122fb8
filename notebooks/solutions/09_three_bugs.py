# Line 2 belongs inside the epoch loop: line 10 switches to eval(), and nothing switches back.
# Line 5 squashes the logits, and the loss for logits squashes them once more.
# Line 8 empties the gradients before line 9 could use them: nothing is ever learned.
three_bugs = {2, 5, 8}
