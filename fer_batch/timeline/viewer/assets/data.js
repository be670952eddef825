// The data of a video: unpack what payload.py has packed, and find rows by time.
"use strict";
globalThis.fer = {};
(() => {
  const ARRAY_TYPES = { uint32: Uint32Array, uint16: Uint16Array, uint8: Uint8Array };
  const TIME_TOLERANCE_S = 1e-4; // less than half of the unit that times are rounded to

  // Create an element with properties and children (elements or text). Text is never parsed as HTML.
  fer.element = (tag, properties = {}, ...children) => {
    const created = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in created) created[name] = value;
      else created.setAttribute(name, value);
    }
    created.append(...children);
    return created;
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

  const cumulate = (deltas) => {
    const all = new Uint32Array(deltas.length);
    for (let i = 0, sum = 0; i < deltas.length; i++) all[i] = sum += deltas[i];
    return all;
  };

  // Group tracks into faces: the tracks of a person are one face. Faces with the most rows come first.
  const groupFaces = (video) => {
    const faces = new Map();
    let first = 0;
    for (const track of video.tracks) {
      const name = track.person ?? `track ${track.id}`;
      const face = faces.get(name) ?? { name, person: track.person, tracks: [], parts: [] };
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

  // The index of the first of `count` sorted values `at(i)` that is not below `value`.
  fer.findFirst = (count, at, value) => {
    let low = 0;
    let high = count;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (at(middle) < value) low = middle + 1;
      else high = middle;
    }
    return low;
  };

  // Read the data that a page without a server holds in itself.
  fer.readEmbedded = async () => {
    const packed = Uint8Array.from(atob(document.getElementById("data").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).arrayBuffer();
  };

  // Return a JSON object with its arrays, as `pack_arrays` in payload.py describes them.
  fer.unpackArrays = (buffer) => {
    const length = new DataView(buffer).getUint32(0, true);
    const unpacked = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
    let offset = 4 + length;
    for (const [name, [kind, count]] of Object.entries(unpacked.arrays)) {
      unpacked[name] = new ARRAY_TYPES[kind](buffer, offset, count);
      offset += unpacked[name].byteLength;
    }
    return unpacked;
  };

  fer.unpack = (buffer) => {
    const video = fer.unpackArrays(buffer);
    video.rows = video.emotion.length;
    video.times = Float64Array.from(cumulate(video.times), (ms) => ms / 1000);
    let row = 0;
    for (const track of video.tracks) {
      video.moments.set(cumulate(video.moments.subarray(row, row + track.rows)), row);
      row += track.rows;
    }
    video.faces = groupFaces(video);
    video.start_s = video.facts.start_s ?? 0; // a player shows time_s at time_s + start_s
    video.ends = video.times.map((time, moment) => (Math.round(1000 * time) + video.steps[moment]) / 1000);
    const count = video.times.length;
    video.step_s = count ? video.steps.slice().sort()[count >> 1] / 1000 || 0.2 : 0.2; // the median
    video.end_s = Math.max(video.facts.duration_s ?? 0, video.facts.read_s ?? 0, count ? video.ends[count - 1] : 0, video.step_s);

    // The sampled frame that lasts at a time, -1 if there is none.
    video.momentAt = (time_s) => {
      const after = fer.findFirst(count, (i) => video.times[i], time_s + TIME_TOLERANCE_S);
      return after > 0 && time_s + TIME_TOLERANCE_S < video.ends[after - 1] ? after - 1 : -1;
    };
    // The next sampled frame if it adjoins, -1 after the last one and before a pause.
    video.momentAfter = (moment) => (moment >= 0 && moment + 1 < count && video.times[moment + 1] <= video.ends[moment] ? moment + 1 : -1);
    // The index of a face's first row at or after a sampled frame.
    video.placeIn = (face, moment) => fer.findFirst(face.rows.length, (i) => video.moments[face.rows[i]], moment);
    // The row of a face in a sampled frame, -1 if the frame does not show it.
    video.rowAt = (face, moment) => {
      const at = video.placeIn(face, moment);
      return moment >= 0 && at < face.rows.length && video.moments[face.rows[at]] === moment ? face.rows[at] : -1;
    };
    video.probability = (kind, row) => video.probs[kind * video.rows + row] / 255;
    return video;
  };
})();
