// Naming faces, which `view --edit` allows: a dialog with the name of a face, and a button that undoes changes.
"use strict";
(() => {
  const { element } = fer;
  const MAX_NAME_CHARS = 100; // as in naming.py
  const NUMBERED = /^person \d+$/;

  // `lastChange` describes the change that can be undone, null if there is none. `reload()` reads `video` again
  // and resolves to the last change. Returns the controls, a function that opens the dialog for a face, and one
  // that undoes the last change.
  fer.naming = (video, lastChange, reload) => {
    const post = async (act, values) => {
      const answer = await fetch(`../api/videos/${video.video_id}/${act}`, {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(values),
      });
      if (!answer.ok) throw new Error(await answer.text());
    };
    const message = element("span", { role: "status" });
    const undoButton = element("button", { type: "button", onclick: () => undoLast() }, "undo");
    const showChange = (change, error = null) => {
      message.textContent = error ? `Not undone: ${error.message}` : change ?? "Click a face, or the name of a lane, to name it.";
      message.classList.toggle("trouble", Boolean(error));
      undoButton.hidden = !change;
    };
    showChange(lastChange);

    const names = element("datalist", { id: "names" });
    const input = element("input", { type: "text", name: "name", maxLength: MAX_NAME_CHARS, autocomplete: "off", spellcheck: false });
    input.setAttribute("list", "names");
    const title = element("h2");
    const scope = element("p", { className: "quiet" });
    const trouble = element("p", { className: "trouble", role: "alert" });
    const save = element("button", {}, "save");
    const form = element(
      "form", { method: "dialog" }, title, element("label", {}, "name ", input), names, scope, trouble,
      element("div", { className: "controls" }, save, element("button", { type: "button", onclick: () => dialog.close() }, "cancel")),
    );
    const dialog = element("dialog", { id: "naming", "aria-label": "Name of a face" }, form);
    document.body.append(dialog);
    let named = null;

    const describe = (face) => {
      named = face;
      title.textContent = `Who is ${face.name}?`;
      const tracks = face.tracks.length === 1 ? "One track gets" : `${face.tracks.length} tracks get`;
      scope.textContent = `${tracks} the name.${face.person ? " Without a name, tracks have their number again." : ""}`;
    };

    const open = async (face) => {
      describe(face);
      input.value = NUMBERED.test(face.person) ? "" : face.person ?? ""; // a text would hide other suggestions
      trouble.textContent = "";
      dialog.showModal();
      input.select();
      const persons = await fetch("../api/persons").then((answer) => answer.json()).catch(() => []);
      const known = new Set([...persons, ...video.faces.map((other) => other.person)].filter((name) => name && name !== named.person));
      names.replaceChildren(...[...known].sort().map((value) => element("option", { value })));
    };

    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const [track_id] = named.tracks;
      save.disabled = true;
      try {
        await post("name", { track_id, name: input.value, shown: named.person });
        dialog.close();
      } catch (error) {
        trouble.textContent = `Not saved: ${error.message}`;
      }
      await update();
      describe(video.faces.find((face) => face.tracks.includes(track_id)) ?? named);
      save.disabled = false;
    });

    const undoLast = async () => {
      if (undoButton.hidden || undoButton.disabled) return;
      undoButton.disabled = true;
      await update(await post("undo", {}).catch((error) => error));
      undoButton.disabled = false;
    };

    // Show the persons as they are now, also if a change has failed because someone else has changed them.
    const update = async (error = null) => showChange(await reload().catch(() => null), error);

    return { controls: element("div", { className: "controls naming" }, message, undoButton), open, undoLast };
  };
})();
