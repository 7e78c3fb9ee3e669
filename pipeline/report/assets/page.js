// Draws the figures of a page from the data beside it, in the reader's theme, and follows clicks to a trial.
(() => {
  "use strict";
  const study = JSON.parse(document.getElementById("study").textContent);
  const root = document.documentElement;
  const wantsDark = window.matchMedia("(prefers-color-scheme: dark)");
  let selected = null;
  let showDominated = true;
  let printing = false;
  const PAPER = 680; // pixels that fit between the margins of A4 and of letter paper

  const theme = () => {
    if (printing) return "light";
    const asked = document.getElementById("theme")?.value ?? "auto";
    return asked === "auto" ? (wantsDark.matches ? "dark" : "light") : asked;
  };

  // "@front" -> the theme's colour, everywhere in a figure.
  const painted = (node, colours) => {
    if (typeof node === "string") return node[0] === "@" && node.slice(1) in colours ? colours[node.slice(1)] : node;
    if (Array.isArray(node)) return typeof node[0] === "number" ? node : node.map((entry) => painted(entry, colours));
    if (node && typeof node === "object")
      return Object.fromEntries(Object.entries(node).map(([key, entry]) => [key, painted(entry, colours)]));
    return node;
  };

  // The selected trial once more, on top of everything: a ring where it is a point, a thick line where it is a line.
  const highlight = (chart) => {
    for (const trace of chart.data) {
      if (!Array.isArray(trace.customdata) || trace.meta?.still) continue;
      const line = trace.meta?.line;
      const at = trace.customdata.flatMap((number, index) => (number === selected ? [index] : []));
      if (!at.length) continue;
      const some = line ? at : at.slice(0, 1);
      return [{
        type: "scatter", mode: line ? "lines+markers" : "markers", hoverinfo: "skip", showlegend: false,
        x: some.map((index) => trace.x[index]), y: some.map((index) => trace.y[index]),
        line: { color: "@ink", width: 4 },
        marker: line ? { size: 7, color: "@ink" } : { symbol: "circle-open", size: 25, color: "@ink", line: { width: 3 } },
      }];
    }
    return [];
  };

  const draw = (chart) => {
    const place = document.getElementById("chart-" + chart.name);
    const kept = chart.data.filter((trace) => showDominated || trace.meta?.kind !== "dominated");
    const colours = study.themes[theme()];
    const data = painted(kept.concat(selected === null ? [] : highlight(chart)), colours);
    const size = printing ? { width: PAPER, autosize: false } : { width: undefined, autosize: true };
    const layout = painted({ ...chart.layout, ...size, height: chart.height, uirevision: chart.name }, colours);
    const config = {
      // Nothing leaves this page: no sharing, no logo that links elsewhere.
      responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d", "sendChartToCloud", "sendDataToCloud"],
      toImageButtonOptions: { format: "svg", filename: chart.name },
    };
    Plotly.react(place, data, layout, config);
    if (!place.dataset.wired) {
      place.dataset.wired = "yes";
      place.on("plotly_click", (event) => {
        const number = event.points[0]?.customdata;
        if (Number.isInteger(number) && number in study.trials) choose(number);
      });
    }
  };

  const drawAll = () => {
    root.dataset.theme = theme();
    study.charts.forEach(draw);
  };

  const element = (tag, text, className) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  };

  const list = (title, pairs) => {
    const box = element("div");
    box.append(element("h3", title));
    const dl = element("dl");
    for (const [key, shown] of pairs) dl.append(element("dt", key), element("dd", shown));
    box.append(dl);
    return box;
  };

  const copier = (pre) => {
    const button = element("button", "copy", "copy");
    button.type = "button";
    button.addEventListener("click", () => {
      const range = document.createRange();
      range.selectNodeContents(pre);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      if (navigator.clipboard) navigator.clipboard.writeText(pre.textContent).catch(() => {});
      else document.execCommand("copy");
      button.textContent = "copied";
      setTimeout(() => (button.textContent = "copy"), 1500);
    });
    return button;
  };

  const choose = (number) => {
    selected = number;
    const trial = study.trials[number];
    const place = document.getElementById("trial");
    const head = element("div", undefined, "head");
    head.append(element("strong", `Trial ${number}` + (trial.picks ? ` ◆ ${trial.picks}` : "") + ` (${trial.state})`));
    const close = element("button", "close", "close");
    close.type = "button";
    head.append(close);
    place.replaceChildren(head);
    if (trial.reason) place.append(element("p", trial.reason, "quiet"));
    const columns = element("div", undefined, "columns");
    columns.append(list("Measured", trial.metrics), list("Parameters", trial.params));
    const pre = element("pre", trial.command);
    const title = element("h3", "Run it again ");
    title.append(copier(pre));
    place.append(columns, title, pre);
    place.hidden = false;
    document.body.classList.add("open");
    document.querySelectorAll("tr[data-trial]").forEach((row) =>
      row.classList.toggle("chosen", Number(row.dataset.trial) === number));
    history.replaceState(null, "", `#trial=${number}`);
    drawAll();
  };
  const unchoose = () => {
    selected = null;
    document.getElementById("trial").hidden = true;
    document.body.classList.remove("open");
    document.querySelectorAll("tr.chosen").forEach((row) => row.classList.remove("chosen"));
    history.replaceState(null, "", location.pathname + location.search);
    drawAll();
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.trial");
    if (button) choose(Number(button.dataset.trial));
    if (event.target.closest("#trial .close")) unchoose();
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && selected !== null) unchoose(); });
  document.querySelectorAll("pre.command").forEach((pre) => pre.before(copier(pre)));
  document.getElementById("theme")?.addEventListener("change", drawAll);
  document.getElementById("dominated")?.addEventListener("change", (event) => {
    showDominated = event.target.checked;
    drawAll();
  });
  wantsDark.addEventListener("change", drawAll);
  // Paper is white whatever the screen was, and as wide as paper.
  // What is folded on the screen is whole on paper.
  const unfold = (open) => document.querySelectorAll("details").forEach((one) => {
    if (open && !one.open) { one.open = true; one.dataset.unfolded = "yes"; }
    else if (!open && one.dataset.unfolded) { one.open = false; delete one.dataset.unfolded; }
  });
  window.addEventListener("beforeprint", () => { printing = true; unfold(true); drawAll(); });
  window.addEventListener("afterprint", () => { printing = false; unfold(false); drawAll(); });
  drawAll();
  const asked = Number(/^#trial=(\d+)$/.exec(location.hash)?.[1] ?? NaN);
  if (asked in study.trials) choose(asked);
})();
