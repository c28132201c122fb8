# Transform 3 turns the image by 6 degrees one way, and the mask by 6 degrees the other way. Too
# little to see at once, but a mask painted into an image gives it away:
#
# mask = few.masks[1]
# for number, transform in enumerate(four_transforms()):
#     painted, moved = transform(plot.rgb(mask * 255), mask)
#     print(number, iou(painted[..., 0] > 127, moved))
#
# Transform 1 makes the painted mask darker, but it stays where it is.
breaking = 3
