"use strict";
// Values of the cells under the pointer or the keyboard's focus. Without this script all values of the heat map still show.
const MOVES = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]};

for (const heat of document.querySelectorAll(".heat")) {
  const out = heat.closest("figure").querySelector(".readout");
  const rows = [...heat.querySelectorAll("tbody tr")].map((row) => [...row.querySelectorAll("td")]);
  const words = [...heat.querySelectorAll("thead th.word")].map((head) => head.textContent);
  const tell = (cell) => {
    const name = cell.parentElement.querySelector("th").textContent;
    out.textContent = `${words[cell.cellIndex - 1]}: ${name} ${cell.dataset.value}`;
  };
  heat.addEventListener("pointerover", (event) => event.target.dataset.value && tell(event.target));
  heat.addEventListener("focusin", (event) => {
    if (!event.target.dataset.value) return;
    for (const cell of rows.flat()) cell.tabIndex = cell === event.target ? 0 : -1;
    tell(event.target);
  });
  heat.addEventListener("keydown", (event) => {
    const y = rows.findIndex((row) => row.includes(event.target));
    // With these keys an arrow is the browser's: Alt and Left go back.
    if (y < 0 || !MOVES[event.key] || event.altKey || event.ctrlKey || event.metaKey) return;
    const [down, right] = MOVES[event.key];
    rows[y + down]?.[rows[y].indexOf(event.target) + right]?.focus();
    event.preventDefault();
  });
}
