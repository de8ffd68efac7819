"""Simulated units that return during an experiment: each has its own rate and values of events in its arm."""

from collections.abc import Callable

import numpy as np

Draw = np.random.Generator
Array = np.ndarray


def often(draw: Draw, shape: tuple[int, ...]) -> Array:
    """Events of a unit at each look: few have many."""
    return draw.gamma(0.3, 0.2, shape)


class Returning:
    """So many new units a look; a World of `experimenting`. Arms are alike.

    A unit's events are above 0 with a probability of its own, and worth what `value` draws, times a factor of its own.
    """

    def __init__(
        self, units: int, looks: int, value: Callable[[Draw, int], Array] | None = None, drift: float = 1.0
    ) -> None:
        self._units, self._looks, self._value, self._drift = units, looks, value, drift

    def look(self, draw: Draw, number: int, shares: Array, epoch: int) -> Array:
        """Return the events since the last look."""
        runs, arms = shares.shape
        if number == 0:
            self._begin(draw, runs, arms)
        fresh = slice(number * self._units, (number + 1) * self._units)
        fell = draw.random((runs, self._units))
        self._arm[:, fresh] = (fell[:, :, None] > shares.cumsum(-1)[:, None, :-1]).sum(-1)
        self._epoch[fresh] = epoch
        seen = slice(0, fresh.stop)
        base = 1 + (self._drift - 1) * number / self._looks
        events = draw.poisson(self._often[:, seen] * base)
        good = draw.binomial(events, self._good[:, seen])
        first = (self._first[:, seen] < 0) & (events > 0)
        # The first of some is above 0 as often as some are.
        luck = draw.random(events.shape) * np.maximum(events, 1) < good
        self._first[:, seen] = np.where(first, luck, self._first[:, seen])
        self._total[:, seen] += good * self._worth[:, seen]
        return self._news(runs, arms, epoch + 1, seen)

    def _begin(self, draw: Draw, runs: int, arms: int) -> None:
        shape = (runs, self._units * self._looks)
        self._often, self._good = often(draw, shape), draw.beta(1, 2, shape)
        self._worth = np.ones(shape) if self._value is None else self._value(draw, shape[0] * shape[1]).reshape(shape)
        self._arm, self._epoch = np.zeros(shape, int), np.zeros(shape[1], int)
        self._first, self._total = np.full(shape, -1), np.zeros(shape)
        self._before = np.zeros((5, runs, arms, 1))

    def _news(self, runs: int, arms: int, epochs: int, seen: slice) -> Array:
        place = (np.arange(runs)[:, None] * arms + self._arm[:, seen]) * epochs + self._epoch[seen]
        total, first = self._total[:, seen] * 1e6, self._first[:, seen]
        fields = (np.ones(total.shape), first >= 0, first > 0, total, total**2)
        counted = np.stack(
            [
                np.bincount(place.ravel(), np.asarray(each, float).ravel(), runs * arms * epochs).reshape(
                    runs, arms, epochs
                )
                for each in fields
            ]
        )
        grown = np.zeros_like(counted)
        grown[..., : self._before.shape[-1]] = self._before
        self._before = counted
        return counted - grown
