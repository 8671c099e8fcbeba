// Wires the page: controls -> one request at a time -> turns in the transcript.
// The key lives in sessionStorage only: it is gone with the tab.
import { ApiFailure, answer } from "./api.js";
import { leave, whoIsHere } from "./session.js";
import { hide } from "./tokens.js";
import { AnswerTurn, userTurn } from "./turn.js";

const at = (id) => document.getElementById(id);
const [composer, message, send, stop] = ["composer", "message", "send", "stop"].map(at);
const [transcript, empty, settings, toggle] = ["transcript", "empty", "settings", "toggle"].map(at);
const [model, system, temperature, maxTokens] = ["model", "system", "temperature", "max-tokens"].map(at);
const [probabilities, statusLine] = ["probabilities", "status"].map(at);
const key = at("key"); // only there where the service needs one

const KEY = "headrace.key";
let history = [];
let running = null; // the AbortController of the answer that grows now

let csrf = null; // of the session, where somebody is logged in
if (document.body.dataset.login === "yes") {
  const known = async () => {
    csrf = (await whoIsHere()).csrf ?? null;
  };
  void known();
  at("logout").addEventListener("click", async () => {
    if (!(await leave(csrf))) await known();
  });
}

if (key) {
  key.value = sessionStorage.getItem(KEY) ?? "";
  key.addEventListener("input", () => sessionStorage.setItem(KEY, key.value));
}

function openSettings(open) {
  settings.hidden = !open;
  toggle.setAttribute("aria-expanded", String(open));
}
openSettings(matchMedia("(min-width: 60rem)").matches);
toggle.addEventListener("click", () => openSettings(settings.hidden));

temperature.addEventListener("input", () => {
  at("temperature-shown").textContent = Number(temperature.value).toFixed(2).replace(/0$/, "");
});

function showProbabilities() {
  document.body.classList.toggle("probabilities", probabilities.checked);
  hide();
}
probabilities.addEventListener("change", showProbabilities);
showProbabilities(); // a reload may keep the switch on

function fitMessage() {
  message.style.height = "auto";
  message.style.height = `${message.scrollHeight + 2}px`;
}
message.addEventListener("input", fitMessage);

message.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  composer.requestSubmit();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    hide();
    running?.abort();
  }
});
transcript.addEventListener("scroll", hide, { passive: true });
stop.addEventListener("click", () => running?.abort());

at("new").addEventListener("click", () => {
  running?.abort();
  history = [];
  transcript.replaceChildren(empty);
  statusLine.textContent = "New conversation";
  message.focus();
});

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = message.value.trim();
  if (running || !text) return;
  if (key && !key.value && !csrf) {
    openSettings(true);
    statusLine.textContent = "This service needs an API key, or that you log in";
    key.focus();
    return;
  }
  if (!maxTokens.reportValidity()) return;
  message.value = "";
  fitMessage();
  void converse(text);
});

function requestOf(turns) {
  const opening = system.value.trim() ? [{ role: "system", content: system.value.trim() }] : [];
  return {
    model: model.value,
    messages: [...opening, ...turns],
    temperature: Number(temperature.value),
    maxTokens: maxTokens.value === "" ? null : Number(maxTokens.value),
    probabilities: probabilities.checked,
  };
}

async function converse(text) {
  const conversation = history;
  const turns = [...conversation, { role: "user", content: text }];
  const turn = new AnswerTurn(model.value);
  empty.remove();
  transcript.append(userTurn(text), turn.element);
  transcript.scrollTop = transcript.scrollHeight;
  const control = new AbortController();
  setRunning(control);
  statusLine.textContent = "Answering";
  try {
    for await (const piece of answer(requestOf(turns), { key: csrf ? null : key?.value, csrf, signal: control.signal })) {
      followEnd(() => turn.add(piece));
    }
    const facts = turn.end();
    statusLine.textContent = `Answer complete, ${facts}`;
  } catch (error) {
    if (control.signal.aborted) {
      turn.end({ stopped: true });
      statusLine.textContent = "Stopped";
    } else {
      turn.fail(error instanceof ApiFailure ? error.message : `The page failed: ${error}`);
      if (error.status === 401 && key) {
        openSettings(true);
        key.select();
      }
      if (!turn.text && !message.value) {
        message.value = text; // nothing was answered: the question is back, to be sent again
        fitMessage();
      }
    }
  }
  if (turn.text && conversation === history) {
    history = [...turns, { role: "assistant", content: turn.text }];
  }
  followEnd(() => {});
  if (running === control) setRunning(null);
}

function setRunning(control) {
  const hadFocus = document.activeElement === stop;
  running = control;
  send.hidden = Boolean(control);
  stop.hidden = !control;
  if (hadFocus) message.focus();
}

/** Change the transcript and stay at its end, unless the reader has scrolled away from it. */
function followEnd(change) {
  const atEnd = transcript.scrollHeight - transcript.scrollTop - transcript.clientHeight < 48;
  change();
  if (atEnd) transcript.scrollTop = transcript.scrollHeight;
}
