// The dashboard: loads what the page shows, and follows the changes.

import { get, SignedOut } from "./api.js";
import { Charts } from "./charts.js";
import { Details, toast } from "./details.js";
import { byId, setAttribute, setText } from "./dom.js";
import { follow } from "./live.js";
import { showFigures, showVerdict } from "./overview.js";
import { announce, Table } from "./table.js";
import { loadReceivers } from "./webhooks.js";

// Milliseconds between two readings of the history.
const MINUTE = 60000;
// Milliseconds from a failure to the history being read again.
const SOON = 2000;
// Milliseconds for which a lost connection is no news: the proxy may be restarting.
const PATIENCE = 2000;

let status = null;
let clockSkew = 0;
let lostAt = null;
let connected = false;

/** Unix seconds of the proxy's clock. */
const now = () => Date.now() / 1000 + clockSkew;

const charts = new Charts();
const details = new Details({ now, changed: () => table.reload() });
const table = new Table({ now, open: (id) => details.open(id), failed: showFailure });

function showStatus(found) {
  status = found;
  if (found.now) clockSkew = Date.parse(found.now) / 1000 - Date.now() / 1000;
  draw();
}

function draw() {
  if (status === null) return;
  const gone = lostAt !== null && Date.now() / 1000 - lostAt >= PATIENCE / 1000;
  showVerdict(status, gone ? lostAt : null);
  showFigures(status, now());
}

function showFailure(why) {
  if (why instanceof SignedOut) signIn();
  else toast(why.message, "bad");
}

function signIn() {
  location.assign("/login");
}

/** Do what the page can do without: when it fails, the page stays as it is. */
async function attempt(work) {
  try {
    await work();
  } catch (why) {
    if (why instanceof SignedOut) signIn();
  }
}

function loadHistory() {
  attempt(() => charts.load());
  attempt(loadReceivers);
}

let due = 0;

/** Load the history soon, once for many exports that fail. */
function soon() {
  due = due || setTimeout(() => {
    due = 0;
    loadHistory();
  }, SOON);
}

function showLive(text, kind) {
  const pill = byId("live");
  setText(byId("live-text"), text);
  setAttribute(pill, "class", `live ${kind}`);
}

let complain = 0;
const stream = follow({
  connected() {
    clearTimeout(complain);
    const again = lostAt !== null;
    connected = true;
    lostAt = null;
    showLive("Live", "good");
    byId("again").hidden = true;
    if (again) announce("The connection to the proxy is back.");
    refresh();
  },
  lost() {
    if (connected || lostAt === null) {
      connected = false;
      lostAt = lostAt ?? Date.now() / 1000;
      complain = setTimeout(() => {
        announce("The connection to the proxy is lost.");
        draw();
      }, PATIENCE);
    }
    showLive("Reconnecting…", "bad");
    byId("again").hidden = false;
  },
  job(row) {
    if (row.phase === "Forgotten") {
      this.removed(row);
      return;
    }
    table.change(row);
    details.change(row);
    if (row.status === "Failed") soon();
  },
  removed({ id }) {
    details.gone(id);
    table.reload();
  },
  status: showStatus,
  signedOut: signIn,
});

/** Load everything: what has changed meanwhile is not known. */
async function refresh() {
  try {
    showStatus(await get("/api/status"));
  } catch (why) {
    showFailure(why);
    return;
  }
  table.load();
  loadHistory();
}

byId("again").addEventListener("click", () => stream.retry());

byId("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try {
    localStorage.setItem("theme", root.dataset.theme);
  } catch {
    // the choice lasts as long as the page
  }
  charts.redraw();
});

addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, select, textarea, dialog");
  if (event.key === "/" && !typing) {
    event.preventDefault();
    byId("search").elements.q.focus();
  }
});

setInterval(() => {
  if (document.hidden) return;
  table.tick();
  draw();
}, 1000);
setInterval(loadHistory, MINUTE);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && connected) refresh();
});

document.documentElement.classList.add("with-scripts");
setText(byId("zone"), `Times are local (${Intl.DateTimeFormat().resolvedOptions().timeZone}).`);
const asked = new URLSearchParams(location.search).get("job");
byId("plain-details")?.remove();
if (asked) details.open(asked);
