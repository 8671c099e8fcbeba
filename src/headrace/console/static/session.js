// Who is logged in: asked of the service, shown beside the controls, ended on request.
// The session itself is in a cookie that no script can read; `csrf` goes with what the page sends.

const at = (id) => document.getElementById(id);
const [person, login, logout, keyField] = ["person", "login", "logout", "key-field"].map(at);

/** What the service says of this browser; {user: null} where nobody is logged in. */
export async function whoIsHere() {
  const response = await fetch("/auth/session");
  const session = response.ok ? await response.json() : { user: null };
  const here = Boolean(session.user);
  person.textContent = here ? session.name || session.user : "";
  person.title = here ? `${session.user}, ${session.role} of team ${session.team}` : "";
  [person.hidden, logout.hidden, login.hidden] = [!here, !here, here];
  if (keyField) keyField.hidden = here;
  return session;
}

/** Ends the session here, and then at the issuer where it has a page for that. */
export async function leave(csrf) {
  const response = await fetch("/logout", { method: "POST", headers: { "x-headrace-csrf": csrf } });
  if (!response.ok) return false;
  const { issuer_logout: url } = await response.json();
  location.assign(url ?? "/");
  return true;
}
