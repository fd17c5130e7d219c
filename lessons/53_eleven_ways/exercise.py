"""53 Eleven ways. Fill in the bodies, then: tinycogvlm learn check 53"""
import numpy as np


def at_equal_work(samples, losses, work):
    """The loss of each of W runs where all had done as much work as the run that did least had done at its end

    samples (W, N): how many samples each run had seen at its N points, more at each; losses (W, N): its loss there;
    work (W,): the operations it needs for a sample. Between two points its loss lies on the line between them -> (W,)
    """
    raise NotImplementedError
