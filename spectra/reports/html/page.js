"use strict";
// The page is complete without this: it only sorts and filters the table and shows spectra in place.
(() => {
  const table = document.getElementById("layer-table");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const heads = Array.from(table.tHead.rows[0].cells);

  const closeSpectra = () => {
    body.querySelectorAll("tr.spectrum").forEach((row) => row.remove());
    body.querySelectorAll("[aria-expanded=true]").forEach((link) => link.setAttribute("aria-expanded", "false"));
  };

  // Numbers before words; a dash, which is no number, always comes last.
  const keyOf = (row, column) => {
    const text = row.cells[column].textContent.trim();
    const value = Number.parseFloat(text);
    if (text === "–" || text === "") return null;
    return Number.isNaN(value) ? text.toLowerCase() : value;
  };
  const compare = (a, b) => {
    if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
    return typeof a === "number" ? -1 : 1;
  };

  const sortBy = (column) => {
    closeSpectra();
    const head = heads[column];
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const words = !head.classList.contains("number");
    const keyed = rows.map((row) => [words ? row.cells[column].textContent.trim().toLowerCase() || null : keyOf(row, column), row]);
    keyed.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return down ? compare(b, a) : compare(a, b);
    });
    body.append(...keyed.map(([, row]) => row));
  };

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sortBy(column));
  });

  const form = document.getElementById("filters");
  const text = document.getElementById("filter-text");
  const verdict = document.getElementById("filter-verdict");
  const role = document.getElementById("filter-role");
  const shown = document.getElementById("filter-count");
  const roleColumn = heads.findIndex((head) => head.dataset.column === "role");
  const filter = () => {
    closeSpectra();
    const wanted = text.value.trim().toLowerCase();
    let count = 0;
    for (const row of rows) {
      const matches =
        (!wanted || row.textContent.toLowerCase().includes(wanted)) &&
        (!verdict.value || row.dataset.verdict.split(" ").includes(verdict.value)) &&
        (!role.value || row.cells[roleColumn].textContent === role.value);
      row.hidden = !matches;
      count += matches;
    }
    shown.textContent = count + " of " + rows.length + " rows";
  };
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  [text, verdict, role].forEach((control) => control.addEventListener("input", filter));
  filter();

  const toggle = (row, link) => {
    const open = link.getAttribute("aria-expanded") === "true";
    closeSpectra();
    if (open) return;
    const figure = document.getElementById("spectrum-" + link.dataset.spectrum);
    const copy = figure.cloneNode(true);
    copy.removeAttribute("id");
    const cell = document.createElement("td");
    cell.colSpan = heads.length;
    cell.append(copy);
    const below = document.createElement("tr");
    below.className = "spectrum";
    below.append(cell);
    row.after(below);
    link.setAttribute("aria-expanded", "true");
  };
  for (const row of rows) {
    const link = row.querySelector("a[data-spectrum]");
    if (!link) continue;
    link.setAttribute("aria-expanded", "false");
    row.classList.add("opens");
    row.addEventListener("click", (event) => {
      event.preventDefault();
      toggle(row, link);
    });
  }

  // A link to a layer that is filtered out shows it again.
  const reveal = () => {
    const row = document.getElementById(location.hash.slice(1));
    if (!row || !row.hidden) return;
    form.reset();
    filter();
    row.scrollIntoView();
  };
  addEventListener("hashchange", reveal);
})();
