// The details of a job: its facts, its time line, and what an operator can do with it.

import { actions, get } from "./api.js";
import { byId, h, setText } from "./dom.js";
import { at, bytes, clock, duration, full, plural, subject, visible } from "./format.js";
import { available, ended, file, named, pace, state, taken } from "./row.js";
import { announce } from "./table.js";
import { anyone } from "./webhooks.js";

const DAY = 86400;
const EVENTS = {
  accepted: "Accepted",
  queued: "Queued",
  claimed: "Started",
  requested: "Requested from VB365",
  firstByte: "First byte",
  formatKnown: "Format known",
  interrupted: "Interrupted",
  resumed: "Resumed",
  finished: "Ended",
  delivered: "Fetched",
  expired: "File expired",
  deleted: "Deleted",
};

export class Details {
  constructor({ now, changed }) {
    this.now = now;
    this.changed = changed;
    this.dialog = byId("details");
    this.job = null;
    this.id = null;
    this.dialog.addEventListener("close", () => this.closed());
    byId("details-close").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close();
    });
  }

  /** Show the job with this id. */
  async open(id) {
    this.id = id;
    let job;
    try {
      job = await get(`/api/jobs/${encodeURIComponent(id)}`);
    } catch (why) {
      this.id = null;
      toast(why.message, "bad");
      this.forget();
      return;
    }
    if (this.id !== id) return;
    this.show(job);
    if (!this.dialog.open) this.dialog.showModal();
    const address = new URL(location.href);
    address.searchParams.set("job", id);
    history.replaceState(null, "", address);
  }

  closed() {
    const row = document.getElementById(`job-${this.id}`);
    this.id = null;
    this.job = null;
    this.forget();
    row?.querySelector("a")?.focus();
  }

  forget() {
    const address = new URL(location.href);
    address.searchParams.delete("job");
    history.replaceState(null, "", address);
  }

  /** Take a changed job. */
  change(job) {
    if (job.id === this.id && (!this.job || this.job.eTag <= job.eTag)) this.show(job);
  }

  /** Close if the job with this id is shown. */
  gone(id) {
    if (id === this.id) this.dialog.close();
  }

  show(job) {
    const focused = document.activeElement?.dataset?.action;
    this.job = job;
    const { verb, kind, id } = subject(job);
    byId("details-title").replaceChildren(
      `${verb} `,
      h("span", { class: "kind" }, kind),
      ...(id ? [" ", h("bdi", { class: "code" }, visible(id))] : []),
    );
    const word = state(job);
    byId("details-body").replaceChildren(
      h("div", { class: "badges" }, h("span", { class: `badge ${word.toLowerCase()}` }, word)),
      h("p", { class: "sentence", dir: "auto" }, visible(job.message)),
      ...(ended(job) ? [] : [this.progress(job)]),
      ...failure(job.error),
      h("div", { class: "actions" }, ...this.actions(job)),
      h("h3", {}, "Time line"),
      timeline(job),
      h("h3", {}, "Facts"),
      facts(job, this.now()),
    );
    if (focused) this.dialog.querySelector(`[data-action="${focused}"]`)?.focus();
  }

  progress(job) {
    const attributes = { "aria-label": "Progress" };
    if (job.progress.percent !== null && job.phase !== "Generating") {
      Object.assign(attributes, { max: 100, value: job.progress.percent });
    }
    return h("div", { class: "moving" }, h("progress", attributes), h("p", { class: "pace" }, pace(job)));
  }

  actions(job) {
    const made = [];
    const name = named(job);
    if (!ended(job) && job.phase !== "Cancelling") {
      made.push(
        this.button("cancel", "Cancel export", {
          question: "Cancel this export?",
          text: `${name} is stopped and what is stored of it is removed. VB365 may go on generating the file for a while.`,
          confirm: "Cancel export",
          act: () => actions.cancel(job.id),
          done: "The export is being cancelled.",
        }),
      );
    }
    if (available(job)) {
      made.push(
        this.button("extend", "Keep for 24 hours more", {
          question: "Keep the file for 24 hours more?",
          text: `It would be removed ${clock(at(job.expirationTime))}. It stays ${bytes(job.result.size)} of the storage.`,
          confirm: "Keep it",
          harmless: true,
          act: () => actions.extend(job.id, `${Math.ceil(at(job.expirationTime) - this.now()) + DAY}s`),
          done: "The file is kept for 24 hours more.",
        }),
        this.button("release", "Delete file", {
          question: "Delete the file?",
          text: `${bytes(job.result.size)} are freed. The caller can no longer fetch the file${job.delivered?.count ? "" : ", and has not fetched it yet"}. The record stays.`,
          confirm: "Delete file",
          act: () => actions.release(job.id),
          done: "The file is deleted.",
        }),
      );
    }
    if (anyone()) {
      made.push(
        this.button("notify", "Notify again", {
          question: "Send the notification again?",
          text: `All webhook receivers are notified again that this export ${ended(job) ? "has ended" : "was accepted"}.`,
          confirm: "Send it",
          harmless: true,
          act: () => actions.notify(job.id),
          done: "The notification is sent again.",
        }),
      );
    }
    made.push(
      this.button("remove", "Delete export", {
        question: "Delete this export?",
        text: `${name} ${ended(job) ? "is forgotten, with its file and its record" : "is cancelled and forgotten"}. From then on its caller gets 404.`,
        confirm: "Delete export",
        act: () => actions.remove(job.id),
        done: "The export is deleted.",
        last: true,
      }),
    );
    return made;
  }

  button(action, label, how) {
    const kind = how.harmless ? "secondary outline" : "danger outline";
    return h(
      "button",
      { type: "button", class: kind, "data-action": action, onclick: () => this.act(this.job.id, how) },
      label,
    );
  }

  async act(id, how) {
    if (!(await confirmed(how))) return;
    try {
      await how.act();
      toast(how.done, "good");
      if (how.last) this.gone(id);
      else this.change(await get(`/api/jobs/${encodeURIComponent(id)}`));
      this.changed();
    } catch (why) {
      toast(why.message, "bad");
    }
  }
}

