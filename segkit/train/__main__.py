"""`python -m segkit.train …` is `segkit train …`.

On several processes: `torchrun --nproc_per_node=2 -m segkit.train config.yaml`.
"""

import sys

from segkit.cli import main

sys.argv.insert(1, "train")
main()
