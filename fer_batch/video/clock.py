"""One time line for streams whose clock starts again or jumps, as in recordings that were appended."""

from fractions import Fraction

import av

MAX_JUMP_S = 10.0
"""Largest step of a clock without a break. A frame behind a larger step counts only if others follow it."""
MAX_STEP_BACK_S = 0.5
"""Largest step backwards, in the order of decoding, without a break."""
RESTART_S = 1.0
"""A clock that goes back to within this of the stream's start has started again."""
CONFIRM_S = 10.0
"""Seconds that a clock runs on until its break is certain. Damaged timestamps end earlier."""
MAX_HELD_BYTES = 64 << 20
"""Most bytes of packets that wait until a break is certain."""


class Clock:
    """Shifts the packets behind each break of a stream's clock, so that they continue by one frame step.

    A break is a restart, a jump backwards by more than MAX_JUMP_S or, in containers whose clock may jump
    (transport and program streams), any large jump. Packets behind a possible break wait until it is certain.
    If the clock returns before, the timestamps between were damaged; they stay as they are.
    """

    def __init__(self, stream: av.VideoStream, time_base: Fraction, step_s: float, may_jump: bool) -> None:
        self.breaks = 0
        self.released: list[av.Packet] = []
        """Packets that no longer wait. The caller removes them."""
        self._stream, self._time_base, self._may_jump = stream, time_base, may_jump
        self._step = max(round(step_s / time_base), 1)
        self._max_jump = round(MAX_JUMP_S / time_base)
        self._max_back = round(MAX_STEP_BACK_S / time_base)
        self._start = stream.start_time
        self._offset = self._previous_offset = 0
        self._last: int | None = None
        """Decoding timestamp of the last packet on the time line."""
        self._end = 0
        """End of all packets on the time line, where a new clock continues."""
        self._waiting: list[av.Packet] = []
        self._waiting_bytes = 0
        self._run: list[tuple[int, int]] = []
        """Decoding and presentation timestamps of the stream's waiting packets."""

    def accept(self, packet: av.Packet) -> bool:
        """Put a packet on the time line; return False if it waits or is among those released."""
        if self._waiting:
            self._wait(packet)
            return False
        if packet.stream is not self._stream:
            self._shift_other(packet)
            return True
        dts = packet.pts if packet.dts is None else packet.dts
        if dts is not None:
            if self._may_be_break(dts):
                self._wait(packet)
                return False
            self._advance(packet, dts)
        return True

    def finish(self) -> list[av.Packet]:
        """Return the packets that wait at the end of the file. A single timestamp there may be damaged."""
        self._settle(len(self._run) > 1)
        released, self.released = self.released, []
        return released

    def _may_be_break(self, dts: int) -> bool:
        """Return whether a timestamp leaves the time line, so that those behind it decide."""
        if self._last is None:
            return False
        step = dts + self._offset - self._last
        if step >= -self._max_back:
            return step > self._max_jump
        restarts = (dts - (self._start or 0)) * self._time_base < RESTART_S
        return self._may_jump or restarts or step < -self._max_jump

    def _wait(self, packet: av.Packet) -> None:
        dts = packet.pts if packet.dts is None else packet.dts
        if packet.stream is self._stream and dts is not None:
            if self._run and not self._goes_on(dts):
                # A damaged timestamp is alone, or the clock returns to the time line behind a few of them.
                is_pause = self._is_ahead() and dts > self._run[-1][0]
                self._settle(is_pause or (len(self._run) > 1 and not self._returns(dts)))
                if self.accept(packet):
                    self.released.append(packet)
                return
            self._run.append((dts, dts if packet.pts is None else packet.pts))
        self._waiting.append(packet)
        self._waiting_bytes += packet.size
        is_certain = (self._run[-1][0] - self._run[0][0]) * self._time_base >= CONFIRM_S
        if is_certain or self._waiting_bytes > MAX_HELD_BYTES:
            self._settle(True)

    def _is_ahead(self) -> bool:
        return self._run[0][0] + self._offset > (self._last or 0)

    def _goes_on(self, dts: int) -> bool:
        """Return whether a timestamp follows those of the run."""
        return -self._max_back <= dts - self._run[-1][0] <= self._max_jump and not self._returns(dts)

    def _returns(self, dts: int) -> bool:
        """Return whether a timestamp is nearer to the time line than to the run of waiting packets."""
        first, last = self._run[0][0], self._run[-1][0]
        return abs(dts + self._offset - self._end - (last - first)) < abs(dts - last - self._step)

    def _settle(self, is_credible: bool) -> None:
        """Release the waiting packets. With credible timestamps they continue the time line."""
        if is_credible and (self._may_jump or not self._is_ahead()) and len(self._run) > 1:
            self.breaks += 1
            self._previous_offset, self._offset = self._offset, self._end - min(pts for _, pts in self._run)
        for packet in self._waiting:
            if packet.stream is not self._stream:
                self._shift_other(packet)
            elif is_credible:
                self._advance(packet, packet.pts if packet.dts is None else packet.dts)
            else:
                _shift(packet, self._offset)
        self.released += self._waiting
        self._waiting, self._waiting_bytes, self._run = [], 0, []

    def _advance(self, packet: av.Packet, dts: int | None) -> None:
        if self._offset:
            _shift(packet, self._offset)
        if dts is None:
            return
        self._last = dts + self._offset
        pts = self._last if packet.pts is None else packet.pts
        self._end = max(self._end, pts + (packet.duration or self._step))

    def _shift_other(self, packet: av.Packet) -> None:
        """Shift a packet of another stream, whose clock breaks a little earlier or later in the file."""
        if not self.breaks:
            return
        stamp = packet.pts if packet.dts is None else packet.dts
        if stamp is None or self._last is None:
            return
        here_s, stamp_s = self._last * self._time_base, stamp * packet.time_base
        offsets_s = (self._offset * self._time_base, self._previous_offset * self._time_base)
        offset_s = min(offsets_s, key=lambda offset_s: abs(stamp_s + offset_s - here_s))
        _shift(packet, round(offset_s / packet.time_base))


def _shift(packet: av.Packet, offset: int) -> None:
    if packet.pts is not None:
        packet.pts += offset
    if packet.dts is not None:
        packet.dts += offset
