// What was spent, as the ledger has it: one question to the API becomes totals, bars, a table and
// files. What is looked at stands in the address, so it can be kept and sent on.
import { ask, enter } from "./access.js";
import { Bars } from "./bars.js";
import { cardsOf } from "./budgets.js";
import { make, says, set, shows } from "./dom.js";
import { asCsv, download } from "./files.js";
import { count, dollars, exactDollars, isoDay, short } from "./formats.js";

const DAY_S = 86_400;
const SERIES = 7; // what has a colour of its own; the rest is one more
const tokens = (line) => line.prompt_tokens + line.completion_tokens;
const MEASURES = {
  cost: { of: (line) => line.cost_nanousd, format: dollars, name: "Cost" },
  tokens: { of: tokens, format: short, name: "Tokens" },
  requests: { of: (line) => line.requests, format: short, name: "Requests" },
};
const SUMS = ["requests", "prompt_tokens", "cached_tokens", "completion_tokens", "cost_nanousd"];

const at = (id) => document.getElementById(id);
const [view, totals, picture, table, budgets] = ["view", "totals", "picture", "table", "budgets"].map(at);
const [csv, focus, filesSay] = ["csv", "focus", "files-say"].map(at);
const bars = new Bars(at("bars"));
let lines = []; // as the API answered last
let turn = 0; // an answer that comes after a later question is not shown

const chosen = (name) => view.elements[name].value;
const measure = () => MEASURES[chosen("measure")];

function remember() {
  const query = new URLSearchParams({ by: chosen("by"), days: chosen("days"), measure: chosen("measure") });
  history.replaceState(null, "", `?${query}`);
}

function recall() {
  for (const [name, value] of new URLSearchParams(location.search)) {
    const field = view.elements[name];
    if (!field) continue;
    const known = [...(field.options ?? field)].some((option) => option.value === value);
    if (known) field.value = value;
  }
}

function days() {
  const today = Math.floor(Date.now() / 1000 / DAY_S);
  const first = chosen("days") === "month" ? today - new Date().getUTCDate() + 1 : today - Number(chosen("days")) + 1;
  return Array.from({ length: today - first + 1 }, (_, index) => first + index);
}

async function load() {
  const mine = ++turn;
  says(totals, "busy", "Loading …");
  picture.hidden = table.hidden = true;
  const query = new URLSearchParams({ by: `day,${chosen("by")}`, since_s: days()[0] * DAY_S });
  try {
    const found = (await ask(`/v1/admin/spend?${query}`)).data;
    if (mine !== turn) return;
    lines = found;
    render();
  } catch (error) {
    if (mine === turn) says(totals, "failed", error.message, load);
  }
}

async function loadBudgets() {
  says(budgets, "busy", "Loading …");
  try {
    const [limits, forecasts] = await Promise.all([ask("/v1/admin/limits"), ask("/v1/admin/forecast")]);
    if (limits.data.length) shows(budgets, ...cardsOf(limits.data, forecasts.data));
    else says(budgets, "empty", "No limit binds what you see. One is set with: headrace budgets set team:NAME 250");
  } catch (error) {
    says(budgets, "failed", error.message, loadBudgets);
  }
}

function added(into, line) {
  for (const name of SUMS) into[name] = (into[name] ?? 0) + line[name];
  return into;
}

/** By group: its sums and the sums of each of its days, the largest first. */
function groupsOf() {
  const groups = new Map();
  for (const line of lines) {
    const name = line[chosen("by")];
    if (!groups.has(name)) groups.set(name, { name, days: new Map(), sums: {} });
    const group = groups.get(name);
    group.days.set(Number(line.day), added(group.days.get(Number(line.day)) ?? {}, line));
    added(group.sums, line);
  }
  return [...groups.values()].sort((one, other) => measure().of(other.sums) - measure().of(one.sums));
}

const shown = (name) => name || `no ${chosen("by")}`;

