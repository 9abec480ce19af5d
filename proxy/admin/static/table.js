// The table of exports: what it shows is the query of the page's address, which is also that of
// /api/jobs. Its links work without scripts; here they load the rows and not the page.

import { get } from "./api.js";
import { byId, h, onFrame, setAttribute, setText } from "./dom.js";
import { number, plural } from "./format.js";
import { JobRow, ended, named, state } from "./row.js";

const PARAMETERS = ["status", "phase", "delivered", "q", "sort", "offset", "limit"];
const FILTERS = ["status", "phase", "delivered"];
const DEFAULTS = { sort: "-created", offset: "0", limit: "50" };
// Milliseconds from a change to the rows being loaded again, and between two loads.
const SOON = 300;
const APART = 1500;
// Milliseconds from a failed load to the next one.
const AGAIN = 5000;
// Seconds between two updates of the times of ended exports.
const SLOW_TICK = 20;
const MEASURES = 500;
const UNSEEN = 5000;

export class Table {
  /** `now` returns Unix seconds, `open` shows a job, and `failed` takes an error. */
  constructor({ now, open, failed }) {
    this.now = now;
    this.open = open;
    this.failed = failed;
    this.rows = new Map();
    this.waiting = new Map();
    this.unseen = new Map();
    this.flush = onFrame(() => this.showWaiting());
    this.body = byId("rows");
    this.loads = 0;
    this.loadedAt = 0;
    this.timer = 0;
    this.ticks = 0;
    this.query = fromAddress();
    this.listen();
  }

