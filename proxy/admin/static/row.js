// One row of the table of exports. An update changes only what differs.

import { h, setAttribute, setText } from "./dom.js";
import { at, between, bytes, clock, duration, full, rough, short, subject, visible } from "./format.js";

/** Return whether a job has ended. */
export const ended = (row) => row.status !== "Running";

/** Return the word of a job's state, and its colour. */
export function state(row) {
  return ended(row) ? row.status : row.phase;
}

/** Return the name of a job in sentences. */
export function named(row) {
  const { verb, kind, id } = subject(row);
  return `${verb} of ${kind}${id ? ` ${short(id)}` : ""}`;
}

/** Return whether the file of a job is there to be fetched. */
export const available = (row) => row.result?.state === "Available";

/** Return the seconds that a job took, or has taken so far. */
export function taken(row, now) {
  return ended(row) ? between(row.creationTime, row.endTime) : now - at(row.creationTime);
}

/** The row of a job. `open` shows the details. */
export class JobRow {
  constructor(job, open) {
    const { verb, kind, id } = subject(job);
    this.link = h(
      "a",
      { href: `?job=${encodeURIComponent(job.id)}`, class: "open", onclick: open },
      h("span", { class: "verb" }, verb),
      h("span", { class: "kind" }, ` ${kind}`),
    );
    this.badge = h("span", { class: "badge" });
    this.attempt = h("span", { class: "tag", hidden: true });
    this.bar = h("progress", { "aria-label": `Progress of ${named(job)}` });
    this.sentence = h("p", { class: "sentence", dir: "auto" });
    this.pace = h("p", { class: "pace" });
    this.size = cell("Size", "size");
    this.accepted = h("time", { datetime: job.creationTime, title: full(at(job.creationTime)) });
    this.age = h("small", {});
    this.taken = cell("Took", "took");
    this.file = h("span", {});
    this.expires = h("small", {});
    const object = id === null ? [] : [h("bdi", { class: "code", title: visible(id) }, short(id))];
    const session = job.request.restoreSessionId;
    this.element = h(
      "tr",
      { role: "row", id: `job-${job.id}` },
      h(
        "th",
        { role: "rowheader", scope: "row", class: "what" },
        this.link,
        h("small", {}, ...object, session ? h("bdi", { class: "session", title: `Restore session ${visible(session)}` }, ` ${object.length ? "in " : ""}session ${short(session)}`) : null),
      ),
      h(
        "td",
        { role: "cell", "data-label": "State", class: "state" },
        h("div", { class: "badges" }, this.badge, this.attempt, job.origin === "Rescue" ? h("span", { class: "tag", title: "A synchronous export that runs as a job, so that a retry can join it" }, "rescue") : null),
        this.bar,
        this.sentence,
        this.pace,
      ),
      this.size,
      cell("Accepted", "when", this.accepted, this.age),
      this.taken,
      cell("Caller", "caller", h("bdi", { class: "code", title: `Hash of the caller: ${job.owner}` }, String(job.owner).slice(0, 8)), job.client ? h("small", {}, h("bdi", {}, visible(job.client))) : null),
      cell("File", "file", this.file, this.expires),
    );
  }

  /** Show the job as it is now. */
  update(job, now) {
    if (job !== this.job) this.change(job);
    this.job = job;
    this.tick(now);
  }

  /** Show what changes with a new version of the job. */
  change(job) {
    const over = ended(job);
    const word = state(job);
    setAttribute(this.element, "data-state", word);
    setText(this.badge, word);
    setAttribute(this.badge, "class", `badge ${word.toLowerCase()}`);
    this.attempt.hidden = job.attempt < 2;
    setText(this.attempt, `attempt ${job.attempt}`);
    this.bar.hidden = over || word === "Queued" || word === "Suspended";
    if (job.progress.percent === null || word === "Generating") this.bar.removeAttribute("value");
    else {
      setAttribute(this.bar, "max", 100);
      setAttribute(this.bar, "value", job.progress.percent);
    }
    const sentence = over && job.status === "Success" ? "" : visible(job.message);
    this.sentence.hidden = sentence === "" || word === "Transferring";
    setText(this.sentence, sentence);
    setAttribute(this.sentence, "title", sentence);
    setText(this.size, bytes(job.result?.size ?? job.itemSizeBytes ?? null));
    setText(this.accepted, clock(at(job.creationTime)));
    setText(this.pace, over ? "" : pace(job));
    const [text, kind] = file(job);
    setText(this.file, text);
    setAttribute(this.file, "class", kind);
  }

  /** Show what changes with the time. */
  tick(now) {
    setText(this.age, `${rough(now - at(this.job.creationTime))} ago`);
    setText(this.taken, duration(taken(this.job, now)));
    const expires = available(this.job) ? at(this.job.expirationTime) : null;
    setText(this.expires, expires === null ? "" : `expires in ${rough(expires - now)}`);
  }
}

/** Return the percentage, bytes, rate and time left of a running job. */
export function pace(job) {
  const { percent, bytesReceived, bytesTotal, bytesPerSecond, secondsRemaining } = job.progress;
  const parts = [];
  if (job.phase !== "Transferring") return "";
  if (percent !== null) parts.push(`${percent} %`);
  parts.push(bytesTotal === null ? bytes(bytesReceived) : `${bytes(bytesReceived)} of ${bytes(bytesTotal)}`);
  if (bytesPerSecond) parts.push(`${bytes(bytesPerSecond)}/s`);
  if (secondsRemaining !== null) parts.push(`${duration(secondsRemaining)} left`);
  return parts.join(" · ");
}

/** Return what became of the file of a job, and a class. */
export function file(job) {
  if (!ended(job) || !job.result) return ["–", "none"];
  const { count, bytes: sent, whole } = job.delivered;
  if (count && !whole && sent < job.result.size && available(job)) {
    return [`Fetched in part, ${bytes(sent)}`, "waiting"];
  }
  const fetched = count > 1 ? `Fetched ${count} times` : "Fetched";
  switch (job.result.state) {
    case "Available":
      return count ? [fetched, "fetched"] : ["Not fetched yet", "waiting"];
    case "Expired":
      return count ? [`${fetched}, expired`, "none"] : ["Expired, never fetched", "waiting"];
    case "Deleted":
      return count ? [`${fetched}, deleted`, "none"] : ["Deleted", "none"];
    default:
      return ["–", "none"];
  }
}

function cell(label, name, ...children) {
  return h("td", { role: "cell", "data-label": label, class: name }, ...children);
}