function render() {
  remember();
  csv.disabled = focus.disabled = !lines.length;
  if (!lines.length) {
    picture.hidden = table.hidden = true;
    says(totals, "empty", "Nothing was spent in this time.");
    return;
  }
  picture.hidden = table.hidden = false;
  const groups = groupsOf();
  renderTotals();
  renderBars(groups);
  renderTable(groups);
}

function renderTotals() {
  const all = lines.reduce(added, {});
  const tile = (name, value, more = "") => make("div", { class: "tile" }, make("span", { class: "fine" }, name), make("b", {}, value), make("span", { class: "fine" }, more));
  const cached = all.prompt_tokens ? `${Math.round((100 * all.cached_tokens) / all.prompt_tokens)} % of it from the prefix cache` : "";
  shows(totals,
    tile("Cost", dollars(all.cost_nanousd), `${dollars(all.cost_nanousd / Math.max(all.requests, 1))} a request`),
    tile("Requests", count(all.requests), `${count(all.requests / days().length)} a day`),
    tile("Prompt tokens", short(all.prompt_tokens), cached),
    tile("Completion tokens", short(all.completion_tokens), `${count(all.completion_tokens / Math.max(all.requests, 1))} a request`));
}

function renderBars(groups) {
  const { of, format, name } = measure();
  const all = days();
  const valuesOf = (group) => all.map((day) => (group.days.has(day) ? of(group.days.get(day)) : 0));
  const own = groups.length > SERIES + 1 ? groups.slice(0, SERIES) : groups;
  const series = own.map((group, index) => ({ name: shown(group.name), color: `s${index}`, values: valuesOf(group) }));
  const rest = groups.slice(own.length).map(valuesOf);
  if (rest.length) series.push({ name: `${rest.length} others`, color: "s7", values: all.map((_, day) => rest.reduce((sum, each) => sum + each[day], 0)) });
  bars.show({ days: all, series, format, whole: chosen("measure") !== "cost", label: `${name} by day and ${chosen("by")}; arrow keys walk through the days` });
  at("legend").replaceChildren(...series.map((each) => make("li", {}, make("span", { class: `dot ${each.color}` }), each.name)));
}

function renderTable(groups) {
  const whole = groups.reduce((sum, group) => sum + measure().of(group.sums), 0) || 1;
  at("group-name").textContent = chosen("by");
  at("share-name").textContent = `Share of ${measure().name.toLowerCase()}`;
  const number = (value) => make("td", { class: "number" }, value);
  at("rows").replaceChildren(...groups.map((group) => {
    const part = measure().of(group.sums) / whole;
    const share = make("td", { class: "number" }, set(make("span", { class: "share" }, `${(100 * part).toFixed(1)} %`), { "--share": part }));
    return make("tr", {}, make("th", { scope: "row" }, shown(group.name)), number(count(group.sums.requests)), number(short(group.sums.prompt_tokens)),
      number(short(group.sums.cached_tokens)), number(short(group.sums.completion_tokens)), number(dollars(group.sums.cost_nanousd)), share);
  }));
}

csv.addEventListener("click", () => {
  const rows = lines.map((line) => {
    const { day, cost_nanousd: cost, ...rest } = line;
    return { day: isoDay(Number(day)), ...rest, cost_usd: exactDollars(cost) };
  });
  download(`spend-by-${chosen("by")}.csv`, asCsv(rows));
  filesSay.textContent = `${count(rows.length)} rows were written.`;
});

focus.addEventListener("click", async () => {
  try {
    const rows = (await ask(`/v1/admin/spend/focus?since_s=${days()[0] * DAY_S}`)).data;
    if (rows.length) download("spend-focus.csv", asCsv(rows));
    filesSay.textContent = `${count(rows.length)} rows in FOCUS columns were written.`;
  } catch (error) {
    filesSay.textContent = error.message;
  }
});

view.addEventListener("submit", (event) => event.preventDefault());
view.addEventListener("change", (event) => {
  if (event.target.name === "measure") render();
  else void load();
});
recall();
void enter(() => {
  void load();
  void loadBudgets();
});
