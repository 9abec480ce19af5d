// The stream of changes (/api/events), with a state that the page shows.

import { get, SignedOut } from "./api.js";

const FIRST_WAIT = 1000;
const LONGEST_WAIT = 15000;
// Milliseconds without an event after which the proxy is asked whether it still responds: nothing may have
// changed, and the comments that keep the stream open are not shown to scripts.
const SILENCE = 30000;

/**
 * Follow the stream. `handlers` has `job`, `removed` and `status` for events, and `connected`,
 * `lost` and `signedOut`.
 */
export function follow(handlers) {
  let source = null;
  let wait = FIRST_WAIT;
  let timer = 0;
  let watchdog = 0;

  function open() {
    source = new EventSource("/api/events");
    source.addEventListener("open", () => {
      wait = FIRST_WAIT;
      alive();
      handlers.connected();
    });
    for (const kind of ["job", "removed", "status"]) {
      source.addEventListener(kind, (event) => {
        alive();
        handlers[kind](JSON.parse(event.data));
      });
    }
    source.addEventListener("error", again);
  }

  function alive() {
    clearTimeout(watchdog);
    watchdog = setTimeout(ask, SILENCE);
  }

  async function ask() {
    try {
      handlers.status(await get("/api/status"));
      alive();
    } catch {
      again();
    }
  }

  // A stream that the server ends is opened again here and not by the browser, whose time between
  // two attempts differs and cannot be seen.
  async function again() {
    source.close();
    clearTimeout(watchdog);
    clearTimeout(timer);
    handlers.lost();
    const next = wait;
    wait = Math.min(LONGEST_WAIT, wait * 2);
    try {
      await get("/api/status");
      timer = setTimeout(open, Math.min(next, FIRST_WAIT));
    } catch (why) {
      if (why instanceof SignedOut) handlers.signedOut();
      else timer = setTimeout(again, next);
    }
  }

  open();
  return {
    retry() {
      wait = FIRST_WAIT;
      again();
    },
  };
}
