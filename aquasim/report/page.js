(() => {
  "use strict";
  const page = JSON.parse(document.getElementById("figures").textContent);
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const plots = new Map(); // element -> { figure, view, result, near, range }
  const whole = Math.max(0, ...page.figures.map((figure) => figure.window || 0));
  let range = [0, whole];
  let pending = 0;

  // --- figures ---------------------------------------------------------------------------------------------

  const column = (values) => (Array.isArray(values) ? values : values.codes.map((code) => values.levels[code]));

  function rows(table) {
    const names = Object.keys(table);
    const columns = names.map((name) => column(table[name]));
    const found = [];
    for (let i = 0; i < (columns[0] || []).length; i++) {
      const row = {};
      for (let j = 0; j < names.length; j++) row[names[j]] = columns[j][i];
      found.push(row);
    }
    return found;
  }

  const datasets = (figure) => Object.fromEntries(Object.entries(figure.tables).map(([k, v]) => [k, rows(v)]));

  async function draw(element) {
    const plot = plots.get(element);
    if (plot.drawing) return;
    plot.drawing = true;
    const spec = { ...plot.figure.spec, datasets: datasets(plot.figure), padding: { left: 0, right: 6, top: 4, bottom: 4 } };
    if (plot.result) plot.result.finalize();
    const result = await vegaEmbed(element, spec, {
      config: page.config[scheme.matches ? "dark" : "light"],
      actions: false,
      renderer: "canvas",
      tooltip: { theme: "aquasim" },
    });
    plot.result = result;
    plot.view = result.view;
    plot.drawing = false;
    plot.range = [0, whole];
    element.dataset.drawn = scheme.matches ? "dark" : "light";
    if (element.closest(".timebar")) listen(plot.view);
    show(plot);
  }

  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      const plot = plots.get(target);
      plot.near = isIntersecting;
      if (!isIntersecting) continue;
      if (plot.view) refresh(target);
      else draw(target);
    }
  }, { rootMargin: "300px" });

  function refresh(element) {
    const plot = plots.get(element);
    if (!plot.view || !plot.near) return;
    if (element.dataset.drawn !== (scheme.matches ? "dark" : "light")) draw(element);
    else show(plot);
  }

  for (const element of document.querySelectorAll(".plot")) {
    plots.set(element, { figure: page.figures[element.dataset.figure] });
    observer.observe(element);
  }
  const all = () => { for (const element of plots.keys()) refresh(element); };
  scheme.addEventListener("change", all);
  addEventListener("beforeprint", () => { for (const element of plots.keys()) if (!plots.get(element).view) draw(element); });

  // --- the time shown --------------------------------------------------------------------------------------

  function show(plot) {
    if (!plot.figure.window || (plot.range[0] === range[0] && plot.range[1] === range[1])) return;
    plot.range = range;
    plot.view.signal("begin", range[0]).signal("until", range[1]).runAsync();
  }

  function set(begin, until) {
    const span = Math.min(whole, Math.max(until - begin, whole / 20000));
    const start = Math.min(Math.max(begin, 0), whole - span);
    range = [start, start + span];
    if (pending) return;
    pending = requestAnimationFrame(() => {
      pending = 0;
      all();
      tell();
    });
  }

  const number = new Intl.NumberFormat("en", { maximumSignificantDigits: 5 });
  function tell() {
    const text = range[1] - range[0] >= whole ? "" : `${number.format(range[0])} to ${number.format(range[1])} s`;
    for (const output of document.querySelectorAll(".timebar output")) output.textContent = text;
    document.documentElement.dataset.range = JSON.stringify(range);
  }

  function move(share) {
    const step = (range[1] - range[0]) * share;
    set(range[0] + step, range[1] + step);
  }

  function zoom(factor, at = 0.5) {
    const span = range[1] - range[0];
    const fixed = range[0] + span * at;
    set(fixed - span * factor * at, fixed + span * factor * (1 - at));
  }

  const actions = {
    in: () => zoom(0.5), out: () => zoom(2), back: () => move(-0.25), on: () => move(0.25), all: () => set(0, whole),
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-zoom]");
    if (button) actions[button.dataset.zoom]();
  });

  const keys = { ArrowLeft: "back", ArrowRight: "on", "+": "in", "=": "in", "-": "out", 0: "all" };
  document.addEventListener("keydown", (event) => {
    const plot = event.target.closest && event.target.closest(".plot[tabindex]");
    const action = actions[keys[event.key]];
    if (!plot || !action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
  });

  function listen(view) {
    view.addSignalListener("brush", (_, brush) => {
      if (brush.t && brush.t[1] - brush.t[0] > whole / 5000) set(brush.t[0], brush.t[1]);
    });
  }

  // --- dragging and the wheel, on figures ------------------------------------------------------------------

  const inside = (plot, event, element) => {
    const left = plot.view.origin()[0];
    return (event.clientX - element.getBoundingClientRect().left - left) / plot.view.signal("width");
  };

  for (const element of document.querySelectorAll(".plot[tabindex]")) {
    const plot = plots.get(element);
    let held = null;
    element.addEventListener("pointerdown", (event) => {
      if (plot.view && event.button === 0) held = { x: event.clientX, range };
    });
    addEventListener("pointermove", (event) => {
      if (!held) return;
      const shift = ((held.x - event.clientX) / plot.view.signal("width")) * (held.range[1] - held.range[0]);
      element.classList.add("moving");
      set(held.range[0] + shift, held.range[1] + shift);
    });
    for (const name of ["pointerup", "pointercancel"]) {
      addEventListener(name, () => { held = null; element.classList.remove("moving"); });
    }
    element.addEventListener("wheel", (event) => {
      if (!plot.view || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      zoom(Math.exp(event.deltaY / 300), Math.min(1, Math.max(0, inside(plot, event, element))));
    }, { passive: false });
  }
})();
