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
    const move = MOVES[event.key];
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
  const words = JSON.parse(units.dataset.words), names = JSON.parse(units.dataset.units);
  const values = Uint8Array.from(atob(units.dataset.values), (c) => c.charCodeAt(0));
  let at = [0, 0];
  const show = (y, x) => {
    at = [Math.min(Math.max(y, 0), names.length - 1), Math.min(Math.max(x, 0), words.length - 1)];
    const [width, height] = [image.clientWidth / words.length, image.clientHeight / names.length];
    Object.assign(cross.style, {
      display: "block", left: `${at[1] * width}px`, top: `${at[0] * height - 2}px`,
      width: `${width}px`, height: `${height + 4}px`,
    });
    const value = values[at[0] * words.length + at[1]] / 255;
    out.textContent = `${words[at[1]]}: ${names[at[0]]}, ${value.toFixed(2)}`;
  };
  units.addEventListener("pointermove", (event) => {
    const box = image.getBoundingClientRect();
    show(Math.floor((event.clientY - box.top) / box.height * names.length),
      Math.floor((event.clientX - box.left) / box.width * words.length));
  });
  units.addEventListener("focus", () => show(...at));
  units.addEventListener("keydown", (event) => {
    const move = MOVES[event.key];
    if (!move) return;
    show(at[0] + move[0] * (event.shiftKey ? 10 : 1), at[1] + move[1]);
    event.preventDefault();
  });
}
