"""Lesson 53: what was learned at equal work."""
import numpy as np

from ...contracts import Contract
from ...contracts.contract import TOLERANCE
from ...train.ablation import table
from ..exercise import Exercise


def at_equal_work(samples, losses, work):
    """At the fewest operations that a run has done, on the line between the point before and the point after"""
    operations = min(float(samples[w][-1] * work[w]) for w in range(len(work)))
    found = []
    for w in range(len(work)):
        seen, i = operations / work[w], 1
        while i < samples.shape[1] - 1 and samples[w][i] < seen:
            i += 1
        share = (seen - samples[w][i - 1]) / (samples[w][i] - samples[w][i - 1])
        found.append(losses[w][i - 1] + share * (losses[w][i] - losses[w][i - 1]))
    return np.array(found)


def at_equal_work_cases():
    yield "the same points, unequal work", dict(
        samples=np.array([[200.0, 400, 800], [200, 400, 800]]), losses=np.array([[0.9, 0.7, 0.5], [0.8, 0.55, 0.4]]),
        work=np.array([1.0, 2.5]))
    yield "the second has done the least", dict(
        samples=np.array([[100.0, 500, 1000], [100, 200, 400]]), losses=np.array([[2.0, 1.5, 1.2], [1.9, 1.4, 1.3]]),
        work=np.array([2.0, 3.0]))
    yield "the most samples, the least work", dict(
        samples=np.array([[80.0, 320, 640], [40, 80, 160], [20, 60, 120]]),
        losses=np.array([[3.0, 1.0, 0.5], [2.5, 1.5, 1.25], [2.0, 1.75, 1.0]]), work=np.array([0.5, 4.0, 3.0]))
    yield "a loss that rises again", dict(
        samples=np.array([[10.0, 20, 40, 80], [10, 20, 40, 80]]),
        losses=np.array([[1.0, 0.5, 0.75, 0.25], [1.0, 0.25, 0.5, 0.75]]), work=np.array([6.0, 4.0]))
    yield "one run", dict(samples=np.array([[10.0, 20]]), losses=np.array([[1.0, 0.5]]), work=np.array([2.0]))


def package_at_equal_work(samples, losses, work):
    curves = [[{"samples": n, "loss": loss} for n, loss in zip(*run)] for run in zip(samples, losses)]
    runs = {w: {0: {"curve": curve, "work": {"sample": work[w]}}} for w, curve in enumerate(curves)}
    return np.array([row["loss"][0] for row in table.at_equal_work(runs)["rows"].values()], losses.dtype)


AT_EQUAL_WORK = Exercise(Contract("at_equal_work", at_equal_work, at_equal_work_cases, TOLERANCE),
                         package_at_equal_work, (table.at_equal_work,))


def read(samples, losses, at):
    """The losses where the runs had seen `at` samples"""
    return np.array([np.interp(*run) for run in zip(np.broadcast_to(at, len(losses)), samples, losses)], losses.dtype)


def least(samples, work):
    return (samples[:, -1] * work).min()


@AT_EQUAL_WORK.mistake("These are the losses after equally many samples; a sample costs each run a different amount.")
def at_equal_samples(samples, losses, work):
    return read(samples, losses, samples[:, -1].min())


@AT_EQUAL_WORK.mistake("These are the losses at the end, where the runs have done unequal work.")
def at_the_end(samples, losses, work):
    return losses[:, -1].copy()


@AT_EQUAL_WORK.mistake("The curves are read at the number of operations; divide it by what a sample costs each run.")
def operations_for_samples(samples, losses, work):
    return read(samples, losses, least(samples, work))


@AT_EQUAL_WORK.mistake("This is multiplied by the work of a sample; operations are divided by it to give samples.")
def multiplied(samples, losses, work):
    return read(samples, losses, least(samples, work) * work)


@AT_EQUAL_WORK.mistake("The fewest samples and the least work for a sample may be those of two runs: multiply first.")
def least_of_two_runs(samples, losses, work):
    return read(samples, losses, samples[:, -1].min() * work.min() / work)


@AT_EQUAL_WORK.mistake("The curves are read at the work of the first run; another one may have done less.")
def at_the_end_of_the_first(samples, losses, work):
    return read(samples, losses, samples[0, -1] * work[0] / work)


def picked(samples, losses, work, pick):
    at = least(samples, work) / work
    return np.array([loss[pick(seen, x)] for seen, loss, x in zip(samples, losses, at)], losses.dtype)


@AT_EQUAL_WORK.mistake("This is the loss at the nearest point; between two points it lies on the line between them.")
def nearest_point(samples, losses, work):
    return picked(samples, losses, work, lambda seen, x: np.abs(seen - x).argmin())


@AT_EQUAL_WORK.mistake("This is the loss at the point before; between two points it lies on the line between them.")
def point_before(samples, losses, work):
    return picked(samples, losses, work, lambda seen, x: max(0, (seen <= x).sum() - 1))


@AT_EQUAL_WORK.mistake("This is the loss at the point after; between two points it lies on the line between them.")
def point_after(samples, losses, work):
    return picked(samples, losses, work, lambda seen, x: min((seen < x).sum(), len(seen) - 1))


@AT_EQUAL_WORK.mistake("The line runs from the first point to the last; it is the one between neighbouring points.")
def one_line(samples, losses, work):
    share = (least(samples, work) / work - samples[:, 0]) / (samples[:, -1] - samples[:, 0])
    return losses[:, 0] + share * (losses[:, -1] - losses[:, 0])


@AT_EQUAL_WORK.mistake("The lowest loss on the way is taken; the one at equal work counts, even if it has risen again.")
def lowest_on_the_way(samples, losses, work):
    at = least(samples, work) / work
    runs = zip(read(samples, losses, at), losses, samples, at)
    return np.array([min(now, *loss[seen <= x]) for now, loss, seen, x in runs], losses.dtype)
