// Tokens with their log-probabilities become coloured spans; pointing at one, or walking to it with
// the arrow keys, shows its best rivals. Text of the model only ever becomes a text node.

const rivals = document.getElementById("rivals");
const known = new WeakMap();

/** What a token looks like: line ends get a sign, bytes that are no whole character are in hex. */
export function spelled(entry) {
  if (entry.token.includes("\uFFFD") && entry.bytes) {
    return `‹${entry.bytes.map((byte) => byte.toString(16).padStart(2, "0")).join(" ")}›`;
  }
  return entry.token.replaceAll("\n", "⏎\n");
}

/** As `spelled`, for a list of rivals: spaces visible, everything on one line. */
function named(entry) {
  const text = spelled(entry).replaceAll("⏎\n", "⏎").replaceAll(" ", "␣").replaceAll("\t", "⇥");
  return text === "" ? "(nothing visible)" : text;
}

export function percent(logprob) {
  const share = 100 * Math.exp(logprob);
  if (share >= 99.95) return "100 %";
  if (share >= 0.095) return `${share.toFixed(1)} %`;
  return "< 0.1 %";
}

export function spanOf(entry) {
  const span = document.createElement("span");
  span.className = "token";
  span.textContent = spelled(entry);
  span.tabIndex = -1;
  span.style.setProperty("--doubt", (1 - Math.exp(entry.logprob)).toFixed(3));
  span.setAttribute("aria-label", `${named(entry)}, ${percent(entry.logprob)}`);
  known.set(span, entry);
  return span;
}

/** Make the tokens in `box` answer to pointer, focus and arrow keys; one tab stop for all of them. */
export function listen(box) {
  box.addEventListener("pointerover", (event) => show(event.target));
  box.addEventListener("focusin", (event) => show(event.target));
  box.addEventListener("pointerleave", hide);
  box.addEventListener("focusout", hide);
  box.addEventListener("click", (event) => known.has(event.target) && step(box, event.target));
  box.addEventListener("keydown", (event) => {
    const at = event.target;
    if (!known.has(at)) return;
    const next = {
      ArrowRight: at.nextElementSibling,
      ArrowLeft: at.previousElementSibling,
      Home: box.firstElementChild,
      End: box.lastElementChild,
    }[event.key];
    if (!next) return;
    event.preventDefault();
    step(box, next);
  });
}

function step(box, to) {
  box.querySelector('[tabindex="0"]')?.setAttribute("tabindex", "-1");
  to.tabIndex = 0;
  to.focus();
}

function show(span) {
  const entry = known.get(span);
  if (!entry) return;
  const rows = entry.top_logprobs.map((rival) => rowOf(rival, rival.token === entry.token));
  if (!entry.top_logprobs.some((rival) => rival.token === entry.token)) rows.push(rowOf(entry, true));
  rivals.replaceChildren(...rows);
  rivals.hidden = false;
  span.setAttribute("aria-describedby", "rivals");
  const box = span.getClientRects()[0] ?? span.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = rivals;
  const below = box.bottom + height + 8 < innerHeight;
  rivals.style.left = `${Math.max(8, Math.min(box.left, innerWidth - width - 8))}px`;
  rivals.style.top = `${Math.max(8, below ? box.bottom + 6 : box.top - height - 6)}px`;
}

function rowOf(entry, chosen) {
  const row = document.createElement("div");
  row.className = chosen ? "rival chosen" : "rival";
  row.style.setProperty("--share", Math.exp(entry.logprob).toFixed(4));
  for (const text of [named(entry), percent(entry.logprob)]) {
    const cell = document.createElement("span");
    cell.textContent = text;
    row.append(cell);
  }
  return row;
}

export function hide() {
  rivals.hidden = true;
}
