"""Curves in letters, for a terminal."""
from statistics import fmean

WIDTH, HEIGHT = 60, 12                                      # characters of the field


def curve(losses):
    """Lines that draw {letter: losses of steps 1, 2, ...}; the last letter is on top. Above the field counts as its top."""
    count = max(map(len, losses.values()))
    columns = min(WIDTH, count)
    means = {letter: [fmean(part) for i in range(columns)
                      if (part := numbers[i * count // columns:(i + 1) * count // columns])]
             for letter, numbers in losses.items()}
    top = max(max(column) for column in means.values() if column) or 1
    field = [[" "] * columns for _ in range(HEIGHT)]
    for letter, column in means.items():
        for i, mean in enumerate(column):
            field[min(HEIGHT - 1, int(HEIGHT * (1 - mean / top)))][i] = letter
    label = {0: f"{top:.2f}", HEIGHT // 2: f"{top / 2:.2f}"}
    lines = [f"{label.get(i, ''):>6} |{''.join(row).rstrip()}" for i, row in enumerate(field)]
    return [*lines, f"{'0':>6} +{'-' * columns}", f"{'step 1':>14}{count:>{max(1, columns - 6)}}"]
