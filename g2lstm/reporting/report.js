"use strict";
// Values of the cells under the pointer or the keyboard's focus. Without this script all values of the heat map still show.
const MOVES = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]};
// With these keys an arrow is the browser's: Alt and Left go back.
const moved = (event) => event.altKey || event.ctrlKey || event.metaKey ? undefined : MOVES[event.key];

for (const heat of document.querySelectorAll(".heat")) {
  const out = heat.closest("figure").querySelector(".readout");
  const rows = [...heat.querySelectorAll("tbody tr")].map((row) => [...row.querySelectorAll("td")]);
  const words = [...heat.querySelectorAll("thead th.word")].map((head) => head.textContent);
  const tell = (cell) => {
    const name = cell.parentElement.querySelector("th").textContent;
    out.textContent = `${words[cell.cellIndex - 1]}: ${name} ${cell.dataset.value}`;
  };
  for (const cell of rows.flat().slice(1)) cell.tabIndex = -1;
  heat.addEventListener("pointerover", (event) => event.target.dataset.value && tell(event.target));
  heat.addEventListener("focusin", (event) => {
    if (!event.target.dataset.value) return;
    for (const cell of rows.flat()) cell.tabIndex = cell === event.target ? 0 : -1;
    tell(event.target);
  });
  heat.addEventListener("keydown", (event) => {
    const move = moved(event);
    const y = rows.findIndex((row) => row.includes(event.target));
    if (!move || y < 0) return;
    const next = rows[y + move[0]]?.[rows[y].indexOf(event.target) + move[1]];
    if (next) next.focus();
    event.preventDefault();
  });
}

for (const units of document.querySelectorAll(".units")) {
  const image = units.querySelector("img"), cross = units.querySelector(".cross");
  const out = units.closest("figure").querySelector(".readout");
  const words = JSON.parse(units.closest("[data-words]").dataset.words), rows = JSON.parse(units.dataset.units);
  const values = Uint8Array.from(atob(units.dataset.values), (c) => c.charCodeAt(0));
  let at = [0, 0];
  const show = (y, x) => {
    at = [Math.min(Math.max(y, 0), rows.length - 1), Math.min(Math.max(x, 0), words.length - 1)];
    const [width, height] = [image.clientWidth / words.length, image.clientHeight / rows.length];
    Object.assign(cross.style, {
      display: "block", left: `${at[1] * width}px`, top: `${at[0] * height - 2}px`,
      width: `${width}px`, height: `${height + 4}px`,
    });
    const value = values[at[0] * words.length + at[1]] / 255;
    const row = rows[at[0]];
    out.textContent = `${words[at[1]]}: ${row.length > 1 ? "units" : "unit"} ${row.join(", ")}, ${value.toFixed(2)}`;
  };
  const point = (event) => {
    const box = image.getBoundingClientRect();
    show(Math.floor((event.clientY - box.top) / box.height * rows.length),
      Math.floor((event.clientX - box.left) / box.width * words.length));
  };
  // A finger's tap moves no pointer.
  for (const kind of ["pointerdown", "pointermove", "click"]) units.addEventListener(kind, point);
  units.addEventListener("focus", () => show(...at));
  units.addEventListener("keydown", (event) => {
    const move = moved(event);
    if (!move) return;
    show(at[0] + move[0] * (event.shiftKey ? 10 : 1), at[1] + move[1]);
    event.preventDefault();
  });
}
