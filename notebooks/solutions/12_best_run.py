from math import isnan


def best_run(logs):
    """Return the name of the run with the best validation IoU of any epoch."""

    def best(log):
        return max([iou for iou in log["val_iou"] if not isnan(iou)], default=0.0)

    return max(logs, key=lambda name: best(logs[name]))
