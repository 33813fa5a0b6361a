"""From one assignment to the next with as few moves as there are replicas too many: the incremental half of a rebalance.

Every move takes a replica from a device above its quota straight to one below it, so the sum of the excesses is also the
number of moves. Random pairs are tried by the thousand and checked against the caps all at once; the few that remain are
looked for exhaustively. Where caps forbid straight moves (a zone that shrinks may only give away what it holds twice),
whole regions, zones and nodes are brought to their quotas first, and the devices inside them after that.
A partition loses at most one replica per pass (never two, unless a second device was removed).
"""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ring.targets import Bools, Ints, Tiers

NONE = -1                                # in the table: nobody holds this replica
_DEVICE = 3                              # the lowest level of the tiers
_STALE_ROUNDS_MAX = 6
_SCANS_MAX = 200                         # of the whole table, some 10 ms each at 2^18 x 3


class Mover:
    """One rebalance pass over `table`, which it changes.

    table: (replicas, partitions) device ids or NONE. exists: which of these places are replicas at all.
    caps: per level an array (2, tiers); partition_class says which row counts for a partition.
    frozen: partitions that must not lose a replica now (min_part_hours).
    """

    def __init__(self, table: Ints, *, exists: Bools, tiers: Tiers, quotas: Ints, caps: Sequence[Ints],
                 partition_class: Ints, frozen: Bools, rng: np.random.Generator) -> None:
        self.table = table
        self._exists, self._tiers, self._quotas, self._caps = exists, tiers, quotas, caps
        self._class, self._rng = partition_class, rng
        self._held = frozen.copy()                            # must not lose a replica (any more) in this pass
        self.have = np.bincount(table[exists & (table != NONE)], minlength=len(quotas))

    def run(self) -> None:
        """Place what has no device, then mend dispersion, then balance."""
        rows, parts = np.nonzero(self._exists & (self.table == NONE))
        rows, parts = self._pair_up(rows, parts)
        self._place_each(rows, parts, anywhere=True)
        rows, parts = self._crowded()
        rows, parts = self._pair_up(rows, parts)
        if len(rows):                                         # crowded on devices that are not above their quota
            rows, parts = self._pair_up(rows, parts, from_any=True)
            self._place_each(rows, parts, anywhere=False)
        self._balance()

    def crowded_partitions(self) -> Bools:
        """Partitions with more replicas in some tier than its cap."""
        crowded = np.zeros(self.table.shape[1], dtype=np.bool_)
        crowded[self._crowded(also_held=True)[1]] = True
        return crowded

    def _balance(self) -> None:
        rows, parts = np.nonzero(self._exists)
        donors = self.have[self.table[rows, parts]] > self._quotas[self.table[rows, parts]]
        rows, parts = rows[donors], parts[donors]
        self._pair_up(rows, parts)
        self._fill_all()
        if self._is_far_off().any():
            for level in range(_DEVICE):
                self._level_out(level)
            rows, parts = np.nonzero(self._exists & ~self._held)
            self._pair_up(rows, parts)
            self._fill_all()
        scans = 0
        for device in np.flatnonzero(self._is_far_off() & (self._quotas > self.have)):
            while scans < _SCANS_MAX and self._is_far_off()[device] and self._fill_by_two(int(device)):
                scans += 1

    def _is_far_off(self) -> Bools:
        """More than half a percent (and one) from the quota: worth two moves where one is not possible."""
        return np.asarray(np.abs(self.have - self._quotas) > np.maximum(1.0, 0.005 * self._quotas))

    def _level_out(self, level: int) -> None:
        """Bring each tier of `level` to its quota, at the price of devices inside it that are off for the moment."""
        excess = self._excess(level)
        tiers = self._tiers.of[level][self.table]
        rows, parts = np.nonzero(self._exists & ~self._held & (np.append(excess, 0)[tiers] > 0))
        self._pair_up(rows, parts, level=level)

    def _excess(self, level: int) -> Ints:
        """Replicas above quota of each tier; negative below it."""
        return self._tiers.sums((self.have - self._quotas).astype(np.float64))[level].astype(np.int64)

    def _crowded(self, *, also_held: bool = False) -> tuple[Ints, Ints]:
        """Replicas in a tier that holds too many of their partition, those of one partition in random order."""
        found = np.zeros(self.table.shape, dtype=np.bool_)
        for level, of in enumerate(self._tiers.of):
            tiers = of[self.table]
            for row in range(len(tiers)):
                count = (tiers == tiers[row]).sum(axis=0)
                cap = self._caps[level][self._class, tiers[row]]
                found[row] |= (count > cap) & (tiers[row] >= 0)
        found &= self._exists
        if not also_held:
            found &= ~self._held
        rows, parts = np.nonzero(found)
        return rows, parts

    def _pair_up(self, rows: Ints, parts: Ints, *, from_any: bool = False, level: int = 3) -> tuple[Ints, Ints]:
        """Move replicas to random devices below their quota while that succeeds; returns those still to be moved.

        They come from tiers of `level` (3: devices) above their quota, or from anywhere if `from_any`.
        """
        stale = 0
        while len(rows) and stale < _STALE_ROUNDS_MAX:
            tickets = self._tickets(level)
            picks = self._pick(rows, parts, 4 * len(tickets) + 64, from_any=from_any, level=level)[:len(tickets)]
            if not len(picks):
                break
            to = tickets[:len(picks)]
            fits = self._fits(rows[picks], parts[picks], to)
            self._move(rows[picks][fits], parts[picks][fits], to[fits])
            stale = 0 if fits.any() else stale + 1
            is_open = np.ones(len(rows), dtype=np.bool_)
            is_open[picks[fits]] = False
            rows, parts = rows[is_open], parts[is_open]
        lost = (self.table[rows, parts] != NONE) & self._held[parts]
        return rows[~lost], parts[~lost]

    def _tickets(self, level: int) -> Ints:
        """Each device as often as it lacks a replica, shuffled; above the device level no more than its tier lacks."""
        lack = np.maximum(self._quotas - self.have, 0)
        tickets = self._rng.permutation(np.repeat(np.arange(len(lack)), lack))
        if level == _DEVICE:
            return np.asarray(tickets)
        tiers = self._tiers.of[level][tickets]
        return np.asarray(tickets[_nth(tiers) < -self._excess(level)[tiers]])

    def _pick(self, rows: Ints, parts: Ints, count: int, *, from_any: bool, level: int = 3) -> Ints:
        """Random candidates that may all move at once: one per partition, no donor (of `level`) below its quota."""
        if len(rows) > 4 * count:
            picks = np.unique(self._rng.integers(0, len(rows), count))
            picks = self._rng.permutation(picks)
        else:
            picks = self._rng.permutation(len(rows))
        donors = self.table[rows[picks], parts[picks]]
        homeless = donors == NONE
        donors = self._tiers.of[level][donors]
        excess = np.append(self._excess(level), 0)
        may = homeless | (~self._held[parts[picks]] & (from_any | (excess[donors] > 0)))
        picks, donors, homeless = picks[may], donors[may], homeless[may]
        picks_first = np.sort(np.unique(parts[picks], return_index=True)[1])
        picks, donors, homeless = picks[picks_first], donors[picks_first], homeless[picks_first]
        if from_any:
            return np.asarray(picks)
        return np.asarray(picks[homeless | (_nth(donors) < excess[donors])])

    def _fits(self, rows: Ints, parts: Ints, to: Ints) -> Bools:
        """Whether each replica may move to its `to`: no tier that it enters gets above its cap."""
        fits = np.ones(len(rows), dtype=np.bool_)
        here = self.table[:, parts]
        mine = self.table[rows, parts]
        for level, of in enumerate(self._tiers.of):
            entered = of[to]
            count = (of[here] == entered).sum(axis=0)
            fits &= (of[mine] == entered) | (count < self._caps[level][self._class[parts], entered])
        return np.asarray(fits & (mine != to))

    def _move(self, rows: Ints, parts: Ints, to: Ints) -> None:
        donors = self.table[rows, parts]
        homed = donors != NONE
        self.have -= np.bincount(donors[homed], minlength=len(self.have))
        self.have += np.bincount(to, minlength=len(self.have))
        self.table[rows, parts] = to
        self._held[parts] = True

    def _fill_all(self) -> None:
        rows, parts = np.nonzero(self._exists & ~self._held)
        donors = (self.have > self._quotas)[self.table[rows, parts]]
        rows, parts = rows[donors], parts[donors]
        for device in np.flatnonzero(self._quotas > self.have)[:_SCANS_MAX]:
            if (self.have > self._quotas).any():
                self._fill(int(device), rows, parts)

    def _fill(self, device: int, rows: Ints, parts: Ints) -> None:
        """Give `device` what it lacks from donors above their quota, wherever in the table that is possible."""
        donors = self.table[rows, parts]
        open_ = np.flatnonzero((self.have > self._quotas)[donors] & ~self._held[parts])
        fits = open_[self._fits(rows[open_], parts[open_], np.full(len(open_), device))]
        picks = self._pick(rows[fits], parts[fits], len(fits), from_any=False)
        picks = fits[picks][:self._quotas[device] - self.have[device]]
        self._move(rows[picks], parts[picks], np.full(len(picks), device))

    def _fill_by_two(self, device: int) -> bool:
        """Give `device` one replica from a third device, which takes one from a donor: two moves where one is not possible."""
        rows, parts = np.nonzero(self._exists & ~self._held)
        fits = self._fits(rows, parts, np.full(len(rows), device))
        rows_in, parts_in = rows[fits], parts[fits]
        excess = (self.have > self._quotas)[self.table[rows, parts]]
        rows_out, parts_out = rows[excess], parts[excess]
        for index in self._rng.permutation(len(rows_in))[:8]:
            third = int(self.table[rows_in[index], parts_in[index]])
            way = self._fits(rows_out, parts_out, np.full(len(rows_out), third)) & (parts_out != parts_in[index])
            if way.any():
                last = np.flatnonzero(way)[:1]
                self._move(rows_out[last], parts_out[last], np.array([third]))
                self._move(rows_in[index:index + 1], parts_in[index:index + 1], np.array([device]))
                return True
        return False

    def _place_each(self, rows: Ints, parts: Ints, *, anywhere: bool) -> None:
        """One by one, to the device that lacks most among those that fit; `anywhere`: crowding beats staying homeless."""
        devices = np.flatnonzero(self._quotas > 0)
        for row, part in zip(rows.tolist(), parts.tolist()):
            if self.table[row, part] != NONE and self._held[part]:
                continue
            if self.table[row, part] != NONE and not self._is_crowded(row, part):
                continue
            same = np.full(len(devices), 0)
            strain = self._strain(row, part, devices)
            if not anywhere and strain.min() > 0:
                continue
            lack = (self._quotas - self.have)[devices] / self._quotas[devices]
            best = np.lexsort((-lack, strain))[0]
            self._move(same[:1] + row, same[:1] + part, devices[best:best + 1])

    def _is_crowded(self, row: int, part: int) -> bool:
        mine = self.table[row, part]
        return any(int((of[self.table[:, part]] == of[mine]).sum()) > self._caps[level][self._class[part], of[mine]]
                   for level, of in enumerate(self._tiers.of))

    def _strain(self, row: int, part: int, devices: Ints) -> Ints:
        """0 where a move fits; else the more the higher the tier that would be crowded; a second replica on one device: most."""
        mine, others = self.table[row, part], np.delete(self.table[:, part], row)
        strain = np.zeros(len(devices), dtype=np.int64)
        for level, of in enumerate(self._tiers.of):
            entered = of[devices]
            count = (of[others][:, None] == entered).sum(axis=0)
            over = (count + 1 > self._caps[level][self._class[part], entered]) & (of[mine] != entered)
            strain += over * (8 >> level)
        return strain + 100 * np.isin(devices, self.table[:, part])


def _nth(values: Ints) -> Ints:
    """For each element how many equal ones stand before it."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=-2))
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[order] = np.arange(len(values)) - np.repeat(starts, np.diff(starts, append=len(values)))
    return ranks
