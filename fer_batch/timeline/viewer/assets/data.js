// What a page knows of a video: unpacking what page.py has packed, and asking it by time.
"use strict";
globalThis.fer = {};
(() => {
  const KINDS = { uint32: Uint32Array, uint16: Uint16Array, uint8: Uint8Array };
  const SLACK_S = 1e-4; // half of what times are rounded to, and less
  const GAP_STEPS = 1.5;

  // An element with properties, and children that are elements or text: text is never read as HTML.
  fer.element = (tag, properties = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in made) made[name] = value;
      else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  };

  fer.timeText = (seconds, digits = 1) => {
    const sign = seconds < 0 ? "−" : "";
    const ticks = Math.round(Math.abs(seconds) * 10 ** digits);
    const whole = Math.floor(ticks / 10 ** digits);
    const two = (n) => String(n).padStart(2, "0");
    const rest = digits ? `.${String(ticks % 10 ** digits).padStart(digits, "0")}` : "";
    const minutes = Math.floor(whole / 60);
    const hours = Math.floor(minutes / 60);
    return `${sign}${hours ? `${hours}:${two(minutes % 60)}` : minutes}:${two(whole % 60)}${rest}`;
  };

  fer.percent = (share) => `${share > 0 && share < 0.005 ? "<1" : Math.round(100 * share)} %`;

  fer.css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const sums = (deltas) => {
    const all = new Uint32Array(deltas.length);
    for (let i = 0, sum = 0; i < deltas.length; i++) all[i] = sum += deltas[i];
    return all;
  };

  // Tracks as people see them: those of one person are one face, in order of how long they are there.
  const facesOf = (video) => {
    const faces = new Map();
    let first = 0;
    for (const track of video.tracks) {
      const name = track.person ?? `track ${track.id}`;
      const face = faces.get(name) ?? { name, tracks: [], parts: [] };
      faces.set(name, face);
      face.tracks.push(track.id);
      face.parts.push([first, first + track.rows]);
      first += track.rows;
    }
    for (const face of faces.values()) {
      const rows = new Uint32Array(face.parts.reduce((sum, [from, to]) => sum + to - from, 0));
      let n = 0;
      for (const [from, to] of face.parts) for (let row = from; row < to; row++) rows[n++] = row;
      if (face.parts.length > 1) rows.sort((a, b) => video.moments[a] - video.moments[b]);
      face.rows = rows;
      face.counts = new Float64Array(video.classes.length);
      for (const row of rows) if (video.emotion[row] < video.classes.length) face.counts[video.emotion[row]]++;
    }
    return [...faces.values()].sort((a, b) => b.rows.length - a.rows.length);
  };

  // The first place in `count` sorted values, told by `at`, that is not below `value`.
  fer.place = (count, at, value) => {
    let low = 0;
    let high = count;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (at(middle) < value) low = middle + 1;
      else high = middle;
    }
    return low;
  };

  fer.unpack = (buffer) => {
    const length = new DataView(buffer).getUint32(0, true);
    const video = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
    let offset = 4 + length;
    for (const [name, [kind, count]] of Object.entries(video.arrays)) {
      video[name] = new KINDS[kind](buffer, offset, count);
      offset += video[name].byteLength;
    }
    video.rows = video.emotion.length;
    video.times = Float64Array.from(sums(video.times), (ms) => ms / 1000);
    let row = 0;
    for (const track of video.tracks) {
      video.moments.set(sums(video.moments.subarray(row, row + track.rows)), row);
      row += track.rows;
    }
    video.faces = facesOf(video);
    video.step_s ||= 0.2;
    video.end_s = Math.max(
      video.facts.duration_s ?? 0, video.facts.read_s ?? 0,
      video.times.length ? video.times[video.times.length - 1] + video.step_s : 0, video.step_s,
    );

    // The moment that a time belongs to: the last one before it that is not too long ago; -1 for none.
    video.momentAt = (time_s) => {
      const after = fer.place(video.times.length, (i) => video.times[i], time_s + SLACK_S);
      const near = after > 0 && time_s < video.times[after - 1] + GAP_STEPS * video.step_s;
      return near ? after - 1 : -1;
    };
    // Where a face's rows begin that are not before a moment.
    video.placeIn = (face, moment) => fer.place(face.rows.length, (i) => video.moments[face.rows[i]], moment);
    // The row of a face at a moment, -1 where it is not seen.
    video.rowAt = (face, moment) => {
      const at = video.placeIn(face, moment);
      return moment >= 0 && at < face.rows.length && video.moments[face.rows[at]] === moment ? face.rows[at] : -1;
    };
    video.probability = (kind, row) => video.probs[kind * video.rows + row] / 255;
    return video;
  };
})();
