// Traces, newest first, by filters that stand in the address; a row opens the request's own page.
import { ask, enter } from "./access.js";
import { make, says, shows } from "./dom.js";
import { count, dollars, duration, moment } from "./formats.js";
import { open } from "./request.js";

const PAGE = 50;
const at = (id) => document.getElementById(id);
const [filters, list, listed, more, one] = ["filters", "list", "rows", "more", "one"].map(at);
let turn = 0;
let last = null; // the oldest that is shown
const seen = { models: new Set(), keys: new Set(), teams: new Set() };

function wanted() {
  const query = new URLSearchParams();
  for (const [name, value] of new FormData(filters)) if (String(value).trim()) query.set(name, String(value).trim());
  return query;
}

/** The filters as the API has them. */
function asked() {
  const query = wanted();
  const [hours, outcome] = [query.get("hours"), query.get("outcome")];
  query.delete("hours");
  query.delete("outcome");
  if (hours) query.set("since_s", Math.floor(Date.now() / 1000) - 3600 * Number(hours));
  if (outcome === "failed") query.set("failed", "1");
  else if (outcome) query.set("status", outcome);
  query.set("limit", String(PAGE));
  return query;
}

function recall() {
  const query = new URLSearchParams(location.search);
  for (const field of filters.elements) {
    if (!field.name || !query.has(field.name)) continue;
    const known = !field.options || [...field.options].some((option) => option.value === query.get(field.name));
    if (known) field.value = query.get(field.name);
  }
}

function route() {
  const id = new URLSearchParams(location.search).get("id");
  list.hidden = filters.hidden = Boolean(id);
  one.hidden = !id;
  if (id) void open(one, id, leaveOne);
  else if (!last) void load();
}

function leaveOne(event) {
  event.preventDefault();
  const query = wanted();
  history.pushState(null, "", query.size ? `?${query}` : location.pathname);
  route();
}

async function load() {
  const mine = ++turn;
  last = null;
  more.hidden = true;
  says(listed, "busy", "Loading …");
  await take(mine, asked(), []);
}

async function take(mine, query, before) {
  try {
    const found = await ask(`/v1/admin/traces?${query}`);
    if (mine !== turn) return;
    const rows = [...before, ...found.data];
    if (!rows.length) {
      says(listed, "empty", "No request fits. Traces appear a second after a request; sampling (traces.rate) and retention leave some out.");
      return;
    }
    last = rows.at(-1);
    shows(listed, make("ol", { class: "traces" }, ...rows.map(rowOf)));
    more.hidden = !found.has_more;
    more.onclick = () => {
      const next = asked();
      next.set("before_s", last.created_s);
      next.set("before_id", last.id);
      more.hidden = true;
      void take(++turn, next, rows);
    };
    suggest(found.data);
  } catch (error) {
    if (mine === turn) says(listed, "failed", error.message, load);
  }
}

function rowOf(row) {
  const failed = row.status >= 400;
  const link = make("a", { href: `?id=${row.id}`, class: "trace", "aria-label": `${moment(row.created_s, { seconds: true })}, ${row.model || "no model"}, ${row.status} ${row.finish}` },
    make("span", { class: "when" }, moment(row.created_s, { seconds: true })),
    make("span", { class: `chip ${failed ? "bad" : "good"}` }, `${row.status}`),
    make("span", { class: "what" }, make("b", {}, row.model || "no model"), make("span", { class: "fine" }, ` ${row.route.replace("/v1/", "")} · ${row.finish}`)),
    make("span", { class: "who fine" }, [row.team, row.feature].filter(Boolean).join(" / ")),
    make("span", { class: "number tokens-of" }, `${count(row.prompt_tokens)} → ${count(row.completion_tokens)}`),
    make("span", { class: "number" }, dollars(row.cost_nanousd)),
    make("span", { class: "number" }, duration(row.duration_us / 1e6)));
  link.addEventListener("click", (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
    event.preventDefault();
    const query = wanted();
    query.set("id", row.id);
    history.pushState(null, "", `?${query}`);
    route();
  });
  return make("li", {}, link);
}

/** What was seen is offered where one may type. */
function suggest(rows) {
  for (const row of rows) {
    for (const [kind, value] of [["models", row.model], ["keys", row.key], ["teams", row.team]]) {
      if (!value || seen[kind].has(value) || seen[kind].size >= 50) continue;
      seen[kind].add(value);
      at(`known-${kind}`).append(make("option", { value }));
    }
  }
}

filters.addEventListener("submit", (event) => {
  event.preventDefault();
  const query = wanted();
  history.replaceState(null, "", query.size ? `?${query}` : location.pathname);
  void load();
});
filters.addEventListener("change", () => filters.requestSubmit());
addEventListener("popstate", () => {
  filters.reset();
  recall();
  last = null;
  route();
});
recall();
void enter(() => {
  last = null;
  route();
});
