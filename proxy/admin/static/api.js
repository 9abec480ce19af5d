// Requests to /api. Every failure is an Error with a sentence.

export class SignedOut extends Error {}

/** Send a request and return the JSON of its response, null without one. */
export async function call(method, path, body) {
  const fields = { Accept: "application/json" };
  if (method !== "GET") fields["X-VB365-Admin"] = "1";
  if (body !== undefined) fields["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: fields,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      credentials: "same-origin",
    });
  } catch {
    throw new Error("The proxy does not respond.");
  }
  const text = await response.text();
  let found = null;
  try {
    found = text ? JSON.parse(text) : null;
  } catch {
    // an error page of something in between
  }
  if (response.status === 401) throw new SignedOut("Sign in again.");
  if (!response.ok) throw new Error(reason(found) ?? `The proxy answered ${response.status}.`);
  return found;
}

function reason(found) {
  return found && (found.detail ?? found.message ?? found.error);
}

export const get = (path) => call("GET", path);

export const actions = {
  cancel: (id) => call("POST", `/api/jobs/${encodeURIComponent(id)}/cancel`),
  remove: (id) => call("DELETE", `/api/jobs/${encodeURIComponent(id)}`),
  release: (id) => call("DELETE", `/api/jobs/${encodeURIComponent(id)}/result`),
  notify: (id) => call("POST", `/api/jobs/${encodeURIComponent(id)}/webhooks/redeliver`),
  extend: (id, ttl) => call("POST", `/api/jobs/${encodeURIComponent(id)}/extend`, { ttl }),
};
