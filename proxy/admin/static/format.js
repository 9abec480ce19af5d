// Values as text. proxy/admin/pages/wording.py has the same rules for the page without scripts.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
// Controls, marks that reorder text, and halves of a surrogate pair: shown by their number, so that no
// name can pretend to be another.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff]/gu;

/** Return text with its invisible characters shown. */
export function visible(text) {
  return String(text).replace(HIDDEN, (found) => {
    const number = found.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    return `⟨U+${number}⟩`;
  });
}

export function bytes(count) {
  if (count === null || count === undefined) return "–";
  let unit = 0;
  let value = count;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}

/** Return seconds as the two largest units: "36 s", "4 min 10 s", "2 h 5 min", "3 d 4 h". */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return "–";
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  const [large, small, rest, size] =
    whole < 3600
      ? ["min", "s", whole % 60, 60]
      : whole < 86400
        ? ["h", "min", Math.floor((whole % 3600) / 60), 3600]
        : ["d", "h", Math.floor((whole % 86400) / 3600), 86400];
  return `${Math.floor(whole / size)} ${large}${rest ? ` ${rest} ${small}` : ""}`;
}

/** Return seconds as one unit, for what need not be exact: "4 min", "3 d". */
export function rough(seconds) {
  return duration(seconds).split(" ").slice(0, 2).join(" ");
}

/** Return the Unix seconds of an RFC 3339 time, null for none. */
export function at(time) {
  return time ? Date.parse(time) / 1000 : null;
}

const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const EXACT = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
});
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

/** Return a time of today as "02:13" and of another day as "25 Nov 02:13", in local time. */
export function clock(seconds, exact = false) {
  if (seconds === null || seconds === undefined) return "–";
  const date = new Date(seconds * 1000);
  const time = (exact ? EXACT : CLOCK).format(date);
  return date.toDateString() === new Date().toDateString() ? time : `${DAY.format(date)} ${time}`;
}

export function full(seconds) {
  return seconds === null || seconds === undefined ? "" : new Date(seconds * 1000).toString();
}

export function number(value) {
  return Number(value).toLocaleString("en-GB");
}

export function plural(count, noun) {
  return `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
}

const VERBS = { exporttopst: "Export to PST", export: "Export", save: "Save" };
const ONE = { mailboxes: "mailbox", libraries: "library", onedrives: "OneDrive" };

/** Return what a job exports: the verb, and the object that its path names. */
export function subject(row) {
  const verb = VERBS[row.title.toLowerCase()] ?? visible(row.title);
  const parts = row.request.path.split("/").filter(Boolean).map(unescape);
  const start = parts.findIndex((part) => part.toLowerCase() === "organization");
  if (start < 0) return { verb, kind: visible(parts.at(-1) ?? ""), id: null };
  const named = parts.slice(start + 1, -1);
  if (named.length === 0) return { verb, kind: "organization", id: null };
  if (named.length % 2) return { verb, kind: visible(named.at(-1)), id: named.at(-2) ?? null };
  return { verb, kind: singular(named.at(-2)), id: named.at(-1) };
}

function singular(kind) {
  return ONE[kind.toLowerCase()] ?? visible(kind.replace(/s$/, ""));
}

function unescape(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** Return a long identifier as its beginning and end. */
export function short(id) {
  const text = visible(id);
  return text.length > 20 ? `${text.slice(0, 8)}…${text.slice(-6)}` : text;
}

/** Return whole seconds between two times of a row, null if one is missing. */
export function between(from, to) {
  return from && to ? at(to) - at(from) : null;
}
