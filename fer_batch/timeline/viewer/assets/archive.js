// The list of videos. The server searches, filters, and sends one page at a time.
"use strict";
(async () => {
  const { element, timeText, percent } = fer;
  const PAGE_VIDEOS = 50;
  const TYPING_DELAY_MS = 150; // wait for further letters
  const POLL_MS = 15000; // interval between checks for new tables
  const [form, list, more, summary, pictures] = ["filters", "videos", "more", "found", "pictures"].map((id) => document.getElementById(id));
  const get = async (address) => {
    const answer = await fetch(address);
    if (!answer.ok) throw new Error(await answer.text());
    return answer.json();
  };

  let run = await get("api/run");
  let lastRequest = 0; // number of the last request: answers to earlier ones are dropped

  const countText = (count) => `${count} ${count === 1 ? "video" : "videos"}`;
  const describe = () => {
    document.getElementById("run").textContent = `${countText(run.videos)} in ${run.out}${run.partial ? ` – ${run.partial}` : ""}`;
    document.title = `${countText(run.videos)} – ${run.out}`;
  };
  describe();
  for (const [status, count] of Object.entries(run.statuses)) form.status.append(element("option", { value: status }, `${status.replace("_", " ")} (${count})`));
  run.classes.forEach((name, k) => {
    form.emotion.append(element("option", { value: name }, name));
    const swatch = element("i", { className: "swatch" });
    swatch.style.background = run.colours[k];
    document.getElementById("legend").append(element("li", {}, swatch, name));
  });
  for (const [name, value] of new URLSearchParams(location.search)) if (form.elements[name]) form.elements[name].value = value;

  const newStrip = () => element("canvas", { className: "strip", height: 1, role: "img", "aria-label": "emotions over time" });

  const strips = new Map(); // the cells of each canvas, which is drawn again when its size changes
  const redraw = () => { for (const [canvas, cells] of strips) fer.drawStrip(canvas, cells, run.colours); };
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; redraw(); } });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  const drawStrip = (canvas, { cells, counts }) => {
    strips.set(canvas, cells);
    fer.drawStrip(canvas, cells, run.colours);
    const all = counts.reduce((a, b) => a + b, 0);
    const order = [...counts.keys()].filter((k) => counts[k]).sort((a, b) => counts[b] - counts[a]).slice(0, 3);
    const text = order.map((k) => `${run.classes[k]} ${percent(counts[k] / all)}`).join(", ");
    const nothing = cells.every((kind) => kind === fer.NOT_ANALYZED) ? "not analyzed" : "no face";
    canvas.setAttribute("aria-label", text ? `emotions over time: ${text}` : nothing);
    canvas.closest("li").querySelector(".mostly").textContent = text || nothing;
  };

  const newPicture = (video) => {
    if (!video.moments) return element("span", { className: "picture missing" }); // the server does not send it
    const hide = (event) => event.target.classList.add("missing"); // the browser cannot show all formats
    if (video.is_picture) {
      return element("img", { className: "picture", src: `media/${video.video_id}`, alt: "", loading: "lazy", onerror: hide });
    }
    const picture = element("video", { className: "picture", muted: true, preload: "metadata", tabIndex: -1, "aria-hidden": "true", onerror: hide });
    picture.src = `media/${video.video_id}#t=${((video.start_s ?? 0) + (video.duration_s ?? 0) * 0.2).toFixed(1)}`;
    return picture;
  };

  const newEntry = (video) => {
    const length = video.duration_s ?? video.read_s;
    const folder = video.uri.slice(0, video.uri.length - video.name.length);
    const facts = [length ? timeText(length, 0) : null, video.tracks ? `${video.tracks} ${video.tracks === 1 ? "track" : "tracks"}` : null];
    if (video.share !== undefined) facts.unshift(`${form.emotion.value || form.person.value} ${percent(video.share)}`);
    return element(
      "li", { className: "video" }, ...(pictures.checked ? [newPicture(video)] : []),
      element(
        "div", { className: "what" },
        element("a", { href: `video/${encodeURIComponent(video.video_id)}` }, video.name),
        element("span", { className: "folder" }, folder),
      ),
      element("div", { className: "how" }, fer.badge(video.status), ` ${facts.filter(Boolean).join(" · ")}`),
      element("div", { className: "strips" }, video.error && !video.tracks ? element("span", { className: "trouble" }, video.error) : newStrip(), element("span", { className: "mostly quiet" })),
    );
  };

  const show = async (first) => {
    const request = ++lastRequest;
    const query = new URLSearchParams(new FormData(form));
    for (const [name, value] of [...query]) if (!value) query.delete(name);
    const address = `./${query.size ? "?" : ""}${query}`;
    history.replaceState(null, "", address);
    sessionStorage.setItem("list", address);
    const page = await get(`api/videos?${query}&first=${first}&count=${PAGE_VIDEOS}`);
    if (request !== lastRequest) return;
    const entries = page.videos.map(newEntry);
    if (first) list.append(...entries);
    else { list.replaceChildren(...entries); strips.clear(); }
    summary.textContent = page.total === run.videos ? "" : `${page.total} of ${countText(run.videos)}`;
    const left = page.total - first - page.videos.length;
    more.hidden = left <= 0;
    more.textContent = `show ${Math.min(left, PAGE_VIDEOS)} more of ${page.total} videos`;
    more.onclick = () => show(first + PAGE_VIDEOS);
    if (!page.videos.length) { markReady(); return; }
    const answers = await get(`api/strips?ids=${page.videos.map((video) => video.video_id).join(",")}`);
    if (request !== lastRequest) return;
    page.videos.forEach((video, i) => {
      const canvas = entries[i].querySelector("canvas");
      if (canvas) drawStrip(canvas, answers[video.video_id]);
    });
    markReady();
  };
  const markReady = () => { document.documentElement.dataset.ready = String(lastRequest); };
  const showError = (error) => { summary.textContent = `The list cannot be shown: ${error.message}`; };
  const reload = () => show(0).catch(showError);

  let timer;
  form.addEventListener("input", (event) => {
    if (event.target === pictures) { reload(); return; }
    clearTimeout(timer);
    timer = setTimeout(reload, event.target.name === "words" ? TYPING_DELAY_MS : 0);
  });
  form.addEventListener("submit", (event) => { event.preventDefault(); reload(); });

  const links = () => [...list.querySelectorAll("a")];
  const step = (by) => {
    const all = links();
    const next = all.indexOf(document.activeElement) + by;
    all[Math.min(Math.max(next, 0), all.length - 1)]?.focus();
  };
  const help = fer.help([["/", "search"], ["↓ ↑", "next, previous video"], ["Enter", "open the video"], ["?", "show these keys"]]);
  document.getElementById("help").onclick = help;
  fer.onKeys({ "/": () => form.words.focus(), ArrowDown: () => step(1), ArrowUp: () => step(-1), "?": help });
  form.words.addEventListener("keydown", (event) => {
    if (event.key === "Escape" || event.key === "ArrowDown") { event.preventDefault(); step(1); }
  });

  new IntersectionObserver((entries) => { if (entries[0].isIntersecting && !more.hidden) more.click(); }, { rootMargin: "400px" }).observe(more);
  if (location.hash === "#search") form.words.focus();
  await show(0);
  const persons = await get("api/persons");
  for (const name of persons) form.person.append(element("option", { value: name }, name));
  form.person.closest("label").hidden = !persons.length;
  const wantedPerson = new URLSearchParams(location.search).get("person");
  if (wantedPerson && form.person.value !== wantedPerson) { form.person.value = wantedPerson; reload(); }

  setInterval(async () => {
    if (document.hidden) return;
    const now = await get("api/run").catch(() => run);
    if (JSON.stringify(now.state) === JSON.stringify(run.state)) return;
    run = now;
    describe();
    await reload();
    summary.textContent += " – the tables have changed";
  }, POLL_MS);
})().catch((error) => {
  document.querySelector("main").prepend(fer.element("p", { className: "trouble", role: "alert" }, `The list cannot be shown: ${error.message}`));
  throw error;
});
