// Boxes with labels over the faces of a picture.
"use strict";
(() => {
  const { element } = fer;
  const [NAME_PX, EMOTION_PX, LETTERS_PX] = [70, 36, 18]; // widths of boxes with a name, an emotion, its first letters

  // Small boxes have short labels on one line, and the smallest have only their colour.
  const labelOf = (name, emotion, width) => (width >= NAME_PX ? `${name} · ${emotion}` : width >= EMOTION_PX ? emotion : width >= LETTERS_PX ? emotion.slice(0, 3) : "");

  // Return a function that shows the boxes of the given faces in `layer`, and hides all others. A face has a
  // `name`, a `kind` (the number of its emotion) and a `box`: left, top, right and bottom as shares of the picture.
  // A click on a box calls `onClick(name)`.
  fer.boxes = (layer, { classes, colours, inks }, onClick = null) => {
    const boxes = new Map();
    layer.classList.toggle("clickable", Boolean(onClick));
    return (faces) => {
      for (const box of boxes.values()) box.hidden = true;
      for (const { name, kind, box: [x0, y0, x1, y1] } of faces) {
        let box = boxes.get(name);
        if (!box) {
          box = element("div", { className: "box" }, element("span"));
          if (onClick) box.onclick = () => onClick(name);
          boxes.set(name, box);
          layer.append(box);
        }
        box.hidden = false;
        box.style.left = `${100 * x0}%`;
        box.style.top = `${100 * y0}%`;
        box.style.width = `${100 * (x1 - x0)}%`;
        box.style.height = `${100 * (y1 - y0)}%`;
        box.style.setProperty("--colour", colours[kind] ?? "#ffffff");
        box.style.setProperty("--ink", inks[kind] ?? "#000000");
        box.firstChild.textContent = labelOf(name, classes[kind] ?? "?", (x1 - x0) * layer.clientWidth);
        box.classList.toggle("left", x0 > 0.5);
        box.classList.toggle("below", y0 < 0.08);
      }
    };
  };
})();
