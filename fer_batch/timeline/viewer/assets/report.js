// The report of one video, a page without a server.
"use strict";
(async () => {
  const { element } = fer;
  const main = document.querySelector("main");
  const video = fer.unpack(await fer.readEmbedded());

  document.querySelector("h1").textContent = video.name;
  main.append(fer.ending(video.facts));
  const lanesBox = element("section", { className: "timelines", "aria-label": "Emotions over time" }, element("h2", {}, "Emotions over time"));
  main.append(lanesBox);
  const lanes = fer.lanes(lanesBox, video, (time_s) => lanes.setTime(time_s));
  main.append(
    element("div", { className: "columns" }, fer.shares(video), element("section", { "aria-label": "The video" }, element("h2", {}, "The video"), fer.facts(video.facts))),
    fer.episodes(video, (time_s) => { lanes.setTime(time_s); lanesBox.scrollIntoView({ block: "nearest" }); }),
  );
  const help = fer.help([
    ["← →", "one second back, forward"], [", .", "one sampled frame back, forward"], ["Home End", "beginning, end"],
    ["+ −", "zoom in, out; or drag over a lane"], ["0", "show the whole video"], ["?", "show these keys"],
  ]);
  document.getElementById("help").onclick = help;
  const go = (time_s) => lanes.setTime(Math.min(Math.max(time_s, 0), video.end_s));
  fer.onKeys({
    ArrowLeft: () => go(lanes.time_s - 1), ArrowRight: () => go(lanes.time_s + 1),
    ",": () => go(lanes.momentFrom(-1)), ".": () => go(lanes.momentFrom(1)),
    Home: () => go(0), End: () => go(video.end_s),
    "+": () => lanes.zoom(0.5), "=": () => lanes.zoom(0.5), "-": () => lanes.zoom(2), 0: () => lanes.show(0, video.end_s),
    "?": help,
  });
  fer.page = { video, lanes };
  document.documentElement.dataset.ready = "true";
})().catch((error) => {
  document.querySelector("main").prepend(fer.element("p", { className: "trouble", role: "alert" }, `This page cannot be shown: ${error.message}. It needs a browser of 2023 or later.`));
  throw error;
});
