// The points, runs and layers that are drawn for a face between two times.
"use strict";
(() => {
  const POINT_PX = 3;
  const TIME_TOLERANCE_S = 1e-4;

  // Points between two times: each sampled frame if there is room, otherwise means over equal parts of time, in
  // which each row counts as long as it lasts.
  fer.pointsOf = (video, face, from_s, to_s, width) => {
    const kinds = video.classes.length;
    const { times, ends, step_s } = video;
    const bin_s = Math.ceil(((to_s - from_s) / step_s / width) * POINT_PX) * step_s;
    const everyFrame = bin_s <= step_s;
    const xs = [];
    const ys = video.classes.map(() => []);
    const top = []; // the most probable emotion of each point, null after a gap
    let sums = new Float64Array(kinds);
    let sum_s = 0;
    let bin = null;
    let [binStart, binEnd] = [0, 0];
    let end = -Infinity;
    const add = (x, until, values, best) => {
      if (xs.length && x > end + TIME_TOLERANCE_S) close();
      xs.push(x);
      values.forEach((value, k) => ys[k].push(value));
      top.push(best);
      end = until;
    };
    const close = () => {
      xs.push(end, end + 1e-6);
      ys.forEach((column) => column.push(column[column.length - 1], null));
      top.push(top[top.length - 1], null);
    };
    const flush = () => {
      if (!sum_s) return;
      const means = sums.map((sum) => sum / sum_s);
      add(binStart, binEnd, means, means.indexOf(Math.max(...means)));
      sums = new Float64Array(kinds);
      sum_s = 0;
    };
    const addToBins = (row, time, until) => {
      for (let current = Math.floor(time / bin_s + 1e-6); current * bin_s < until - TIME_TOLERANCE_S; current++) {
        if (current !== bin) { flush(); bin = current; binStart = Math.max(time, current * bin_s); }
        const part_s = Math.min(until, (current + 1) * bin_s) - Math.max(time, current * bin_s);
        for (let k = 0; k < kinds; k++) sums[k] += (part_s * video.probs[k * video.rows + row]) / 255;
        sum_s += part_s;
        binEnd = Math.min(until, (current + 1) * bin_s);
      }
    };
    const firstMoment = Math.max(0, fer.findFirst(times.length, (i) => ends[i], from_s - bin_s));
    for (let at = video.placeIn(face, firstMoment); at < face.rows.length; at++) {
      const row = face.rows[at];
      const time = times[video.moments[row]];
      if (time > to_s) break;
      if (everyFrame) {
        const values = video.classes.map((_, k) => video.probability(k, row));
        add(time, ends[video.moments[row]], values, video.emotion[row]);
      } else addToBins(row, Math.max(time, from_s - bin_s), Math.min(ends[video.moments[row]], to_s + bin_s));
    }
    flush();
    if (xs.length) close();
    return { xs, ys, top, mean_s: everyFrame ? 0 : bin_s };
  };

  // Runs of points with the same most probable emotion: [class, from, to].
  fer.runsOf = ({ xs, top }) => {
    const runs = [];
    for (let i = 0; i + 1 < xs.length; i++) {
      if (top[i] === null) continue;
      const last = runs[runs.length - 1];
      if (last && last[0] === top[i] && last[2] === xs[i]) last[2] = xs[i + 1];
      else runs.push([top[i], xs[i], xs[i + 1]]);
    }
    return runs;
  };

  fer.stacked = ({ xs, ys }) => {
    const sums = new Array(xs.length).fill(0);
    const layers = ys.map((column) => column.map((value, i) => (value === null ? null : (sums[i] += value))));
    return [xs, ...layers.reverse()]; // the highest layer first, because lower ones are painted over it
  };
})();
