(() => {
  "use strict";
  const known = JSON.parse(document.getElementById("known").textContent);
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const form = document.querySelector("form");
  const body = document.body;
  const find = (id) => document.getElementById(id);
  const controls = new Map(known.controls.map((control) => [control.id, control]));
  const input = (id) => find(`in-${id}`);
  const moved = new Set();
  let timer = 0;
  let asking = null; // the request under way
  let figures = [];

  // --- controls --------------------------------------------------------------------------------------------

  function tell(id) {
    const control = controls.get(id);
    const text = control.unset && !moved.has(id) ? control.unset : control.texts[input(id).valueAsNumber];
    find(`out-${id}`).textContent = text;
    input(id).setAttribute("aria-valuetext", text);
    input(id).closest(".control").classList.toggle("moved", moved.has(id));
  }

  function boxes() { return [...form.querySelectorAll("[name=system]")]; }

  form.addEventListener("input", (event) => {
    const holder = event.target.closest(".control");
    if (holder) {
      const id = holder.dataset.control;
      const home = !controls.get(id).unset && event.target.valueAsNumber === controls.get(id).place;
      if (home) moved.delete(id);
      else moved.add(id);
      tell(id);
    }
    soon();
  });

  form.addEventListener("reset", () => {
    moved.clear();
    setTimeout(() => { for (const id of controls.keys()) tell(id); ask(); });
  });
  form.addEventListener("submit", (event) => event.preventDefault());

  function soon() {
    clearTimeout(timer);
    timer = setTimeout(ask, 150);
  }

  // --- asking ----------------------------------------------------------------------------------------------

  async function ask() {
    clearTimeout(timer);
    if (asking) asking.abort();
    const mine = (asking = new AbortController());
    const values = Object.fromEntries([...moved].map((id) => [id, input(id).valueAsNumber]));
    const systems = boxes().filter((box) => box.checked).map((box) => box.dataset.name);
    body.classList.add("busy");
    try {
      const reply = await fetch("/simulate", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ values, systems }),
        signal: mine.signal,
      });
      const found = await reply.json();
      if (mine === asking && !found.stale) await show(found);
    } catch (error) {
      if (mine === asking && error.name !== "AbortError") show({ error: "no answer: has aquasim explore ended?" });
    } finally {
      if (mine === asking) body.classList.remove("busy");
    }
  }

  function complain(id, text) {
    for (const element of document.querySelectorAll(".error")) element.textContent = "";
    if (text) find(id && controls.has(id) ? `err-${id}` : "err-page").textContent = text;
  }

  async function show(found) {
    complain(found.control, found.error);
    if (found.error) {
      find("said").textContent = "Not simulated; the figures below are older.";
      return;
    }
    find("said").textContent = found.said;
    find("short").textContent = found.short;
    find("caption").textContent = found.table.caption;
    table(found.table);
    list(find("changed"), found.changed.length || found.notes.length ? [...found.changed, ...found.notes] : ["Nothing was changed."]);
    figures = found.figures;
    await draw();
    body.dataset.answers = String(Number(body.dataset.answers || 0) + 1);
  }

  // --- the answer ------------------------------------------------------------------------------------------

  function make(name, text = "", classes = "") {
    const element = document.createElement(name);
    element.textContent = text;
    if (classes) element.className = classes;
    return element;
  }

  const list = (element, lines) => element.replaceChildren(...lines.map((line) => make("li", line)));

  function table({ head, rows, series }) {
    const top = make("tr");
    top.append(...head.map((title) => Object.assign(make("th", title), { scope: "col" })));
    document.querySelector("thead").replaceChildren(top);
    document.querySelector("tbody").replaceChildren(...rows.map((row) => {
      const line = make("tr");
      line.append(...row.map((cell, place) => (place ? figure(cell) : name(cell, series))));
      return line;
    }));
  }

  function name(cell, series) {
    const element = Object.assign(make("th"), { scope: "row" });
    element.append(make("span", "", `swatch c${series.indexOf(cell.text) % known.colors}`), cell.text);
    if (cell.note) element.append(make("small", cell.note));
    return element;
  }

  function figure(cell) {
    const element = make("td", cell.text, cell.best ? "best" : "");
    if (cell.title) element.title = cell.title;
    if (cell.best) element.append(Object.assign(make("span", "★", "star"), { ariaHidden: "true" }), make("span", " best", "unseen"));
    if (cell.note) element.append(make("small", cell.note, ["better", "worse"].includes(cell.tone) ? cell.tone : ""));
    return element;
  }

  // --- figures ---------------------------------------------------------------------------------------------

  function rows(columns) {
    const names = Object.keys(columns);
    return (columns[names[0]] || []).map((_, i) => Object.fromEntries(names.map((key) => [key, columns[key][i]])));
  }

  function place(number) {
    const holder = find("figures");
    while (holder.children.length > figures.length) holder.lastChild.remove();
    if (holder.children[number]) return holder.children[number];
    const element = make("figure");
    const caption = make("figcaption");
    caption.append(make("h3"), make("p"), make("ul", "", "legend"));
    const plot = make("div", "", "plot");
    plot.setAttribute("role", "img");
    element.append(caption, plot);
    holder.append(element);
    return element;
  }

  async function draw() {
    const mode = scheme.matches ? "dark" : "light";
    await Promise.all(figures.map(async (made, number) => {
      const element = place(number);
      element.querySelector("h3").textContent = made.title;
      element.querySelector("p").textContent = made.text;
      element.querySelector("ul").replaceChildren(...made.legend.map((label, color) => {
        const line = make("li");
        line.append(make("span", "", `swatch c${color % known.colors}`), label);
        return line;
      }));
      const plot = element.querySelector(".plot");
      plot.setAttribute("aria-label", `${made.title}. ${made.text}`);
      const datasets = Object.fromEntries(Object.entries(made.tables).map(([key, columns]) => [key, rows(columns)]));
      const spec = { ...made.spec, datasets, padding: { left: 0, right: 6, top: 4, bottom: 4 } };
      if (plot.drawn) plot.drawn.finalize();
      plot.drawn = await vegaEmbed(plot, spec, { config: known.config[mode], actions: false, renderer: "canvas", tooltip: { theme: "aquasim" } });
      plot.dataset.drawn = mode;
    }));
  }

  scheme.addEventListener("change", draw);
  for (const id of controls.keys()) tell(id);
  ask();
})();
