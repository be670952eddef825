// Strips: the cells of a video, which cells.py defines, as one bar.
"use strict";
(() => {
  const NO_FACE = 254;
  const NOT_ANALYZED = fer.NOT_ANALYZED = 255;

  // Hatch a time without sampled frames.
  fer.hatch = (context, left, top, width, height) => {
    context.save();
    context.beginPath();
    context.rect(left, top, width, height);
    context.clip();
    context.strokeStyle = fer.css("--hatch");
    context.lineWidth = devicePixelRatio;
    const gap = 6 * devicePixelRatio;
    context.beginPath();
    for (let x = left - height; x < left + width; x += gap) {
      context.moveTo(x, top + height);
      context.lineTo(x + height, top);
    }
    context.stroke();
    context.restore();
  };

  fer.sizeOf = (canvas) => [canvas.clientWidth, canvas.clientHeight];

  // Draw cells in the first `share` of a canvas. Returns whether it has a size.
  // `size` is that of the canvas in CSS pixels. To draw many, measure all first: each measurement after a
  // drawing lays out the page again.
  fer.drawStrip = (canvas, cells, colours, share = 1, size = fer.sizeOf(canvas)) => {
    const [width, height] = size.map((n) => Math.round(n * devicePixelRatio));
    if (!width) return false;
    [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d");
    const edge = (cell) => Math.round((cell / cells.length) * share * width);
    for (let first = 0, after = 1; first < cells.length; first = after++) {
      while (after < cells.length && cells[after] === cells[first]) after++;
      const [left, right] = [edge(first), edge(after)];
      if (cells[first] === NOT_ANALYZED) fer.hatch(context, left, 0, right - left, height);
      else if (cells[first] !== NO_FACE) {
        context.fillStyle = colours[cells[first]];
        context.fillRect(left, 0, right - left, height);
      }
    }
    return true;
  };
})();