  listen() {
    byId("jobs").addEventListener("click", (event) => {
      const link = event.target.closest("a.view");
      if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
      event.preventDefault();
      this.show(new URLSearchParams(link.search));
    });
    const form = byId("search");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.search();
    });
    let typing = 0;
    form.elements.q.addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(() => this.search(), 250);
    });
    for (const name of ["sort", "limit"]) {
      form.elements[name].addEventListener("change", () => this.search());
    }
    addEventListener("popstate", () => {
      this.query = fromAddress();
      this.load();
    });
  }

  search() {
    const { q, sort, limit } = byId("search").elements;
    const next = new URLSearchParams(this.query);
    next.set("q", q.value);
    next.set("sort", sort.value);
    next.set("limit", limit.value);
    next.delete("offset");
    this.show(next);
  }

  show(query) {
    this.query = cleaned(query);
    const text = this.query.toString();
    history.pushState(null, "", text ? `/?${text}` : "/");
    this.load();
  }

  /** Load the rows again soon, once for many changes. */
  reload() {
    if (this.timer) return;
    const wait = Math.max(SOON, this.loadedAt + APART - performance.now());
    this.timer = setTimeout(() => this.load(), wait);
  }

  /** Load the rows. */
  async load() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.loadedAt = performance.now();
    this.loads += 1;
    const mine = this.loads;
    const query = new URLSearchParams({ ...DEFAULTS, ...Object.fromEntries(this.query) });
    setAttribute(this.body, "aria-busy", "true");
    let page;
    try {
      page = await get(`/api/jobs?${query}`);
    } catch (why) {
      if (mine === this.loads) {
        this.failed(why);
        this.timer = setTimeout(() => this.load(), AGAIN);
      }
      return;
    } finally {
      if (mine === this.loads) this.body.removeAttribute("aria-busy");
    }
    if (mine !== this.loads) return;
    if (page.results.length === 0 && page.offset > 0) {
      const last = new URLSearchParams(this.query);
      last.set("offset", String(Math.max(0, Math.floor((page.total - 1) / page.limit) * page.limit)));
      this.query = cleaned(last);
      this.load();
      return;
    }
    this.render(page);
  }

  render(page) {
    const started = performance.now();
    const now = this.now();
    const kept = new Map();
    let place = this.body.firstElementChild;
    for (const job of page.results) {
      const row = this.rows.get(job.id) ?? new JobRow(job, this.opener(job.id));
      if (!row.job || row.job.eTag <= job.eTag) row.update(job, now);
      kept.set(job.id, row);
      if (row.element === place) place = place.nextElementSibling;
      else this.body.insertBefore(row.element, place);
    }
    while (place) {
      const next = place.nextElementSibling;
      place.remove();
      place = next;
    }
    this.rows = kept;
    this.total = page.total;
    if (kept.size === 0) this.body.append(this.nothing());
    this.showControls(page);
    measured(started);
  }

  opener(id) {
    return (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      this.open(id);
    };
  }

  nothing() {
    const narrowed = FILTERS.some((name) => this.query.has(name)) || this.query.has("q");
    const text = narrowed
      ? [h("strong", {}, "No export matches."), " ", h("a", { class: "view", href: "/" }, "Show all")]
      : [
          h("strong", {}, "No exports yet."),
          " They appear here as soon as a client asks for one with ",
          h("code", {}, "Prefer: respond-async"),
          ".",
        ];
    return h(
      "tr",
      { role: "row", class: "nothing" },
      h("td", { role: "cell", colspan: "7" }, h("p", {}, ...text)),
    );
  }

  showControls(page) {
    const form = byId("search");
    if (document.activeElement !== form.elements.q) form.elements.q.value = this.query.get("q") ?? "";
    form.elements.sort.value = this.query.get("sort") ?? DEFAULTS.sort;
    form.elements.limit.value = this.query.get("limit") ?? DEFAULTS.limit;
    for (const link of byId("filters").querySelectorAll("a")) {
      const its = new URLSearchParams(link.dataset.filter);
      const current = FILTERS.every((name) => its.get(name) === this.query.get(name));
      setAttribute(link, "aria-current", current ? "true" : null);
      setAttribute(link, "href", this.address({ status: null, phase: null, delivered: null, offset: null, ...Object.fromEntries(its) }));
    }
    this.showSort();
    const first = page.total ? page.offset + 1 : 0;
    const last = page.offset + page.results.length;
    setText(byId("range"), page.total > page.results.length ? `${number(first)}–${number(last)} of ${plural(page.total, "export")}` : plural(page.total, "export"));
    this.showStep("previous", page.offset > 0, page.offset - page.limit);
    this.showStep("next", last < page.total, page.offset + page.limit);
  }

  showSort() {
    const sort = this.query.get("sort") ?? DEFAULTS.sort;
    for (const link of byId("heads").querySelectorAll("a")) {
      const key = link.dataset.sort;
      const mine = sort.replace(/^-/, "") === key;
      const falling = sort.startsWith("-");
      setAttribute(link.parentElement, "aria-sort", mine ? (falling ? "descending" : "ascending") : null);
      setAttribute(link, "href", this.address({ sort: mine && falling ? key : `-${key}`, offset: null }));
    }
  }

  showStep(id, possible, offset) {
    const link = byId(id);
    if (possible) setAttribute(link, "href", this.address({ offset: Math.max(0, offset) }));
    else link.removeAttribute("href");
    setAttribute(link, "aria-disabled", possible ? null : "true");
  }

  address(changes) {
    const query = new URLSearchParams(this.query);
    for (const [name, value] of Object.entries(changes)) {
      if (value === null) query.delete(name);
      else query.set(name, value);
    }
    const text = cleaned(query).toString();
    return text ? `/?${text}` : "/";
  }

  /** Take a changed job. */
  change(job) {
    const row = this.rows.get(job.id);
    if (!row) {
      // of one that is not shown only a new state may matter
      if (this.unseen.get(job.id) !== state(job)) this.reload();
      if (this.unseen.size >= UNSEEN) this.unseen.clear();
      this.unseen.set(job.id, state(job));
      return;
    }
    const before = this.waiting.get(job.id) ?? row.job;
    if (before.eTag > job.eTag) return;
    this.waiting.set(job.id, job);
    if (state(before) !== state(job)) {
      this.reload(); // it may belong elsewhere, or match the filter no more
      if (ended(job)) announce(`${named(job)}: ${job.status}`);
    }
    this.flush();
  }

  showWaiting() {
    const started = performance.now();
    const now = this.now();
    for (const [id, job] of this.waiting) this.rows.get(id)?.update(job, now);
    this.waiting.clear();
    measured(started);
  }

  /** Update the times that are shown; called every second. */
  tick() {
    const now = this.now();
    this.ticks += 1;
    const all = this.ticks % SLOW_TICK === 0;
    for (const row of this.rows.values()) if (all || !ended(row.job)) row.tick(now);
  }
}

/** Note how long an update took, layout included, for the developer tools and the tests. */
function measured(start) {
  byId("jobs").getBoundingClientRect();
  performance.measure("rows", { start });
  if (performance.getEntriesByName("rows").length > MEASURES) performance.clearMeasures("rows");
}

function fromAddress() {
  return cleaned(new URLSearchParams(location.search));
}

/** Return the parameters of a query that are known and not as by default. */
function cleaned(query) {
  const kept = new URLSearchParams();
  for (const name of PARAMETERS) {
    const value = query.get(name);
    if (value && value !== DEFAULTS[name]) kept.set(name, value);
  }
  return kept;
}

/** Have a screen reader say a sentence. */
export function announce(text) {
  byId("announcer").textContent = text;
}
