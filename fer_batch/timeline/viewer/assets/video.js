// A video: the player, boxes over the faces, and the lanes.
"use strict";
(async () => {
  const { element, timeText } = fer;
  const AFTER_S = 0.001; // beyond a moment's time, which is rounded: its own frame is shown, not the one before
  const LOOK_MS = 15000;
  const SECONDS = 5;
  const main = document.querySelector("main");
  const video_id = decodeURIComponent(location.pathname.split("/").pop());
  const list = sessionStorage.getItem("list") ?? "/";
  document.getElementById("back").href = list;
  const fetched = async (address) => {
    const answer = await fetch(address);
    if (!answer.ok) throw new Error(await answer.text());
    return answer;
  };

  const [packed, state] = await Promise.all([
    fetched(`/api/videos/${video_id}/data`).then((answer) => answer.arrayBuffer()),
    fetched(`/api/videos/${video_id}/state`).then((answer) => answer.json()),
  ]);
  const video = fer.unpack(packed);
  document.title = `${video.name} – emotions over time`;
  document.querySelector("h1").textContent = video.name;

  const words = element("p", { className: "quiet", role: "status" });
  const say = (text) => { words.textContent = text; };
  const player = element("video", { controls: true, preload: "auto", playsInline: true, "aria-label": video.name });
  player.setAttribute("controlslist", "nofullscreen nodownload");
  const layer = element("div", { className: "boxes" });
  const stage = element("div", { className: "stage" }, player, layer);
  let playable = false;
  const unplayable = (why) => {
    playable = false;
    stage.hidden = true;
    say(`There is no picture: ${why}. The timeline below works without it.`);
  };

  // Boxes as the table has them at its moments, and on the way from one to the next in between.
  const boxes = new Map();
  const boxOf = (row, next, part) => [0, 1, 2, 3].map((side) => {
    const here = video.box[4 * row + side];
    return (here + (next < 0 ? 0 : (video.box[4 * next + side] - here) * part)) / 65535;
  });
  const drawBoxes = (time_s) => {
    const moment = video.momentAt(time_s);
    const here = moment < 0 ? 0 : video.times[moment];
    const length = moment + 1 < video.times.length ? video.times[moment + 1] - here : video.step_s;
    const part = Math.min(Math.max((time_s - here - AFTER_S) / length, 0), 1);
    for (const face of video.faces) {
      const row = showBoxes.checked ? video.rowAt(face, moment) : -1;
      let box = boxes.get(face);
      if (row < 0) { if (box) box.hidden = true; continue; }
      if (!box) {
        box = element("div", { className: "box" }, element("span"));
        boxes.set(face, box);
        layer.append(box);
      }
      const [x0, y0, x1, y1] = boxOf(row, video.rowAt(face, moment + 1), part);
      const kind = video.emotion[row];
      box.hidden = false;
      box.style.left = `${100 * x0}%`;
      box.style.top = `${100 * y0}%`;
      box.style.width = `${100 * (x1 - x0)}%`;
      box.style.height = `${100 * (y1 - y0)}%`;
      box.style.setProperty("--colour", video.colours[kind] ?? "#ffffff");
      box.style.setProperty("--ink", video.inks[kind] ?? "#000000");
      box.firstChild.textContent = `${face.name} · ${video.classes[kind] ?? "?"}`;
      box.classList.toggle("below", y0 < 0.08);
    }
  };
  const showBoxes = element("input", { type: "checkbox", checked: true, onchange: () => drawBoxes(lanes.time_s) });

  const side = element("div", { className: "side" }, fer.shares(video));
  const lanesBox = element("section", { className: "timelines", "aria-label": "Emotions over time" });
  const controls = element(
    "div", { className: "controls" },
    element("label", { className: "switch" }, showBoxes, " boxes"),
    element("button", { type: "button", onclick: () => fullscreen() }, "full screen"),
  );
  main.classList.add("watch");
  main.append(element("div", { className: "player" }, fer.ending(video.facts), words, stage, controls), side, lanesBox);
  const lanes = fer.lanes(lanesBox, video, (time_s) => seek(time_s));
  main.append(
    element("div", { className: "columns rest" }, fer.episodes(video, (time_s) => seek(time_s)), element("section", { "aria-label": "The video" }, element("h2", {}, "The video"), fer.facts(video.facts))),
  );

  const moved = (time_s) => { lanes.setTime(time_s); drawBoxes(time_s); };
  const seek = (time_s) => {
    const to_s = Math.min(Math.max(time_s, 0), video.end_s);
    moved(to_s);
    if (playable) player.currentTime = Math.min(to_s + AFTER_S, player.duration || Infinity);
    history.replaceState(null, "", `#t=${to_s.toFixed(3)}`);
  };
  const fullscreen = () => (document.fullscreenElement ? document.exitFullscreen() : stage.requestFullscreen());
  const play = () => { if (playable) player.paused ? player.play() : player.pause(); };

  const follow = () => {
    if (!player.seeking) moved(player.currentTime);
  };
  player.addEventListener("timeupdate", follow);
  player.addEventListener("seeked", follow);
  const frame = (_, { mediaTime }) => {
    if (!player.seeking && !player.paused) moved(mediaTime);
    player.requestVideoFrameCallback(frame);
  };
  if ("requestVideoFrameCallback" in player) player.requestVideoFrameCallback(frame);
  player.addEventListener("loadedmetadata", () => {
    if (!player.videoWidth) { unplayable(`this browser can't decode ${video.facts.codec ?? "this video"}`); return; }
    playable = true;
    main.style.setProperty("--ratio", player.videoWidth / player.videoHeight);
    if (lanes.time_s) player.currentTime = lanes.time_s + AFTER_S;
  });
  player.addEventListener("error", () => unplayable(`this browser can't play the file (${video.facts.codec ?? "unknown codec"})`));
  if (video.facts.width) main.style.setProperty("--ratio", video.facts.width / video.facts.height);
  if (state.trouble) unplayable(state.trouble);
  else player.src = `/media/${video_id}`;
  if (state.note) say(state.note);

  const start = /^#t=([\d.]+)$/.exec(location.hash);
  moved(start ? Math.min(Number(start[1]), video.end_s) : 0);

  const help = fer.help([
    ["space", "play, stop"], ["← →", `${SECONDS} seconds back, on`], [", .", "a moment back, on"], ["Home End", "to the beginning, the end"],
    ["+ −", "zoom in, out; or drag over a lane"], ["0", "the whole video"], ["b", "boxes on, off"], ["f", "full screen"], ["/", "search the list"], ["?", "these keys"],
  ]);
  document.getElementById("help").onclick = help;
  fer.onKeys({
    " ": play, k: play,
    ArrowLeft: () => seek(lanes.time_s - SECONDS), ArrowRight: () => seek(lanes.time_s + SECONDS),
    ",": () => { player.pause(); seek(lanes.momentFrom(-1)); }, ".": () => { player.pause(); seek(lanes.momentFrom(1)); },
    Home: () => seek(0), End: () => seek(video.end_s),
    "+": () => lanes.zoom(0.5), "=": () => lanes.zoom(0.5), "-": () => lanes.zoom(2), 0: () => lanes.show(0, video.end_s),
    b: () => showBoxes.click(), f: fullscreen, "/": () => { location.href = `${list}#search`; }, "?": help,
  });
  fer.page = { video, lanes, player };
  document.documentElement.dataset.ready = "true";

  const before = JSON.stringify(state.state);
  const look = setInterval(async () => {
    if (document.hidden) return;
    const now = await fetched(`/api/videos/${video_id}/state`).then((answer) => answer.json()).catch(() => state);
    if (JSON.stringify(now.state) === before) return;
    clearInterval(look);
    words.append(" The tables have been written anew. ", element("button", { type: "button", onclick: () => location.reload() }, "show them"));
  }, LOOK_MS);
})().catch((error) => {
  document.querySelector("main").prepend(fer.element("p", { className: "trouble", role: "alert" }, `This video can't be shown: ${error.message}`));
  throw error;
});
