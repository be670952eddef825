// A lane for each face with its emotions over time. All lanes have the same time axis.
"use strict";
(() => {
  const { element, timeText, percent, pointsOf } = fer;
  const LANES_PER_CLICK = 8;
  const MIN_WINDOW_S = 1;
  const MIN_DRAG_PX = 5;

  // Draw the lanes in `parent` and call `onSeek(time_s)` when the user chooses a time. With `onName(face)`, the
  // names of lanes are buttons that call it. Returns an object that controls the lanes.
  fer.lanes = (parent, video, onSeek, onName = null) => {
    let [from_s, to_s] = [0, video.end_s];
    let now_s = 0;
    let hover_s = null;
    let lines = false;
    let shown = [];
    const laneBox = element("div", { className: "lanes" });
    const overview = element("canvas", { className: "overview" });
    const brush = element("div", { className: "brush" });
    const brushNow = element("div", { className: "now" });
    const readout = element("output", { className: "time", id: "time" });
    const note = element("span", { className: "note" });
    const tools = toolbar();
    const slider = element(
      "div",
      {
        className: "whole", tabIndex: 0, role: "slider", "aria-label": "Time in the video",
        "aria-valuemin": "0", "aria-valuemax": video.end_s.toFixed(1), "aria-describedby": "keys",
      },
      overview, brush, brushNow,
    );
    const more = element("button", { type: "button", className: "more", onclick: () => showMore() });
    parent.append(tools, element("div", { className: "timeline" }, slider, laneBox), more);

    function toolbar() {
      const button = (text, label, act) =>
        element("button", { type: "button", title: label, "aria-label": label, onclick: act }, text);
      const modes = element(
        "select",
        { onchange: (event) => { lines = event.target.value === "lines"; rebuild(); }, "aria-label": "How lanes are drawn" },
        element("option", { value: "stack" }, "stacked"), element("option", { value: "lines" }, "lines"),
      );
      return element(
        "div", { className: "tools" }, readout, note,
        button("+", "zoom in (+)", () => api.zoom(0.5)), button("−", "zoom out (−)", () => api.zoom(2)),
        button("whole", "show the whole video (0)", () => api.show(0, video.end_s)), modes,
      );
    }

    const nameButton = (face) =>
      element("button", { type: "button", className: "name", title: "name this face", onclick: () => onName(face) }, face.name);

    const build = (face) => {
      const values = fer.values(video);
      const seen = face.rows.length;
      const best = face.counts.indexOf(Math.max(...face.counts));
      const chart = element("div", {
        className: "chart", role: "img",
        "aria-label": `${face.name}: in ${seen} sampled frames, mostly ${video.classes[best] ?? "nothing"} (${percent((face.counts[best] ?? 0) / seen)} of them)`,
      });
      const box = element(
        "section", { className: "lane", "aria-label": face.name },
        element("header", {}, element("h3", {}, onName ? nameButton(face) : face.name), values.list),
        chart,
      );
      laneBox.append(box);
      const lane = { face, values, chart, box, now: element("div", { className: "now" }) };
      lane.points = pointsOf(video, face, from_s, to_s, widthOf(lane));
      lane.plot = plotOf(lane);
      lane.plot.over.append(lane.now);
      listen(lane);
      return lane;
    };

    const widthOf = (lane) => Math.max(lane.chart.clientWidth - fer.chartLeftPx() - fer.CHART_RIGHT_PX, 50);

    const plotOf = (lane) => fer.chart(lane.chart, video, lane, {
      lines, range: () => [from_s, to_s],
      cursor: { y: false, points: { show: false }, drag: { setScale: false, x: true, y: false }, sync: { key: "fer" }, bind: { dblclick: () => null } },
      hooks: { setCursor: [(plot) => plot.cursor.event && trackHover(plot)] },
    });

    const trackHover = (plot) => {
      hover_s = plot.cursor.left >= 0 ? plot.posToVal(plot.cursor.left, "x") : null;
      updateReadout();
    };

    const listen = (lane) => {
      const { over } = lane.plot;
      over.addEventListener("click", (event) => {
        if (!lane.dragged) seek(lane.plot.posToVal(event.clientX - over.getBoundingClientRect().left, "x"));
      });
      over.addEventListener("mousedown", (event) => { lane.down = event.clientX; lane.dragged = false; });
      over.addEventListener("mouseup", (event) => {
        const { left, width } = lane.plot.select;
        lane.dragged = Math.abs(event.clientX - lane.down) >= MIN_DRAG_PX;
        if (lane.dragged && width > 0) api.show(lane.plot.posToVal(left, "x"), lane.plot.posToVal(left + width, "x"));
      });
      over.addEventListener("dblclick", () => api.show(0, video.end_s));
      over.addEventListener("mouseleave", () => { hover_s = null; updateReadout(); });
    };

    const seek = (time_s) => onSeek(Math.min(Math.max(time_s, 0), video.end_s));

    overview.parentElement.addEventListener("click", (event) => {
      const { left, width } = overview.getBoundingClientRect();
      seek(((event.clientX - left) / width) * video.end_s);
    });

    const drawOverview = () => fer.drawStrip(overview, video.strip, video.colours, video.length_s ? video.length_s / video.end_s : 1);

    const toPercent = (time_s, start_s, end_s) => `${(100 * (time_s - start_s)) / (end_s - start_s)}%`;

    const updateReadout = () => {
      const time_s = hover_s ?? now_s;
      const moment = video.momentAt(time_s);
      readout.textContent = timeText(time_s);
      const texts = [];
      for (const { face, values, box } of shown) {
        const row = video.rowAt(face, moment);
        box.classList.toggle("away", row < 0);
        values.show((k) => (row < 0 ? null : video.probability(k, row)), row < 0 ? -1 : video.emotion[row]);
        if (row >= 0) texts.push(`${face.name} ${video.classes[video.emotion[row]] ?? ""}`);
      }
      const nothing = moment < 0 ? "not analyzed" : "no face";
      slider.setAttribute("aria-valuenow", time_s.toFixed(1));
      slider.setAttribute("aria-valuetext", `${timeText(time_s)}: ${texts.join(", ") || nothing}`);
      const mean_s = shown.length ? shown[0].points.mean_s : 0;
      note.textContent = [
        moment < 0 ? "not analyzed" : video.faces.some((face) => video.rowAt(face, moment) >= 0) ? "" : "no face",
        mean_s ? `each point is the mean of ${mean_s < 60 ? `${mean_s.toFixed(1)} s` : timeText(mean_s, 0)}` : "",
      ].filter(Boolean).join(" · ");
      for (const { now } of shown) {
        now.style.left = toPercent(now_s, from_s, to_s);
        now.hidden = now_s < from_s || now_s > to_s;
      }
      brushNow.style.left = toPercent(now_s, 0, video.end_s);
    };

    const redraw = () => {
      for (const lane of shown) {
        lane.points = pointsOf(video, lane.face, from_s, to_s, widthOf(lane));
        lane.plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        lane.plot.setData(fer.chartData(lane.points, lines));
      }
      brush.style.left = toPercent(from_s, 0, video.end_s);
      brush.style.right = `calc(100% - ${toPercent(to_s, 0, video.end_s)})`;
      brush.hidden = from_s <= 0 && to_s >= video.end_s;
      updateReadout();
    };

    const rebuild = () => {
      for (const lane of shown) {
        lane.plot.destroy();
        lane.plot = plotOf(lane);
        lane.plot.over.append(lane.now);
        listen(lane);
      }
      drawOverview();
      redraw();
    };

    const showMore = (count = LANES_PER_CLICK) => {
      shown.push(...video.faces.slice(shown.length, shown.length + count).map(build));
      const left = video.faces.length - shown.length;
      more.hidden = left <= 0;
      more.textContent = `show ${Math.min(left, LANES_PER_CLICK)} more of ${video.faces.length} faces`;
      redraw();
    };

    const api = {
      // Draw the faces of `video` again, after its data have changed.
      update: () => {
        const count = Math.max(shown.length, LANES_PER_CLICK);
        for (const lane of shown) lane.plot.destroy();
        laneBox.replaceChildren();
        shown = [];
        showMore(count);
      },
      // Show the part of the video between two times.
      show: (start_s, end_s) => {
        const length = Math.min(Math.max(end_s - start_s, MIN_WINDOW_S), video.end_s);
        from_s = Math.min(Math.max(start_s, 0), video.end_s - length);
        to_s = from_s + length;
        redraw();
      },
      // Make the shown part `times` as long, around the current time.
      zoom: (times) => {
        const middle = now_s >= from_s && now_s <= to_s ? now_s : (from_s + to_s) / 2;
        const length = (to_s - from_s) * times;
        api.show(middle - length / 2, middle + length / 2);
      },
      setTime: (time_s) => {
        now_s = time_s;
        if (time_s < from_s || time_s > to_s) api.show(time_s - (to_s - from_s) * 0.1, time_s + (to_s - from_s) * 0.9);
        else updateReadout();
      },
      // The time of the sampled frame that is `steps` after the current one.
      momentFrom: (steps) => {
        const { times } = video;
        if (!times.length) return now_s;
        const here = video.momentAt(now_s);
        const next = here >= 0 ? here + steps : fer.findFirst(times.length, (i) => times[i], now_s) - (steps < 0 ? 1 : 0);
        return times[Math.min(Math.max(next, 0), times.length - 1)];
      },
      get time_s() { return now_s; },
      get window_s() { return [from_s, to_s]; },
    };

    let width = 0;
    new ResizeObserver(() => {
      if (laneBox.clientWidth === width) return;
      width = laneBox.clientWidth;
      for (const lane of shown) lane.plot.setSize({ width: lane.chart.clientWidth, height: lane.plot.height });
      drawOverview();
      redraw();
    }).observe(laneBox);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", rebuild);
    showMore();
    drawOverview();
    return api;
  };
})();
