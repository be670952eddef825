// The emotions of a face over time: a chart, and a list of their current probabilities.
"use strict";
(() => {
  const { element, timeText, percent, css, runsOf, stacked } = fer;
  const RIBBON = [1.06, 1.3]; // y range of the most probable emotion, above the probabilities from 0 to 1
  const RIGHT_PX = fer.CHART_RIGHT_PX = 14; // room for half of the last time on the axis
  const leftPx = fer.chartLeftPx = () => (innerWidth < 700 ? 34 : 44); // width of the vertical axis
  const TICKS_S = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800];

  fer.chartData = (points, lines = false) => (lines ? [points.xs, ...points.ys] : stacked(points));

  // Draw `lane.points` (see `pointsOf`) in `parent`, for times in `range()`, as layers or as `lines`. `cursor` and
  // `hooks` are options of uPlot. Returns the plot.
  fer.chart = (parent, { classes, colours, inks }, lane, { lines = false, range, cursor, hooks = {} }) => {
    const stepped = uPlot.paths.stepped({ align: 1 });
    const order = classes.map((_, k) => (lines ? k : classes.length - 1 - k));
    const faint = { stroke: () => css("--grid"), width: 1 };
    const axis = { stroke: () => css("--muted"), grid: faint, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const tickText = (time, splits) => timeText(time, splits.length > 1 && splits[1] - splits[0] < 1 ? 1 : 0);

    const drawRibbon = (plot) => {
      const { ctx: context } = plot;
      const [top, bottom] = [plot.valToPos(RIBBON[1], "y", true), plot.valToPos(RIBBON[0], "y", true)];
      const right = plot.bbox.left + plot.bbox.width;
      context.save();
      context.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
      context.textBaseline = "middle";
      context.textAlign = "left";
      for (const [k, start, end] of runsOf(lane.points)) {
        if (k >= classes.length) continue;
        const first = Math.max(plot.valToPos(start, "x", true), plot.bbox.left);
        const width = Math.min(plot.valToPos(end, "x", true), right) - first;
        if (width <= 0) continue;
        context.fillStyle = colours[k];
        context.fillRect(first, top, Math.max(width, 1), bottom - top);
        if (width > context.measureText(classes[k]).width + 8 * devicePixelRatio) {
          context.fillStyle = inks[k];
          context.fillText(classes[k], first + 4 * devicePixelRatio, (top + bottom) / 2);
        }
      }
      context.restore();
    };

    return new uPlot(
      {
        width: parent.clientWidth,
        height: Math.max(112, 17 * classes.length),
        padding: [2, RIGHT_PX, 0, 0],
        legend: { show: false },
        select: { show: true, left: 0, top: 0, width: 0, height: 0 },
        cursor,
        scales: { x: { time: false, range }, y: { range: () => [0, RIBBON[1]] } },
        axes: [
          { ...axis, size: 20, gap: 2, space: 80, incrs: TICKS_S, values: (_, splits) => splits.map((t) => tickText(t, splits)) },
          { ...axis, size: leftPx(), gap: 3, splits: () => [0, 0.5, 1], values: () => ["", "50", innerWidth < 700 ? "100" : "100 %"] },
        ],
        series: [
          {},
          ...order.map((k) => ({
            label: classes[k], paths: stepped, points: { show: false },
            fill: lines ? undefined : colours[k],
            stroke: lines ? colours[k] : undefined,
            width: lines ? 2 : 0,
            dash: lines && k % 2 ? [6, 3] : undefined,
          })),
        ],
        hooks: { ...hooks, draw: [drawRibbon] },
      },
      fer.chartData(lane.points, lines),
      parent,
    );
  };

  // A list of all emotions. `show(probability, best)` sets the probability of each class number, or null for
  // none, and marks the class `best`.
  fer.values = ({ classes, colours }) => {
    const rows = classes.map((name, k) => {
      const share = element("span", { className: "share" }, "");
      const bar = element("i");
      bar.style.background = colours[k];
      return { share, item: element("li", { title: name }, bar, element("span", { className: "name" }, name), share) };
    });
    const show = (probability, best) => rows.forEach(({ share, item }, k) => {
      const value = probability(k);
      share.textContent = value === null ? "–" : percent(value);
      item.classList.toggle("best", k === best);
    });
    return { list: element("ul", { className: "values" }, ...rows.map((row) => row.item)), show };
  };
})();
