// The parts of a video's page besides its lanes: status, shares, facts, episodes, keys.
"use strict";
(() => {
  const { element, timeText, percent } = fer;
  const EPISODES_PER_CLICK = 100;
  const LABELS = {
    uri: "file", duration_s: "length", read_s: "read", fps: "frames per second", codec: "codec",
    size_bytes: "size", moments: "sampled frames", moments_with_face: "with a face", tracks: "tracks",
    analyze_s: "analyzed in", start_s: "picture begins at", model_id: "model",
  };
  const HIDDEN_FACTS = new Set(["video_id", "version", "bucket", "attempt", "width", "height", "status", "error"]);
  const STATUS = {
    ok: "analyzed", no_faces: "analyzed, no face found", no_video: "no video in this file",
    partial: "only a part could be read", failed: "could not be read",
  };

  fer.statusText = (status) => STATUS[status] ?? status;
  fer.badge = (status) => element("span", { className: `badge ${status}` }, status.replace("_", " "));

  const factText = (name, value) => {
    if (name === "size_bytes") return `${(value / 1e6).toFixed(1)} MB`;
    if (name.endsWith("_s") && name in LABELS) return name === "analyze_s" ? `${value.toFixed(1)} s` : timeText(value);
    return typeof value === "number" ? String(Math.round(value * 1000) / 1000) : String(value);
  };

  fer.facts = (facts) => {
    const list = element("dl", { className: "facts" });
    const add = (name, text) => list.append(element("div", {}, element("dt", {}, name), element("dd", {}, text)));
    for (const [name, value] of Object.entries(facts)) {
      if (HIDDEN_FACTS.has(name) || value === null || (name === "start_s" && value < 0.0005)) continue;
      add(LABELS[name] ?? name, factText(name, value));
      if (name === "fps" && facts.width) add("picture", `${facts.width} × ${facts.height}`);
    }
    return list;
  };

  // The status of a video in words, with its error.
  fer.ending = (facts) =>
    element("p", { className: "ending" }, fer.badge(facts.status), ` ${fer.statusText(facts.status)}${facts.error ? `: ${facts.error}` : ""}`);

  // A note that the run is not finished, with the number of videos and hours that are.
  fer.partial = (text) => element("p", { className: "quiet partial", hidden: !text }, text);

  // A bar of shares: in how many of a face's sampled frames each emotion is the most probable one.
  // `page` has the classes and their colours.
  fer.shareBar = (page, name, counts) => {
    const all = counts.reduce((a, b) => a + b, 0);
    const order = [...counts.keys()].filter((k) => counts[k]).sort((a, b) => counts[b] - counts[a]);
    const text = order.map((k) => `${page.classes[k]} ${percent(counts[k] / all)}`).join(", ");
    const parts = [...counts.keys()].filter((k) => counts[k]).map((k) => {
      const part = element("span", { title: `${page.classes[k]} ${percent(counts[k] / all)}` }, counts[k] / all > 0.16 ? page.classes[k] : "");
      part.style.background = page.colours[k];
      part.style.color = page.inks[k];
      part.style.flexGrow = counts[k];
      return part;
    });
    return element(
      "div", { className: "sharebar" }, element("h3", {}, name),
      element("div", { className: "bar", "aria-hidden": "true" }, ...parts), element("p", {}, text),
    );
  };

  fer.shares = (video) => {
    const box = element("section", { className: "shares", "aria-label": "Shares of emotions" }, element("h2", {}, "Shares"));
    const all = new Float64Array(video.classes.length);
    for (const face of video.faces) face.counts.forEach((count, k) => { all[k] += count; });
    if (!video.rows) box.append(element("p", { className: "quiet" }, "No face was found in this video."));
    else if (video.faces.length > 1) box.append(fer.shareBar(video, `all ${video.faces.length} faces`, all));
    for (const face of video.faces.slice(0, 5)) box.append(fer.shareBar(video, face.name, face.counts));
    if (video.rows) {
      box.append(element("p", { className: "quiet" }, "Shares of the faces in sampled frames, by their most probable emotion."));
    }
    if (video.face_filter) box.append(element("p", { className: "quiet" }, `This page has only ${video.face_filter}.`));
    return box;
  };

  // A table of the episodes. A click on a time seeks to it.
  fer.episodes = (video, onSeek) => {
    const { episodes, episodes_are: least } = video;
    const count = episodes.start_s.length;
    const body = element("tbody");
    const more = element("button", { type: "button", className: "more", onclick: () => show() });
    const face = (i) => episodes.person[i] ?? `track ${episodes.track_id[i]}`;
    const show = () => {
      const first = body.childElementCount;
      for (let i = first; i < Math.min(first + EPISODES_PER_CLICK, count); i++) {
        const kind = episodes.kind[i];
        const swatch = element("i", { className: "swatch" });
        swatch.style.background = video.colours[kind] ?? "none";
        body.append(element(
          "tr", {},
          element("td", {}, element("button", { type: "button", className: "time", onclick: () => onSeek(episodes.start_s[i]) }, timeText(episodes.start_s[i]))),
          element("td", { className: "number" }, `${(episodes.end_s[i] - episodes.start_s[i]).toFixed(1)} s`),
          element("td", {}, face(i)), element("td", { className: "kind" }, swatch, video.classes[kind] ?? ""),
          element("td", { className: "number" }, `${percent(episodes.peak[i])} at ${timeText(episodes.peak_s[i])}`),
        ));
      }
      more.hidden = body.childElementCount >= count;
      more.textContent = `show more of ${count} episodes`;
    };
    show();
    const head = ["from", "for", "face", "emotion", "peak"].map((text) => element("th", { scope: "col" }, text));
    return element(
      "section", { className: "episodes", "aria-label": "Episodes" },
      element("h2", {}, "Episodes"),
      element("p", { className: "quiet", hidden: !count }, `Runs of one emotion with a confidence of at least ${percent(least.threshold)}, for ${least.min_s} s and longer.`),
      count
        ? element("div", { className: "wide" }, element("table", {}, element("thead", {}, element("tr", {}, ...head)), body))
        : element("p", { className: "quiet" }, `No emotion lasted for ${least.min_s} s with a confidence of ${percent(least.threshold)} or more.`),
      more,
    );
  };

  // Create a dialog that lists the keys; return the function that opens it.
  fer.help = (keys) => {
    const dialog = element(
      "dialog", { id: "keys", "aria-label": "Keys" }, element("h2", {}, "Keys"),
      element("dl", {}, ...keys.map(([key, text]) => element("div", {}, element("dt", {}, element("kbd", {}, key)), element("dd", {}, text)))),
      element("form", { method: "dialog" }, element("button", {}, "close")),
    );
    document.body.append(dialog);
    return () => dialog.showModal();
  };

  // Run the action of a pressed key, unless the user types text or uses a shortcut of the browser.
  fer.onKeys = (actions) => {
    addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
      if (event.target.matches?.("input, select, textarea, video")) return;
      if (event.key === " " && event.target.matches?.("button, a, summary")) return;
      const act = actions[event.key];
      if (!act) return;
      event.preventDefault();
      act();
    });
  };
})();
