// The receivers of webhooks, and whether they get their notifications.

import { get } from "./api.js";
import { byId, h } from "./dom.js";
import { at, clock, number, visible } from "./format.js";

let receivers = [];

/** Return whether there is a receiver. */
export const anyone = () => receivers.length > 0;

/** Load the receivers, and show them. */
export async function loadReceivers() {
  receivers = (await get("/api/webhooks")).results;
  byId("webhooks-box").hidden = !anyone();
  byId("webhooks").replaceChildren(...receivers.map(item));
}

function item(receiver) {
  const { state, pending, nextTry, last } = receiver;
  const failing = state === "Stopped" || (last !== null && !last.delivered);
  const parts = [];
  if (state === "Stopped") parts.push("stopped: it responded with 410");
  else if (failing) parts.push(visible(last.outcome));
  if (pending) parts.push(`${number(pending)} waiting`);
  if (nextTry && failing) parts.push(`next try ${clock(at(nextTry))}`);
  if (!parts.length) parts.push(last === null ? "nothing sent yet" : `last notified ${clock(at(last.at))}`);
  return h(
    "li",
    {},
    h("bdi", { class: "code" }, visible(receiver.url)),
    h("small", { class: failing ? "bad" : null }, ` ${parts.join(", ")}`),
  );
}
