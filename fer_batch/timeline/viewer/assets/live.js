// The live page: send frames of a camera or a file, and draw the faces of each answer.
"use strict";
(async () => {
  const { element } = fer;
  const FRAME_PX = 640; // the longer side of a frame that is sent
  const FRAME_MS = 66; // the least time between two frames
  const DRAW_MS = 200; // the least time between two drawings of the charts
  const [WINDOW_S, RATE_S, MAX_LANES] = [60, 3, 4];
  const PROBLEMS = {
    NotAllowedError: "The browser may not use the camera. Allow it for this page, and start again.",
    NotFoundError: "There is no camera. Connect one, and start again.",
    NotReadableError: "The camera is in use by another program, or it is broken.",
  };
  const model = await (await fetch("api/model")).json();
  const player = element("video", { muted: true, playsInline: true, "aria-label": model.file ?? "camera" });
  const layer = element("div", { className: "boxes" });
  const button = element("button", { type: "button", id: "start", onclick: () => (socket ? stop() : start()) });
  const rate = element("output", { className: "quiet number", id: "rate" });
  const status = element("p", { role: "status", id: "status" });
  const lanes = element("section", { "aria-label": "Emotions in the last minute" });
  const source = model.file ?? "the camera";
  const stage = element("div", { className: "stage" }, player, layer);
  const main = document.querySelector("main");
  main.append(element("div", { className: "player" }, stage, element("div", { className: "controls" }, button, rate), status), lanes);
  const canvas = document.createElement("canvas");
  const drawBoxes = fer.boxes(layer, model);
  const faces = new Map(); // by track: name, samples of [time, probabilities, best, end], and its lane
  let [socket, sent_ms, drawn_ms, answers] = [null, 0, 0, []];

  const say = (text, is_problem = false) => {
    status.textContent = text;
    status.className = is_problem ? "trouble" : "quiet";
  };
  const stop = (text = `Stopped. Start to show ${source}.`, is_problem = false) => {
    socket?.close();
    socket = null;
    player.pause();
    player.srcObject?.getTracks().forEach((track) => track.stop());
    if (!model.file) player.srcObject = null;
    drawBoxes([]);
    [rate.textContent, button.textContent] = ["", "start"];
    say(text, is_problem);
  };
  const openSource = async () => {
    if (!model.file) {
      if (!navigator.mediaDevices) throw new Error("The browser offers no camera to this page. Open it as http://127.0.0.1 on this machine.");
      player.srcObject = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: FRAME_PX } }, audio: false });
    } else if (!player.src) player.src = "media";
    await player.play();
    if (!player.videoWidth) throw new Error("There is no picture.");
    main.style.setProperty("--ratio", player.videoWidth / player.videoHeight);
  };
  const start = async () => {
    button.disabled = true;
    say(`Opening ${source} …`);
    try {
      await openSource();
    } catch (error) {
      const problem = model.file ? `This browser cannot play ${model.file}.` : PROBLEMS[error.name] ?? error.message;
      return stop(problem, true);
    } finally {
      button.disabled = false;
    }
    button.textContent = "stop";
    say("");
    for (const { box } of faces.values()) box?.remove();
    faces.clear();
    answers = [];
    const opened = socket = new WebSocket(new URL("api/stream", location.href).href.replace(/^http/, "ws"));
    opened.onopen = () => sendFrame(opened);
    opened.onmessage = ({ data }) => {
      setTimeout(() => sendFrame(opened), Math.max(sent_ms + FRAME_MS - performance.now(), 0));
      if (socket === opened) showAnswer(JSON.parse(data));
    };
    opened.onclose = ({ reason }) => { if (socket === opened) stop(reason || "The server has ended. Start `fer-batch live` again.", true); };
  };
  // The next frame is sent after the answer to the one before, so that a slow machine never lags behind.
  const sendFrame = (opened) => {
    if (socket !== opened) return;
    if (player.ended) return stop(model.file ? "The file has ended." : "The camera has stopped.");
    const scale = Math.min(FRAME_PX / Math.max(player.videoWidth, player.videoHeight), 1);
    [canvas.width, canvas.height] = [player.videoWidth * scale, player.videoHeight * scale];
    canvas.getContext("2d").drawImage(player, 0, 0, canvas.width, canvas.height);
    sent_ms = performance.now();
    canvas.toBlob((blob) => { if (socket === opened) opened.send(blob); }, "image/jpeg", 0.9);
  };
  const showAnswer = (answer) => {
    if (answer.error) return say(answer.error, true);
    answers = [...answers.filter((time_s) => time_s > answer.time_s - RATE_S), answer.time_s];
    const rate_hz = (answers.length - 1) / (answers[answers.length - 1] - answers[0]);
    rate.textContent = answers.length > 2 ? `${rate_hz.toFixed(1)} samples per second` : "";
    say(answer.faces.length ? "" : "No face in view.");
    for (const { samples } of faces.values()) if (samples.at(-1)[3] === Infinity) samples.at(-1)[3] = answer.time_s;
    const shown = answer.faces.map(({ track, box, emotion, probabilities }) => {
      const face = faces.get(track) ?? { name: `face ${track + 1}`, samples: [] };
      const kind = model.classes.indexOf(emotion);
      face.samples.push([answer.time_s, Object.values(probabilities), kind, Infinity]);
      faces.set(track, face);
      return { name: face.name, kind, box };
    });
    drawBoxes(shown);
    if (performance.now() - drawn_ms >= DRAW_MS) drawLanes(answer.time_s);
  };
  // The points of a face (see `pointsOf`) at times relative to now. A sample lasts until the next answer.
  const pointsOf = ({ samples }, now_s) => {
    const points = { xs: [], ys: model.classes.map(() => []), top: [] };
    const add = (time_s, probs, kind) => {
      points.xs.push(Math.min(time_s, now_s) - now_s);
      points.ys.forEach((column, k) => column.push(probs ? probs[k] : null));
      points.top.push(kind);
    };
    samples.forEach(([time_s, probs, kind, end_s], i) => {
      add(time_s, probs, kind);
      if (samples[i + 1]?.[0] === end_s) return;
      add(end_s, probs, kind);
      add(end_s, null, null);
    });
    return points;
  };
  const build = (face) => {
    face.values = fer.values(model);
    face.chart = element("div", { className: "chart", role: "img", "aria-label": `Emotions of ${face.name} in the last minute` });
    face.box = element("section", { className: "lane", "aria-label": face.name }, element("header", {}, element("h3", {}, face.name), face.values.list), face.chart);
    lanes.append(face.box);
    face.plot = fer.chart(face.chart, model, face, { range: () => [-WINDOW_S, 0], cursor: { show: false } });
    new ResizeObserver(() => face.plot.setSize({ width: face.chart.clientWidth, height: face.plot.height })).observe(face.chart);
  };
  const drawLanes = (now_s) => {
    drawn_ms = performance.now();
    for (const [track, face] of faces) {
      face.samples = face.samples.filter(([time_s]) => time_s >= now_s - WINDOW_S);
      if (!face.samples.length) { face.box?.remove(); faces.delete(track); }
    }
    const isAway = ({ samples }) => samples.at(-1)[0] < now_s;
    const shown = [...faces.values()].sort((a, b) => isAway(a) - isAway(b) || b.samples.length - a.samples.length).slice(0, MAX_LANES);
    for (const face of shown) {
      face.points = pointsOf(face, now_s);
      if (!face.plot) build(face);
      const [, probs, kind] = isAway(face) ? [0, [], -1] : face.samples.at(-1);
      face.box.classList.toggle("away", kind < 0);
      face.values.show((k) => probs[k] ?? null, kind);
      face.plot.setData(fer.chartData(face.points));
    }
    for (const face of faces.values()) if (face.box) face.box.hidden = !shown.includes(face);
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => faces.forEach(({ plot }) => plot?.redraw()));
  stop(`Start to show ${source}.`);
  document.documentElement.dataset.ready = "true";
})().catch((error) => {
  document.querySelector("main").prepend(fer.element("p", { className: "trouble", role: "alert" }, `This page cannot work: ${error.message}`));
  throw error;
});
