"""One time line for streams whose clock starts again or jumps, as in recordings that were appended."""

import math
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

    A break is a restart, a jump backwards by more than MAX_JUMP_S, a jump beyond the end that the container
    states or, in containers whose clock may jump (transport and program streams), any jump that the sound
    makes as well. Packets behind a possible break wait until it is certain. If the clock returns before, the
    timestamps between were damaged; they stay as they are.
    """

    def __init__(
        self,
        stream: av.VideoStream,
        time_base: Fraction,
        step_s: float,
        may_jump: bool,
        stated_end_s: float = math.inf,
    ) -> None:
        self.breaks = 0
        self.released: list[av.Packet] = []
        """Packets that no longer wait. The caller removes them."""
        self._stream, self._time_base, self._may_jump = stream, time_base, may_jump
        self._step = max(round(step_s / time_base), 1)
        self._max_jump = round(MAX_JUMP_S / time_base)
        self._max_back = round(MAX_STEP_BACK_S / time_base)
        self._start = stream.start_time
        self._stated_end = stated_end_s / float(time_base)
        self._offset = self._previous_offset = 0
        self._last: int | None = None
        """Decoding timestamp of the last packet on the time line."""
        self._end = 0
        """End of all packets on the time line, where a new clock continues."""
        self._sound = next(iter(stream.container.streams.audio), None) if may_jump else None
        self._sound_base: Fraction = (self._sound and self._sound.time_base) or time_base
        self._sound_max_jump = round(MAX_JUMP_S / self._sound_base)
        self._sound_max_back = round(MAX_STEP_BACK_S / self._sound_base)
        self._sound_pts: int | None = None
        self._sound_break: int | None = None
        """Value of `_last` when the clock of the sound broke."""
        self._ahead: int | None = None
        """Timestamp of the last frame that is ahead of others behind it in the file, as in a pause."""
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
            self._follow_sound(packet)
            self._shift_other(packet)
            return True
        dts = self._read_dts(packet)
        if dts is not None:
            if self._may_be_break(dts):
                self._wait(packet)
                return False
            self._advance(packet, dts)
        return True

    def finish(self) -> list[av.Packet]:
        """Return the packets that wait at the end of the file. A single timestamp there may be damaged."""
        if self._waiting:
            self._settle(len(self._run) > 1)
        released, self.released = self.released, []
        return released

    def _read_dts(self, packet: av.Packet) -> int | None:
        """Return the decoding timestamp. FFmpeg may have guessed the first one behind a break."""
        pts, dts = packet.pts, packet.dts
        if dts is None or pts is None:
            return pts if dts is None else dts
        if abs(pts - dts) > self._max_jump:
            packet.dts = dts = pts
        return dts

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
        dts = self._read_dts(packet) if packet.stream is self._stream else None
        if dts is not None:
            if self._run and not self._goes_on(dts):
                # A damaged timestamp is alone, or the clock returns to the time line behind a few of them.
                is_pause = self._is_ahead() and dts > self._run[-1][0]
                if self._is_ahead() and not is_pause:
                    self._ahead = self._run[-1][1] + self._offset
                self._settle(is_pause or (len(self._run) > 1 and not self._returns(dts)))
                if self.accept(packet):
                    self.released.append(packet)
                return
            self._run.append((dts, dts if packet.pts is None else packet.pts))
        else:
            self._follow_sound(packet)
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
        distance = abs(dts + self._offset - self._end - (last - first))
        return distance <= self._max_jump and distance < abs(dts - last - self._step)

    def _settle(self, is_credible: bool) -> None:
        """Release the waiting packets. With credible timestamps they continue the time line."""
        if is_credible and len(self._run) > 1 and not self._is_pause():
            self.breaks += 1
            self._previous_offset, self._offset = self._offset, self._end - min(pts for _, pts in self._run)
        for packet in self._waiting:
            if packet.stream is not self._stream:
                self._shift_other(packet)
            elif is_credible:
                self._advance(packet, self._read_dts(packet))
            else:
                _shift(packet, self._offset)
        self.released += self._waiting
        self._waiting, self._waiting_bytes, self._run = [], 0, []

    def _follow_sound(self, packet: av.Packet) -> None:
        if packet.stream is self._sound and packet.pts is not None:
            step = 0 if self._sound_pts is None else packet.pts - self._sound_pts
            if not -self._sound_max_back <= step <= self._sound_max_jump:
                self._sound_break = self._last
            self._sound_pts = packet.pts

    def _is_pause(self) -> bool:
        """Return whether the waiting packets are ahead because the picture pauses while the clock runs on."""
        first = self._run[0][0]
        if not self._is_ahead() or first > self._stated_end + self._max_jump:
            return False
        if not self._may_jump:
            return True
        if self._ahead is not None and 0 <= first + self._offset - self._ahead <= self._max_jump:
            return True
        if self._sound_pts is None:
            return False
        sound_goes_on = self._sound_pts * self._sound_base >= first * self._time_base - MAX_JUMP_S
        broken_at = self._sound_break
        return sound_goes_on and (broken_at is None or (self._last or 0) - broken_at > self._max_jump)

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