function failure(error) {
  if (!error) return [];
  const parts = [
    h("p", { class: "why" }, h("code", {}, error.code), error.retryable ? " · trying again may help" : " · trying again does not help until the cause is gone"),
  ];
  const { upstream } = error;
  if (upstream) {
    const body = typeof upstream.body === "string" ? upstream.body : JSON.stringify(upstream.body, null, 2);
    parts.push(
      h(
        "details",
        { class: "upstream" },
        h("summary", {}, `VB365's response: ${upstream.status}${upstream.truncated ? ", shortened" : ""}`),
        h("pre", { dir: "auto", tabindex: "0" }, visible(body ?? "")),
      ),
    );
  }
  return parts;
}

function timeline(job) {
  let before = null;
  const items = (job.timeline ?? []).map((each) => {
    const moment = at(each.at);
    const later = before === null ? "" : `+${duration(moment - before)}`;
    before = moment;
    return h(
      "li",
      { class: each.event },
      h("time", { datetime: each.at, title: full(moment) }, clock(moment, true)),
      h("span", { class: "event" }, EVENTS[each.event] ?? visible(each.event)),
      h("small", {}, later),
      each.detail ? h("span", { class: "detail", dir: "auto" }, visible(each.detail)) : null,
    );
  });
  return items.length ? h("ol", { class: "timeline" }, ...items) : h("p", {}, "Nothing is recorded.");
}

function facts(job, now) {
  const { result, delivered, request } = job;
  const count = delivered?.count ?? 0;
  const rows = [
    ["Job", code(job.id)],
    ["Request", code(`${request.method} ${request.path}`)],
    ["Restore session", request.restoreSessionId && code(request.restoreSessionId)],
    ["Caller", code(job.owner)],
    ["Client", job.client && visible(job.client)],
    ["Origin", job.origin === "Rescue" ? `Synchronous request, rescued${job.joined ? `; joined ${plural(job.joined, "time")}` : ""}` : null],
    ["Replica", job.replica && code(job.replica)],
    ["Attempt", job.attempt ? String(job.attempt) : null],
    [ended(job) ? "Took" : "Age", duration(taken(job, now))],
    ["File", result?.fileName && h("bdi", {}, visible(result.fileName))],
    ["Size", result && bytes(result.size)],
    ["Type", result && `${result.format ?? "not known yet"}, ${visible(result.mediaType)}`],
    ["SHA-256", result?.sha256 && code(result.sha256)],
    ["Delivery", result && `${file(job)[0]}${count ? `, ${bytes(delivered.bytes)} in all, last ${clock(at(delivered.lastAt), true)}` : ""}`],
    ["File expires", available(job) ? clock(at(job.expirationTime), true) : null],
  ];
  return h(
    "dl",
    { class: "facts" },
    ...rows
      .filter(([, value]) => value)
      .flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]),
  );
}

function code(text) {
  return h("bdi", { class: "code" }, visible(text));
}

/** Ask for a confirmation, and return whether it was given. */
function confirmed({ question, text, confirm, harmless }) {
  const dialog = byId("confirm");
  setText(byId("confirm-title"), question);
  setText(byId("confirm-text"), text);
  const yes = byId("confirm-yes");
  setText(yes, confirm);
  yes.className = harmless ? "" : "danger";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

/** Show a sentence for a few seconds, and have a screen reader say it. */
export function toast(text, kind) {
  const box = h("div", { class: `toast ${kind}` }, text);
  const place = byId("toasts");
  place.append(box);
  // a modal dialog makes the rest of the page inert and covers it
  if (place.showPopover) {
    if (place.matches(":popover-open")) place.hidePopover();
    place.showPopover();
  }
  announce(text);
  setTimeout(() => {
    box.remove();
    if (!place.childElementCount && place.hidePopover && place.matches(":popover-open")) place.hidePopover();
  }, 6000);
}
