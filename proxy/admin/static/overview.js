// The head of the page: the verdict, and the figures of /api/status.

import { byId, h, setAttribute, setText, svg } from "./dom.js";
import { at, bytes, clock, full, plural, rough, visible } from "./format.js";

const REACHABLE = { true: ["Up", "good"], false: ["Down", "bad"] };

/** Show the verdict. `lostAt` is when the connection to the proxy was lost, null while it works. */
export function showVerdict(status, lostAt) {
  const problems = lostAt === null ? (status.problems ?? []) : [];
  const worst = problems.some((each) => each.level === "error") ? "bad" : "warning";
  const level = lostAt !== null ? "stale" : problems.length ? worst : "good";
  const section = byId("verdict");
  setAttribute(section, "class", `verdict is-${level}`);
  const [first, ...rest] = problems.map(sentence);
  const headline =
    lostAt !== null
      ? `No connection to the proxy since ${clock(lostAt, true)}. What you see is older.`
      : (first ?? "All is well");
  setText(byId("headline"), headline);
  document.title = `${{ good: "✓", warning: "!", bad: "✗", stale: "…" }[level]} ${headline}`;
  const list = byId("problems");
  if (list.dataset.shown !== rest.join("\n")) {
    list.dataset.shown = rest.join("\n");
    list.replaceChildren(...rest.map((text) => h("li", {}, text)));
    list.hidden = rest.length === 0;
  }
  setText(byId("summary"), summary(status.jobs));
  const { failedLastDay: failed, notFetched: waiting } = status.attention;
  showLink("failures", failed, `${plural(failed, "export")} failed in the last 24 hours`);
  showLink("unfetched", waiting, `${plural(waiting, "file")} not fetched yet`);
}

function showLink(id, count, text) {
  const link = byId(id);
  link.hidden = !count;
  setText(link, count ? text : "");
}

/** Return a problem as a sentence, with its time in local time. */
function sentence({ text, since, reason }) {
  const from = since ? ` since ${clock(at(since))}` : "";
  return visible(`${text}${from}${reason ? `: ${reason}` : ""}`);
}

function summary(jobs) {
  const parts = [];
  if (jobs.running) parts.push(`${jobs.running} running`);
  if (jobs.queued) parts.push(`${jobs.queued} queued`);
  if (jobs.suspended) parts.push(`${jobs.suspended} suspended`);
  return parts.length ? `${parts.join(", ")}.` : "No export is running.";
}

/** Show the figures. */
export function showFigures(status, now) {
  const { upstream, jobs, storage } = status;
  const known = typeof upstream.reachable === "boolean";
  const [word, kind] = REACHABLE[String(upstream.reachable)] ?? ["Not known yet", "quiet"];
  setText(byId("upstream-state"), word);
  setAttribute(byId("upstream-state"), "class", `figure ${kind}`);
  setText(byId("upstream-url"), visible(upstream.url));
  const since = at(upstream.since);
  setText(
    byId("upstream-since"),
    since === null || !known ? "" : `since ${clock(since)} (${rough(now - since)})`,
  );
  setText(byId("upstream-reason"), upstream.reachable ? "" : visible(upstream.reason ?? ""));
  setText(byId("jobs-running"), of(jobs.running, jobs.maxRunning));
  setText(byId("jobs-queued"), of(jobs.queued, jobs.maxQueued));
  setText(byId("jobs-suspended"), String(jobs.suspended ?? 0));
  showStorage(storage);
  setText(byId("version"), visible(status.version));
  const started = at(status.startedAt);
  const up = byId("started");
  setText(up, `${rough(now - started)}`);
  setAttribute(up, "title", full(started));
  setText(byId("started-at"), `since ${clock(started)}`);
  showReplicas(status.replicas ?? [], now);
}

function of(count, limit) {
  return limit ? `${count} of ${limit}` : String(count);
}

function showStorage(storage) {
  const { usedBytes: used, promisedBytes: promised, freeBytes: free } = storage;
  const known = used !== null && used !== undefined;
  const total = storage.limitBytes || used + free || 1;
  const share = (count) => Math.max(0, Math.min(100, (100 * (count ?? 0)) / total));
  const bar = byId("storage-bar");
  const parts = [
    ["used", 0, share(used)],
    ["promised", share(used), Math.min(share(promised), 100 - share(used))],
  ];
  if (storage.minFreeBytes) {
    const left = share(total - storage.minFreeBytes);
    parts.push(["reserve", left, 100 - left]);
  }
  bar.replaceChildren(
    ...parts.map(([name, x, width]) =>
      svg("rect", { class: name, x: `${x}%`, width: `${width}%`, height: "100%" }),
    ),
  );
  const label = known
    ? `${bytes(used)} used, ${bytes(promised)} promised to running exports, ${bytes(free)} free`
    : "not known";
  setAttribute(bar, "aria-label", `Storage: ${label}`);
  setText(byId("storage-free"), bytes(free));
  const low = known && free < (storage.minFreeBytes ?? 0);
  setAttribute(byId("storage-free"), "class", low ? "figure bad" : "figure");
  setText(byId("storage-used"), bytes(used));
  setText(byId("storage-promised"), bytes(promised));
  setText(byId("storage-reserve"), bytes(storage.minFreeBytes ?? null));
}

function showReplicas(replicas, now) {
  const list = byId("replicas");
  const shown = JSON.stringify(replicas.map((each) => [each.id, each.running, age(each, now)]));
  if (list.dataset.shown === shown) return;
  list.dataset.shown = shown;
  list.replaceChildren(
    ...replicas.map((each) =>
      h(
        "li",
        {},
        h("bdi", { class: "code" }, visible(each.id).slice(0, 24)),
        ` ${each.running} running, ${age(each, now)}`,
      ),
    ),
  );
  byId("replicas-box").hidden = replicas.length === 0;
}

function age(replica, now) {
  const seconds = now - at(replica.lastSeen);
  return seconds < 30 ? "alive" : `last seen ${rough(seconds)} ago`;
}
