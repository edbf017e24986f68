"use strict";
// The page is complete without this: it only sorts and filters tables and shows spectra in place.
(() => {
  // Rows that show the spectrum of the row above them; nothing may be sorted while they are there.
  const close = (table) => {
    table.querySelectorAll("tr.spectrum").forEach((row) => row.remove());
    table.querySelectorAll("[aria-expanded=true]").forEach((link) => link.setAttribute("aria-expanded", "false"));
  };

  // A number by its size, words by their letters; a dash or nothing has no key and comes last.
  const keyOf = (cell, isNumber) => {
    const text = cell.textContent.trim();
    if (text === "" || text === "–") return null;
    return isNumber ? Number.parseFloat(text) : text.toLowerCase();
  };

  const makeSortable = (table) => {
    const body = table.tBodies[0];
    const heads = Array.from(table.tHead.rows[0].cells);
    const sortBy = (head, column) => {
      close(table);
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const isNumber = head.classList.contains("number");
      const keyed = Array.from(body.rows, (row) => [keyOf(row.cells[column], isNumber), row]);
      keyed.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null);
        const order = a < b ? -1 : a > b ? 1 : 0;
        return down ? -order : order;
      });
      body.append(...keyed.map(([, row]) => row));
    };
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => sortBy(head, column));
    });
  };

  // Choices are held against data-... of the rows, which may hold several words.
  const makeFilterable = (table, form) => {
    const rows = Array.from(table.tBodies[0].rows);
    const text = form.querySelector("input[type=search]");
    const choices = Array.from(form.querySelectorAll("select"));
    const filter = () => {
      close(table);
      const wanted = text.value.trim().toLowerCase();
      let count = 0;
      for (const row of rows) {
        const matches =
          row.textContent.toLowerCase().includes(wanted) &&
          choices.every((box) => !box.value || row.dataset[box.name].split(" ").includes(box.value));
        row.hidden = !matches;
        count += matches;
      }
      form.querySelector("output").textContent = count + " of " + rows.length + " rows";
    };
    form.hidden = false;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", filter);
    filter();
    // A link to a row that is filtered out shows it again.
    addEventListener("hashchange", () => {
      const row = document.getElementById(location.hash.slice(1));
      if (!row || !row.hidden || !table.contains(row)) return;
      form.reset();
      filter();
      row.scrollIntoView();
    });
  };

  const showSpectra = (table) => {
    const toggle = (row, link) => {
      const isOpen = link.getAttribute("aria-expanded") === "true";
      close(table);
      if (isOpen) return;
      const copy = document.getElementById("spectrum-" + link.dataset.spectrum).cloneNode(true);
      copy.removeAttribute("id");
      const below = document.createElement("tr");
      below.className = "spectrum";
      below.insertCell().colSpan = row.cells.length;
      below.cells[0].append(copy);
      row.after(below);
      link.setAttribute("aria-expanded", "true");
    };
    for (const link of table.querySelectorAll("a[data-spectrum]")) {
      const row = link.closest("tr");
      link.setAttribute("aria-expanded", "false");
      row.classList.add("opens");
      row.addEventListener("click", (event) => {
        event.preventDefault();
        toggle(row, link);
      });
    }
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    makeSortable(table);
    showSpectra(table);
    const form = document.querySelector('form[data-table="' + table.id + '"]');
    if (form) makeFilterable(table, form);
  }
})();
