"""Times in a video as text."""


def clock(seconds: float) -> str:
    """`1:02:03.5`, or `2:03.5` within the first hour."""
    tenths = round(10 * seconds)
    hours, minutes, tenths = tenths // 36000, tenths // 600 % 60, tenths % 600
    rest = f"{minutes:02}:{tenths / 10:04.1f}" if hours else f"{minutes}:{tenths / 10:04.1f}"
    return f"{hours}:{rest}" if hours else rest
