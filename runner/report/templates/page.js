// Draws the curves of the page so that they can be hovered and their lines hidden, and says how
// long ago times are. Without it the page has pictures. All texts are set as text, never as HTML.
"use strict";
(() => {
  const curves = JSON.parse(document.getElementById("curves").textContent);
  const root = document.documentElement;
  const ink = (name) => () => getComputedStyle(root).getPropertyValue(name).trim();
  const charts = [];
  const DASHES = [[], [7, 3], [2, 3], [8, 3, 2, 3]];
  const HEIGHT = 210;
  const SILENT = 15 * 60; // seconds; a worker that lives rewrites its page within 10 minutes
  const FONT = "11px system-ui, sans-serif";

  // what is hidden stays hidden when the page is loaded again
  const KEPT = "hidden lines";
  let hidden = new Set();
  try { hidden = new Set(JSON.parse(sessionStorage.getItem(KEPT))); } catch { /* not allowed here */ }
  const line = (chart, label) => JSON.stringify([chart.group, label]);
  function keep() {
    try { sessionStorage.setItem(KEPT, JSON.stringify([...hidden])); } catch { /* likewise */ }
  }

  function toggled(plot, index, change) {
    if (index === null || change.show === undefined) return;
    const me = charts.find((one) => one.plot === plot);
    const label = plot.series[index].label;
    hidden[change.show ? "delete" : "add"](line(me, label));
    keep();
    for (const one of charts) {
      const place = one.plot.series.findIndex((series) => series.label === label);
      if (one !== me && one.group === me.group && place > 0) {
        one.plot.setSeries(place, { show: change.show }, false);
        pressed(one.plot);
      }
    }
    pressed(plot);
  }

  function pressed(plot) { // for those who hear the page
    plot.root.querySelectorAll(".u-legend th").forEach((head, place) => {
      if (place > 0) head.setAttribute("aria-pressed", String(plot.series[place].show));
    });
  }

  function marks(curve) {
    return (plot) => {
      const { ctx, bbox } = plot;
      ctx.save();
      ctx.strokeStyle = ctx.fillStyle = ink("--muted")();
      const upright = (epoch, dash) => {
        const x = plot.valToPos(epoch, "x", true);
        if (x < bbox.left || x > bbox.left + bbox.width) return;
        ctx.setLineDash(dash);
        ctx.beginPath();
        ctx.moveTo(x, bbox.top);
        ctx.lineTo(x, bbox.top + bbox.height);
        ctx.stroke();
        if (!dash.length) return;
        ctx.beginPath(); // a triangle, as in the pictures
        const size = 4 * devicePixelRatio;
        ctx.moveTo(x - size, bbox.top - size);
        ctx.lineTo(x + size, bbox.top - size);
        ctx.lineTo(x, bbox.top + size);
        ctx.fill();
      };
      for (const epoch of curve.marks) upright(epoch, [3, 3]);
      if (curve.inherited) upright(curve.inherited, []);
      ctx.restore();
    };
  }

  const number = (value) => (value === 0 ? "0" : String(Number(value.toPrecision(4))));
  const shown = (curve) => (plot, value) =>
    value == null ? "–" : curve.percent ? `${(100 * value).toFixed(1)}%` : number(value);
  const axis = { stroke: ink("--muted"), font: FONT, ticks: { show: false } };

  function draw(figure) {
    const curve = curves[Number(figure.dataset.curve)];
    const [first, last] = [curve.epochs[0] ?? 0, curve.epochs.at(-1) ?? 1];
    const whole = (plot, low, high) => (low <= first && high >= last ? [0, curve.last] : [low, high]);
    const plot = new uPlot(
      {
        width: figure.clientWidth,
        height: HEIGHT,
        title: curve.title,
        cursor: { sync: { key: curve.group }, points: { size: 6 } },
        scales: { x: { time: false, range: whole } },
        axes: [
          { ...axis, size: 26, grid: { show: false }, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10000, 100000] },
          { ...axis, size: 52, grid: { stroke: ink("--grid"), width: 1 },
            values: (plot, values) => values.map((value) => curve.percent ? `${number(100 * value)}%` : number(value)) },
        ],
        legend: {
          markers: { stroke: (plot, place) => `var(--series-${curve.lines[place - 1].colour})` },
        },
        series: [
          { label: "epoch" },
          ...curve.lines.map((one) => ({
            label: one.label,
            stroke: ink(`--series-${one.colour}`),
            dash: DASHES[one.dash],
            width: 1.6,
            show: !hidden.has(line(curve, one.label)),
            value: shown(curve),
          })),
        ],
        hooks: { draw: [marks(curve)], setSeries: [toggled] },
      },
      [curve.epochs, ...curve.lines.map((one) => one.values)],
      figure,
    );
    charts.push({ plot, group: curve.group });
    plot.root.querySelectorAll(".u-legend th").forEach((head, place) => {
      if (place === 0) return;
      head.tabIndex = 0;
      head.setAttribute("role", "button");
      head.title = "hide, or show again";
      head.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        head.click();
      });
    });
    pressed(plot);
    figure.classList.add("drawn");
    new ResizeObserver(() => {
      if (figure.clientWidth) plot.setSize({ width: figure.clientWidth, height: HEIGHT });
    }).observe(figure);
  }

  // only what is near the window: a page may have hundreds
  const near = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      draw(target);
    }
  }, { rootMargin: "600px" });
  document.querySelectorAll("figure[data-curve]").forEach((figure) => near.observe(figure));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const { plot } of charts) plot.redraw();
  });

  const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  function tell() {
    for (const time of document.querySelectorAll("time")) {
      const seconds = Math.max(0, (Date.now() - Date.parse(time.dateTime)) / 1000);
      const [unit, name] = UNITS.find(([one]) => seconds >= one) ?? [1, "s"];
      const ago = `${Math.floor(seconds / unit)} ${name} ago`;
      time.title = ago;
      if (time.id !== "made") continue;
      time.dataset.ago = ` (${ago})`;
      const silent = document.getElementById("silent");
      if (silent) silent.hidden = seconds < SILENT || !document.querySelector("meta[http-equiv=refresh]");
    }
  }
  tell();
  setInterval(tell, 5000);
})();
