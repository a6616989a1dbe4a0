"""Hours of day and year, as networks are given them."""

import math
from datetime import UTC, datetime


def hour_channels(time: datetime) -> list[float]:
    """Describe a time by sine and cosine of its phases in the day and in the year."""
    moment = time.replace(tzinfo=time.tzinfo or UTC).astimezone(UTC)
    start = moment.replace(month=1, day=1, hour=0, minute=0, second=0, microsecond=0)
    days = (moment - start).total_seconds() / 86400
    phases = [2 * math.pi * days, 2 * math.pi * days / 365.25]
    return [function(phase) for phase in phases for function in (math.sin, math.cos)]
