// Who asks, on pages that read the API: a person's session, else a key that is kept for this tab,
// else nobody is asked for. What they may see is the API's to say; here nothing is decided.
import { ApiFailure, failureOf } from "./api.js";
import { leave, whoIsHere } from "./session.js";

const KEY = "headrace.key";
const at = (id) => document.getElementById(id);
const [gate, key, why, sheet, forget] = ["gate", "key", "gate-why", "sheet", "forget"].map(at);
const needed = document.body.dataset.auth === "key";
let here = false; // somebody is logged in

/** Find out who is here, then `show`; again whenever another key is given. */
export async function enter(show) {
  if (document.body.dataset.login === "yes") {
    const session = await whoIsHere().catch(() => ({ user: null }));
    here = Boolean(session.user);
    at("logout").addEventListener("click", () => leave(session.csrf));
  }
  gate.addEventListener("submit", (event) => {
    event.preventDefault();
    const given = key.value.trim();
    if (!given) return;
    sessionStorage.setItem(KEY, given);
    key.value = "";
    open();
    show();
  });
  forget.addEventListener("click", () => {
    sessionStorage.removeItem(KEY);
    askForKey("");
  });
  if (needed && !here && !sessionStorage.getItem(KEY)) askForKey("");
  else {
    open();
    show();
  }
}

/** GET a path of the API. Throws ApiFailure; where it wants a key, the page asks for one. */
export async function ask(path, { signal } = {}) {
  const held = here ? null : sessionStorage.getItem(KEY);
  let response;
  try {
    response = await fetch(path, { headers: held ? { authorization: `Bearer ${held}` } : {}, signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiFailure("The service cannot be reached. Is it still running?");
  }
  if (response.ok) return response.json();
  const failure = await failureOf(response);
  if (failure.status === 401) {
    sessionStorage.removeItem(KEY);
    askForKey(held ? failure.message : "");
  }
  throw failure;
}

function open() {
  gate.hidden = true;
  sheet.hidden = false;
  forget.hidden = here || !needed;
}

function askForKey(message) {
  gate.hidden = false;
  sheet.hidden = true;
  forget.hidden = true;
  why.textContent = message;
  why.hidden = !message;
  key.focus();
}
