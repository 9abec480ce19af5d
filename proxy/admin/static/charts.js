// Charts of the last hours, from /api/history.

import uPlot from "./vendor/uPlot.esm.js";
import { get } from "./api.js";
import { byId, h, setAttribute, setText } from "./dom.js";
import { bytes, number } from "./format.js";

const HEIGHT = 120;
const count = (value) => (value === null || value === undefined ? "–" : number(Math.round(value * 100) / 100));
const seconds = (value) => (value === null || value === undefined ? "–" : value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(1)} s`);

// A chart is shown if the history has all its members.
const CHARTS = [
  {
    id: "traffic",
    title: "Data",
    unit: "per minute",
    value: bytes,
    lines: [
      { key: "storedBytes", label: "stored", colour: "--blue", fill: true },
      { key: "servedBytes", label: "served", colour: "--green" },
    ],
  },
  {
    id: "work",
    title: "Exports",
    unit: "at a time",
    value: count,
    stepped: true,
    lines: [
      { key: "running", label: "running", colour: "--blue", fill: true },
      { key: "queued", label: "queued", colour: "--amber" },
    ],
  },
  {
    id: "ends",
    title: "Exports ended",
    unit: "per minute",
    value: count,
    bars: true,
    lines: [
      { key: "succeeded", label: "succeeded", colour: "--green" },
      { key: "failed", label: "failed", colour: "--red" },
    ],
  },
  {
    id: "requests",
    title: "Requests",
    unit: "per second",
    value: count,
    lines: [
      { key: "successes", label: "2–3xx", colour: "--green", fill: true },
      { key: "clientErrors", label: "4xx", colour: "--amber" },
      { key: "serverErrors", label: "5xx", colour: "--red" },
    ],
  },
  {
    id: "latency",
    title: "First byte",
    unit: "relayed requests",
    value: seconds,
    lines: [
      { key: "p50", label: "median", colour: "--blue", fill: true },
      { key: "p99", label: "99 %", colour: "--amber" },
    ],
  },
];

export class Charts {
  constructor() {
    this.shown = new Map();
    this.minutes = 60;
    this.history = null;
    const section = byId("charts");
    section.addEventListener("change", (event) => {
      this.minutes = Number(event.target.value);
      this.load().catch(() => {});
    });
    new ResizeObserver(() => this.resize()).observe(byId("plots"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
  }

  async load() {
    this.history = await get(`/api/history?minutes=${this.minutes}`);
    this.draw();
  }

  redraw() {
    for (const { plot } of this.shown.values()) plot.destroy();
    for (const { figure } of this.shown.values()) figure.remove();
    this.shown.clear();
    if (this.history) this.draw();
  }

  draw() {
    const points = readHistory(this.history);
    byId("charts").hidden = points.times.length === 0;
    if (points.times.length === 0) return;
    for (const chart of CHARTS) {
      if (!chart.lines.every(({ key }) => points[key])) continue;
      const data = [points.times, ...chart.lines.map(({ key }) => points[key])];
      const known = this.shown.get(chart.id);
      if (known) known.plot.setData(data);
      else this.add(chart, data);
      this.describe(chart, points);
    }
    this.resize(); // each chart has made those before it narrower
  }

  add(chart, data) {
    const place = h("div", { class: "plot" });
    const figure = h(
      "figure",
      { id: `chart-${chart.id}` },
      h("figcaption", {}, h("strong", {}, chart.title), h("small", {}, ` ${chart.unit}`)),
      place,
      h("p", { class: "hidden" }),
    );
    byId("plots").append(figure);
    const plot = new uPlot(options(chart, place.clientWidth || 300), data, place);
    setAttribute(place.querySelector("canvas"), "aria-hidden", "true");
    const head = place.querySelector(".u-legend");
    setAttribute(head, "aria-hidden", "true");
    this.shown.set(chart.id, { plot, figure, place });
  }

  /** Say in words what the chart shows. */
  describe(chart, points) {
    const { figure } = this.shown.get(chart.id);
    const parts = chart.lines.map(({ key, label }) => {
      const values = points[key].filter((value) => value !== null);
      const last = values.at(-1) ?? 0;
      return `${label}: now ${chart.value(last)}, at most ${chart.value(Math.max(0, ...values))}`;
    });
    setText(figure.querySelector("p"), `${chart.title} ${chart.unit}. ${parts.join("; ")}.`);
  }

  resize() {
    for (const { plot, place } of this.shown.values()) {
      const width = place.clientWidth;
      if (width && width !== plot.width) plot.setSize({ width, height: HEIGHT });
    }
  }
}

/** Return columns of values by name, and the times in Unix seconds. */
export function readHistory(history) {
  const minutes = history.results;
  const columns = { times: minutes.map((each) => Date.parse(each.at) / 1000) };
  const take = (name, read) => {
    const values = minutes.map(read);
    if (values.some((value) => value !== undefined && value !== null)) {
      columns[name] = values.map((value) => value ?? null);
    }
  };
  for (const name of ["storedBytes", "servedBytes", "running", "queued", "p50", "p99"]) {
    take(name, (each) => each[name]);
  }
  const total = (found, names) => found && names.reduce((sum, name) => sum + (found[name] ?? 0), 0);
  take("succeeded", (each) => total(each.finished, ["Success", "Warning"]));
  take("failed", (each) => total(each.finished, ["Failed"]));
  const answered = (found, digits) =>
    Object.entries(found ?? {}).reduce(
      (sum, [code, count]) => sum + (digits.includes(code[0]) ? count / 60 : 0),
      0,
    );
  take("successes", (each) => answered(each.requests, "123"));
  take("clientErrors", (each) => answered(each.requests, "4"));
  take("serverErrors", (each) => answered(each.requests, "5"));
  return columns;
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function resolved(name) {
  // light-dark() is resolved where it is used
  const probe = byId("probe");
  probe.className = name.slice(2);
  return getComputedStyle(probe).color || colour(name);
}

function options(chart, width) {
  const axis = resolved("--quiet");
  const grid = resolved("--line");
  const bars = (place) => chart.bars && uPlot.paths.bars({ size: [0.4, 8], align: place ? 1 : -1 });
  const stepped = chart.stepped ? uPlot.paths.stepped({ align: 1 }) : undefined;
  return {
    width,
    height: HEIGHT,
    padding: [8, 16, 0, -4],
    cursor: { y: false, sync: { key: "minutes" }, drag: { x: false, y: false } },
    legend: { live: true },
    hooks: { setCursor: [showLast], setData: [showLast], ready: [showLast] },
    scales: { y: { range: (_, low, high) => [0, Math.max(high * 1.1, least(chart.value))] } },
    axes: [
      { stroke: axis, grid: { show: false }, ticks: { show: false }, size: 28, space: 60, values: "{HH}:{mm}" },
      {
        stroke: axis,
        grid: { stroke: grid, width: 1 },
        ticks: { show: false },
        size: 62,
        space: 36,
        incrs: steps(chart.value),
        values: (_, ticks) => ticks.map((tick) => chart.value(tick)),
      },
    ],
    series: [
      { label: "at", value: "{HH}:{mm}" },
      ...chart.lines.map((line, place) => ({
        label: line.label,
        stroke: resolved(line.colour),
        width: chart.bars ? 0 : 1.5,
        fill: chart.bars ? resolved(line.colour) : line.fill ? faded(resolved(line.colour)) : undefined,
        points: { show: false },
        paths: bars(place) || stepped,
        value: (_, value) => chart.value(value),
      })),
    ],
  };
}

/** Return the least that the height of a chart stands for, so that noise looks like noise. */
function least(value) {
  if (value === seconds) return 0.01;
  return value === bytes ? 1024 ** 2 : 1;
}

/** Return the distances that grid lines may have. */
function steps(value) {
  const found = value === seconds ? [0.001, 0.005, 0.01, 0.05, 0.1, 0.5] : [];
  for (let power = 0; power <= 5; power += 1) {
    for (const step of [1, 2, 5, 10, 20, 50, 100, 200, 500]) {
      found.push(step * (value === bytes ? 1024 : 1000) ** power);
    }
  }
  return found;
}

/** Show the last values in the legend while the pointer is elsewhere. */
function showLast(plot) {
  if (plot.cursor.idx === null || plot.cursor.idx === undefined) {
    plot.setLegend({ idx: plot.data[0].length - 1 }, false);
  }
}

function faded(rgb) {
  return rgb.replace(/^rgb\(/, "rgba(").replace(/\)$/, ", 0.14)");
}
