// The report of a run, a page without a server: shares, problems, and a table of all videos.
"use strict";
(async () => {
  const { element, timeText, percent } = fer;
  const ROWS_PER_CLICK = 200;
  const PERSONS_PER_CLICK = 10;
  const TYPING_DELAY_MS = 100; // wait for further letters
  const main = document.querySelector("main");
  const run = fer.unpackArrays(await fer.readEmbedded());
  const { classes, colours } = run;
  const K = classes.length;
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  const countText = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
  const byText = new Intl.Collator("en", { numeric: true });

  const videos = run.videos.uri.map((uri, i) => {
    const video = Object.fromEntries(Object.entries(run.videos).map(([name, column]) => [name, column[i]]));
    video.folder = uri.slice(0, uri.length - video.name.length);
    video.counts = run.counts.subarray(i * K, (i + 1) * K);
    video.faces = sum(video.counts);
    video.cells = run.strips.subarray(i * run.cells, (i + 1) * run.cells);
    video.text = `${uri} ${video.person ?? ""} ${video.error ?? ""}`.toLowerCase();
    return video;
  });
  const statuses = new Map();
  for (const video of videos) statuses.set(video.status, (statuses.get(video.status) ?? 0) + 1);

  // A part of a page that shows more of its entries with each click.
  const addInParts = (box, count, perClick, noun, add) => {
    const more = element("button", { type: "button", className: "more" });
    let shown = 0;
    const show = (wanted = perClick) => {
      const after = Math.min(shown + wanted, count);
      while (shown < after) add(shown++);
      more.hidden = shown >= count;
      more.textContent = `show ${Math.min(count - shown, perClick)} more of ${countText(count - shown, noun)}`;
    };
    more.onclick = () => show();
    box.append(more);
    show();
    return show;
  };

  // Summary
  const length_s = sum(videos.map((video) => video.length_s ?? 0));
  const lengthText = length_s < 3600 ? `${(length_s / 60).toFixed(1)} minutes` : `${length_s < 36000 ? (length_s / 3600).toFixed(1) : Math.round(length_s / 3600).toLocaleString("en")} hours`;
  const limits = [run.partial, run.face_filter && `only ${run.face_filter}`].filter(Boolean);
  main.append(element(
    "section", { "aria-label": "Summary" },
    element("p", { className: "ending" }, `${countText(videos.length, "video")}, ${lengthText}, ${countText(sum(run.shares), "face")} in sampled frames.`),
    ...limits.map((text) => element("p", { className: "trouble ending" }, text)),
  ));

  // Shares
  const total = sum(run.shares);
  const shares = element("section", { className: "shares", "aria-label": "Shares of emotions" }, element("h2", {}, "Shares of emotions"));
  if (total) {
    shares.append(
      fer.shareBar(run, "all videos", run.shares),
      element("p", { className: "quiet" }, "Shares of the faces in sampled frames, by their most probable emotion."),
    );
  } else shares.append(element("p", { className: "quiet" }, run.face_filter ? "No face matches the filter." : "No face was found."));
  const columns = element("div", { className: "columns" }, shares);
  main.append(columns);
  if (run.persons.length) {
    const box = element("section", { className: "persons", "aria-label": "Shares of each person" }, element("h2", {}, countText(run.persons.length, "person")));
    const list = element("div", { className: "grid" });
    box.append(list);
    shares.append(box);
    addInParts(box, run.persons.length, PERSONS_PER_CLICK, "person", (i) => {
      const { name, counts } = run.persons[i];
      list.append(fer.shareBar(run, `${name} (${sum(counts).toLocaleString("en")})`, counts));
    });
  }

  // Problems
  const problems = videos.filter((video) => video.status !== "ok");
  const problemBox = element("section", { className: "problems", "aria-label": "Problems" }, element("h2", {}, "Problems"));
  columns.append(problemBox);
  if (!problems.length) problemBox.append(element("p", { className: "quiet" }, videos.length ? "All videos were read to their end and show faces." : "The run has no videos."));
  for (const status of [...statuses.keys()].filter((name) => name !== "ok").sort()) {
    const concerned = problems.filter((video) => video.status === status);
    const list = element("ul");
    const details = element(
      "details", { open: status !== "no_faces" },
      element("summary", {}, fer.badge(status), ` ${fer.statusText(status)}: ${countText(concerned.length, "video")}`), list,
    );
    problemBox.append(details);
    addInParts(details, concerned.length, ROWS_PER_CLICK, "video", (i) => {
      const { name, folder, error } = concerned[i];
      list.append(element("li", {}, element("strong", {}, name), error ? `: ${error}` : "", element("span", { className: "folder" }, folder)));
    });
  }

  // Videos
  const COLUMNS = [
    { key: "name", title: "video", value: (video) => video.uri },
    { key: "status", title: "status", value: (video) => video.status },
    { key: "length", title: "length", value: (video) => video.length_s, isNumber: true },
    { key: "tracks", title: "tracks", value: (video) => video.tracks, isNumber: true },
    { key: "with_face", title: "with face", value: (video) => video.with_face, isNumber: true },
    { key: "cells", title: "emotions over time" },
    { key: "share", title: "most frequent", value: (video) => shareOf(video)[1], isNumber: true },
  ];
  const state = { words: "", status: "", emotion: "", sort: "name", isDescending: false };
  // The number of the chosen emotion, or of the most frequent one, and its share of the video's faces.
  const shareOf = (video) => {
    if (!video.faces) return [-1, null];
    const k = state.emotion === "" ? video.counts.indexOf(Math.max(...video.counts)) : Number(state.emotion);
    return [k, video.counts[k] / video.faces];
  };

  const option = (value, text) => element("option", { value }, text);
  const words = element("input", { type: "search", name: "words", placeholder: "search (/)", autocomplete: "off", spellcheck: false });
  const status = element("select", { name: "status" }, option("", "any"));
  for (const [name, count] of [...statuses].sort()) status.append(option(name, `${name.replace("_", " ")} (${count})`));
  const emotion = element("select", { name: "emotion" }, option("", "most frequent"));
  classes.forEach((name, k) => emotion.append(option(k, name)));
  const sort = element("select", { name: "sort" });
  for (const { key, title, value, isNumber } of COLUMNS.filter((column) => column.value)) {
    for (const isDescending of isNumber ? [true, false] : [false, true]) {
      const order = isNumber ? ["smallest first", "largest first"] : ["A to Z", "Z to A"];
      sort.append(option(`${key} ${isDescending}`, `${title}, ${order[Number(isDescending)]}`));
    }
  }
  const form = element(
    "form", { className: "filters", role: "search" },
    element("label", {}, "name, person or error ", words), element("label", {}, "status ", status),
    element("label", {}, "share of ", emotion), element("label", {}, "order ", sort),
  );
  const legend = element("ul", { className: "legend", "aria-label": "Colours of emotions" });
  classes.forEach((name, k) => {
    const swatch = element("i", { className: "swatch" });
    swatch.style.background = colours[k];
    legend.append(element("li", {}, swatch, name));
  });
  legend.append(element("li", {}, element("i", { className: "swatch" }), "no face"), element("li", {}, element("i", { className: "swatch hatched" }), "not analyzed"));
  const note = element("p", { className: "quiet" }, "Strips show the emotion with the highest mean probability of all faces together, from the beginning to the end of each video.");
  const found = element("p", { className: "quiet", role: "status" });
  const head = element("tr", { role: "row" });
  const body = element("tbody", { role: "rowgroup" });
  const table = element(
    "table", { className: "archive", role: "table" },
    element("thead", { role: "rowgroup" }, head), body,
  );
  const box = element("section", { className: "list", "aria-label": "Videos" }, element("h2", {}, "Videos"), form, legend, note, found, table);
  main.append(box);

  const headings = new Map();
  for (const { key, title, value, isNumber } of COLUMNS) {
    const button = value ? element("button", { type: "button", onclick: () => sortBy(key, state.sort === key ? !state.isDescending : Boolean(isNumber)) }, title) : title;
    headings.set(key, element("th", { scope: "col", role: "columnheader", className: key }, button));
  }
  head.append(...headings.values());

  // A strip is drawn when it comes into view.
  const draw = (canvases) => {
    const sizes = canvases.map(fer.sizeOf);
    canvases.forEach((canvas, i) => { canvas.isDrawn = fer.drawStrip(canvas, canvas.video.cells, colours, 1, sizes[i]); });
  };
  const observer = new IntersectionObserver((entries) => {
    draw(entries.filter(({ target, isIntersecting }) => isIntersecting && !target.isDrawn).map(({ target }) => target));
  }, { rootMargin: "300px" });
  const strips = () => [...body.querySelectorAll("canvas")];
  const redraw = () => draw(strips().filter((canvas) => canvas.isDrawn));
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; redraw(); } });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  const newStrip = (video) => {
    const order = [...video.counts.keys()].filter((k) => video.counts[k]).sort((a, b) => video.counts[b] - video.counts[a]).slice(0, 3);
    const text = order.map((k) => `${classes[k]} ${percent(video.counts[k] / video.faces)}`).join(", ");
    const nothing = video.cells.every((kind) => kind === fer.NOT_ANALYZED) ? "not analyzed" : "no face";
    const canvas = element("canvas", { className: "strip", height: 1, role: "img", "aria-label": text ? `emotions over time: ${text}` : nothing, title: text || nothing });
    canvas.video = video;
    observer.observe(canvas);
    return canvas;
  };
  const newRow = (video) => {
    const [k, share] = shareOf(video);
    const swatch = element("i", { className: "swatch" });
    if (k >= 0) swatch.style.background = colours[k];
    const cells = {
      name: [element("strong", {}, video.name), element("span", { className: "folder" }, video.folder), ...(video.person ? [element("span", { className: "folder" }, video.person)] : [])],
      status: [fer.badge(video.status)],
      length: [video.length_s ? timeText(video.length_s, 0) : "–"],
      tracks: [String(video.tracks)],
      with_face: [video.with_face === null ? "–" : percent(video.with_face)],
      cells: [newStrip(video)],
      share: share === null ? ["–"] : [swatch, `${classes[k]} ${percent(share)}`],
    };
    return element("tr", { role: "row" }, ...COLUMNS.map(({ key, title }) => element("td", { role: "cell", className: key, "data-title": title }, ...cells[key])));
  };

  let showMore = () => {};
  const show = () => {
    const column = COLUMNS.find(({ key }) => key === state.sort);
    const sign = state.isDescending ? -1 : 1;
    const wanted = state.words.toLowerCase().split(/\s+/).filter(Boolean);
    const listed = videos.filter((video) => (!state.status || video.status === state.status) && wanted.every((word) => video.text.includes(word)));
    const values = new Map(listed.map((video) => [video, column.value(video)]));
    listed.sort((one, other) => {
      const [a, b] = [values.get(one), values.get(other)];
      if (a === null || b === null) return Number(a === null) - Number(b === null); // unknown values come last
      return sign * (column.isNumber ? a - b : byText.compare(a, b));
    });
    observer.disconnect();
    body.replaceChildren();
    box.querySelector(":scope > .more")?.remove();
    showMore = addInParts(box, listed.length, ROWS_PER_CLICK, "video", (i) => body.append(newRow(listed[i])));
    found.textContent = listed.length === videos.length ? "" : `${listed.length.toLocaleString("en")} of ${countText(videos.length, "video")}`;
    for (const [key, heading] of headings) {
      if (key === state.sort) heading.setAttribute("aria-sort", state.isDescending ? "descending" : "ascending");
      else heading.removeAttribute("aria-sort");
    }
    headings.get("share").firstChild.textContent = state.emotion === "" ? "most frequent" : classes[state.emotion];
    sort.value = `${state.sort} ${state.isDescending}`;
  };
  const sortBy = (key, isDescending) => { Object.assign(state, { sort: key, isDescending }); show(); };

  let timer;
  form.addEventListener("input", (event) => {
    if (event.target === sort) {
      const [key, isDescending] = sort.value.split(" ");
      sortBy(key, isDescending === "true");
      return;
    }
    Object.assign(state, { words: words.value, status: status.value, emotion: emotion.value });
    if (event.target === emotion && emotion.value !== "") Object.assign(state, { sort: "share", isDescending: true });
    clearTimeout(timer);
    timer = setTimeout(show, event.target === words ? TYPING_DELAY_MS : 0);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  words.addEventListener("keydown", (event) => { if (event.key === "Escape") { words.value = ""; words.blur(); state.words = ""; show(); } });
  addEventListener("beforeprint", () => {
    showMore(Infinity);
    draw(strips());
  });
  show();

  const help = fer.help([["/", "search"], ["Esc", "clear the search"], ["Tab Enter", "choose a column to sort by; again for the other direction"], ["?", "show these keys"]]);
  document.getElementById("help").onclick = help;
  fer.onKeys({ "/": () => words.focus(), "?": help });
  fer.page = { run, videos };
  document.documentElement.dataset.ready = "true";
})().catch((error) => {
  document.querySelector("main").prepend(fer.element("p", { className: "trouble", role: "alert" }, `This page cannot be shown: ${error.message}. It needs a browser of 2023 or later.`));
  throw error;
});
