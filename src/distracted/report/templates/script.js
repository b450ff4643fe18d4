"use strict";

// Tables: a click on a heading sorts by its column, a second click reverses the order.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const body = table.tBodies[0];
      const key = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
      const words = head.classList.contains("text") && !body.rows[0]?.cells[column].querySelector(".bar");
      const compare = (a, b) => {
        const [x, y] = [key(a), key(b)];
        const [p, q] = words ? [NaN, NaN] : [parseFloat(x), parseFloat(y)];
        if (Number.isNaN(p) !== Number.isNaN(q)) return Number.isNaN(p) ? 1 : -1; // rows without a value come last
        const order = Number.isNaN(p) ? x.localeCompare(y, undefined, { numeric: true }) : p - q;
        return down ? -order : order;
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
}

// The gallery: filters by class and subject, and the choice of the Grad-CAM overlay.
const gallery = document.querySelector(".gallery");
if (gallery) {
  const cards = [...gallery.children];
  const selects = [...document.querySelectorAll("select[data-filter]")];
  const shown = document.getElementById("shown");
  const filter = () => {
    let number = 0;
    for (const card of cards) {
      card.hidden = selects.some((select) => select.value && card.dataset[select.dataset.filter] !== select.value);
      number += card.hidden ? 0 : 1;
    }
    shown.textContent = `${number} of ${cards.length} shown`;
  };
  for (const select of selects) {
    const values = [...new Set(cards.map((card) => card.dataset[select.dataset.filter]))];
    values.sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
    select.append(...values.map((value) => new Option(value, value)));
    select.addEventListener("change", filter);
  }
  for (const radio of document.querySelectorAll("input[name=show]")) {
    radio.addEventListener("change", () => { gallery.dataset.show = radio.value; });
  }
  filter();
}

document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
