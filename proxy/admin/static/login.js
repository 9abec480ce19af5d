// Signs in without leaving the page, so that an error is shown beside the field.

import { byId, setText } from "./dom.js";

const form = byId("login");
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  button.setAttribute("aria-busy", "true");
  setText(byId("failure"), "");
  try {
    const response = await fetch("/login", {
      method: "POST",
      headers: { "X-VB365-Admin": "1", "Content-Type": "application/x-www-form-urlencoded" },
      body: new URLSearchParams(new FormData(form)),
      credentials: "same-origin",
      redirect: "manual",
    });
    if (response.ok || response.type === "opaqueredirect") {
      location.assign("/");
      return;
    }
    setText(
      byId("failure"),
      response.status === 429
        ? "Too many wrong tokens. Try again in a minute."
        : response.status === 401
          ? "This token is wrong."
          : `The proxy answered ${response.status}.`,
    );
  } catch {
    setText(byId("failure"), "The proxy does not respond.");
  }
  button.removeAttribute("aria-busy");
  form.elements.token.select();
});
