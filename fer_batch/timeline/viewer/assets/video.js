// The page of a video: the player with boxes over the faces, and the lanes.
"use strict";
(async () => {
  const { element, timeText } = fer;
  const SEEK_OFFSET_S = 0.001; // times are rounded: seek a little later, so that the frame before is not shown
  const POLL_MS = 15000;
  const JUMP_S = 5;
  const main = document.querySelector("main");
  const video_id = decodeURIComponent(location.pathname.split("/").pop());
  const list = `../${sessionStorage.getItem("list") ?? ""}`;
  document.getElementById("back").href = list;
  const fetchOk = async (address) => {
    const answer = await fetch(address);
    if (!answer.ok) throw new Error(await answer.text());
    return answer;
  };

  const readState = () => fetchOk(`../api/videos/${video_id}/state`).then((answer) => answer.json());
  const readVideo = () => fetchOk(`../api/videos/${video_id}/data`).then((answer) => answer.arrayBuffer()).then(fer.unpack);

  // The state is read first, so that a change while the data are read is noticed.
  let state = await readState();
  const video = await readVideo();
  document.title = `${video.name} – emotions over time`;
  document.querySelector("h1").textContent = video.name;

  const words = element("p", { className: "quiet", role: "status" });
  const showNote = (text) => { words.textContent = text; };
  const player = video.is_picture
    ? element("img", { alt: video.name })
    : element("video", { controls: true, preload: "auto", playsInline: true, "aria-label": video.name });
  player.setAttribute("controlslist", "nofullscreen nodownload");
  const layer = element("div", { className: "boxes" });
  const stage = element("div", { className: "stage" }, player, layer);
  let playable = false;
  const showUnplayable = (why) => {
    playable = false;
    stage.hidden = true;
    showNote(`There is no picture: ${why}. The timeline below works without it.`);
  };

  // Boxes are those of the table in sampled frames, and interpolated between them.
  const nameFace = (face) => { if (playable) player.pause(); naming.open(face); };
  const boxes = fer.boxes(layer, video, state.edit ? (name) => nameFace(video.faces.find((face) => face.name === name)) : null);
  const interpolateBox = (row, next, part) => [0, 1, 2, 3].map((side) => {
    const here = video.box[4 * row + side];
    return (here + (next < 0 ? 0 : (video.box[4 * next + side] - here) * part)) / 65535;
  });
  const drawBoxes = (time_s) => {
    const moment = video.momentAt(time_s);
    const next = video.momentAfter(moment);
    const part = moment < 0 ? 0 : Math.min(Math.max((time_s - video.times[moment] - SEEK_OFFSET_S) / (video.ends[moment] - video.times[moment]), 0), 1);
    const shown = [];
    for (const face of showBoxes.checked ? video.faces : []) {
      const row = video.rowAt(face, moment);
      if (row >= 0) shown.push({ name: face.name, kind: video.emotion[row], box: interpolateBox(row, video.rowAt(face, next), part) });
    }
    boxes(shown);
  };
  const showBoxes = element("input", { type: "checkbox", checked: true, onchange: () => drawBoxes(lanes.time_s) });

  // Read the data of the video again after persons have changed. The playback continues.
  const reload = async () => {
    state = await readState();
    Object.assign(video, await readVideo());
    showFaces();
    lanes.update();
    drawBoxes(lanes.time_s);
    return state.undo;
  };
  const naming = state.edit ? fer.naming(video, state.undo, reload) : null;

  const side = element("div", { className: "side" });
  const rest = element("div", { className: "columns rest" });
  const showFaces = () => {
    side.replaceChildren(fer.shares(video));
    rest.replaceChildren(
      fer.episodes(video, (time_s) => seek(time_s)),
      element("section", { "aria-label": "The video" }, element("h2", {}, "The video"), fer.facts(video.facts)),
    );
  };
  showFaces();
  const lanesBox = element("section", { className: "timelines", "aria-label": "Emotions over time" });
  const controls = element(
    "div", { className: "controls" },
    element("label", { className: "switch" }, showBoxes, " boxes"),
    element("button", { type: "button", onclick: () => fullscreen() }, "full screen"),
  );
  main.classList.add("watch");
  main.append(
    element("div", { className: "player" }, fer.ending(video.facts), fer.partial(video.partial), words, stage, controls, ...(naming ? [naming.controls] : [])),
    side, lanesBox, rest,
  );
  const lanes = fer.lanes(lanesBox, video, (time_s) => seek(time_s), naming && nameFace);

  const showTime = (time_s) => { lanes.setTime(Math.max(time_s, 0)); drawBoxes(time_s); };
  // Players count from the start of the file, the tables from the first picture.
  const toPlayer = (time_s) => Math.min(time_s + video.start_s + SEEK_OFFSET_S, player.duration || Infinity);
  const fromPlayer = (time_s) => time_s - video.start_s;
  const seek = (time_s) => {
    const to_s = Math.min(Math.max(time_s, 0), video.end_s);
    showTime(to_s);
    if (playable) player.currentTime = toPlayer(to_s);
    history.replaceState(null, "", `#t=${to_s.toFixed(3)}`);
  };
  const fullscreen = () => (document.fullscreenElement ? document.exitFullscreen() : stage.requestFullscreen());
  const step = (moments) => { if (playable) player.pause(); seek(lanes.momentFrom(moments)); };
  const play = () => { if (playable) player.paused ? player.play() : player.pause(); };

  const follow = () => {
    if (!player.seeking) showTime(fromPlayer(player.currentTime));
  };
  player.addEventListener("timeupdate", follow);
  player.addEventListener("seeked", follow);
  const frame = (_, { mediaTime }) => {
    if (!player.seeking && !player.paused) showTime(fromPlayer(mediaTime));
    player.requestVideoFrameCallback(frame);
  };
  if ("requestVideoFrameCallback" in player) player.requestVideoFrameCallback(frame);
  player.addEventListener("loadedmetadata", () => {
    if (!player.videoWidth) { showUnplayable(`this browser cannot decode ${video.facts.codec ?? "this video"}`); return; }
    playable = true;
    main.style.setProperty("--ratio", player.videoWidth / player.videoHeight);
    if (lanes.time_s || video.start_s) player.currentTime = toPlayer(lanes.time_s);
  });
  player.addEventListener("error", () => showUnplayable(`this browser cannot ${video.is_picture ? "show" : "play"} the file (${video.facts.codec ?? "unknown codec"})`));
  if (video.facts.width) main.style.setProperty("--ratio", video.facts.width / video.facts.height);
  if (state.trouble) showUnplayable(state.trouble);
  else player.src = `../media/${video_id}`;

  const start = /^#t=([\d.]+)$/.exec(location.hash);
  showTime(start ? Math.min(Number(start[1]), video.end_s) : 0);

  const help = fer.help([
    ["space", "play, pause"], ["← →", `${JUMP_S} seconds back, forward`], [", .", "one sampled frame back, forward"], ["Home End", "beginning, end"],
    ["+ −", "zoom in, out; or drag over a lane"], ["0", "show the whole video"], ["b", "boxes on, off"], ["f", "full screen"], ...(naming ? [["u", "undo the last name"]] : []), ["/", "search the list"], ["?", "show these keys"],
  ]);
  document.getElementById("help").onclick = help;
  fer.onKeys({
    " ": play, k: play,
    ArrowLeft: () => seek(lanes.time_s - JUMP_S), ArrowRight: () => seek(lanes.time_s + JUMP_S),
    ",": () => step(-1), ".": () => step(1),
    Home: () => seek(0), End: () => seek(video.end_s),
    "+": () => lanes.zoom(0.5), "=": () => lanes.zoom(0.5), "-": () => lanes.zoom(2), 0: () => lanes.show(0, video.end_s),
    b: () => showBoxes.click(), f: fullscreen, u: () => naming?.undoLast(), "/": () => { location.href = `${list}#search`; }, "?": help,
  });
  fer.page = { video, lanes, player };
  document.documentElement.dataset.ready = "true";

  const poll = setInterval(async () => {
    if (document.hidden) return;
    const now = await readState().catch(() => state);
    if (JSON.stringify(now.state) === JSON.stringify(state.state)) return;
    clearInterval(poll);
    words.append(" The tables have changed. ", element("button", { type: "button", onclick: () => location.reload() }, "reload"));
  }, POLL_MS);
})().catch((error) => {
  document.querySelector("main").prepend(fer.element("p", { className: "trouble", role: "alert" }, `This video cannot be shown: ${error.message}`));
  throw error;
});
