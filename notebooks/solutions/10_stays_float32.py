import torch
from torch.nn import functional as F

# Convolutions (a, g) are lowered, the loss (e) is raised. The others keep what they get:
# b and c get bfloat16, f gets float32, and d both, of which the wider wins.
image, kernel = torch.rand(1, 3, 8, 8), torch.rand(3, 3, 1, 1)
mean, var, target = torch.zeros(3), torch.ones(3), torch.ones(1, 3, 8, 8)
with torch.autocast("cpu", torch.bfloat16):
    a = F.conv2d(image, kernel)
    b = F.batch_norm(a, mean, var)
    c = F.relu(a)
    d = a + image
    e = F.binary_cross_entropy_with_logits(a, target)
    f = torch.sigmoid(image)
    g = F.conv_transpose2d(d, kernel)
results = {"a": a, "b": b, "c": c, "d": d, "e": e, "f": f, "g": g}
stays_float32 = {name for name, result in results.items() if result.dtype == torch.float32}
